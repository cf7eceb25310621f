"""Enlarging images by whole factors, nearest neighbour, and the adjoint of that, sums over blocks. README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device.
"""

from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.cuda import is_device


def _module(x: Any) -> ModuleType:
    if isinstance(x, np.ndarray):
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(f"the resize kernel takes float32 or float64, not {x.dtype}; cast the input.")
        from tinygen.kernels.resize import cpu  # here: Numba is loaded by the first call, not by import

        return cpu
    if is_device(type(x)):
        if x.dtype != np.float32:
            raise TypeError(f"on a GPU the resize kernel takes float32, not {x.dtype}; cast the input.")
        from tinygen.kernels.resize import cuda

        return cuda
    raise TypeError("the resize kernel runs on NumPy's arrays and a device's, and was given a "
                    f"{type(x).__module__}.{type(x).__qualname__}.")


def nearest(x: Any, *, scale: tuple[int, int]) -> Any:
    """y[n, i, j, c] = x[n, ⌊i/s_h⌋, ⌊j/s_w⌋, c]: (N, H, W, C) -> (N, H·s_h, W·s_w, C)."""
    return _module(x).nearest(x, scale)


def block_sum(g: Any, *, scale: tuple[int, int]) -> Any:
    """The sum over each block of s_h × s_w pixels, the adjoint of `nearest`: (N, H·s_h, W·s_w, C) -> (N, H, W, C)."""
    return _module(g).block_sum(g, scale)
