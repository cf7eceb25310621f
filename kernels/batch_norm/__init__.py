"""Batch normalisation over all axes but the last (Ioffe and Szegedy 2015, Algorithm 1). Derivation:
README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device.
"""

from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.cuda import is_device


def _module(x: Any) -> ModuleType:
    if isinstance(x, np.ndarray):
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(f"the batch-norm kernel takes float32 or float64, not {x.dtype}; cast the input.")
        from tinygen.kernels.batch_norm import cpu  # here: Numba is loaded by the first call, not by import

        return cpu
    if is_device(type(x)):
        if x.dtype != np.float32:
            raise TypeError(f"on a GPU the batch-norm kernel takes float32, not {x.dtype}; use the law (impl='law').")
        from tinygen.kernels.batch_norm import cuda

        return cuda
    raise TypeError("the batch-norm kernel runs on NumPy's arrays and a device's, and was given a "
                    f"{type(x).__module__}.{type(x).__qualname__}.")


def forward(x: Any, w: Any, b: Any, *, eps: float) -> tuple[tuple[Any, Any, Any], Any]:
    """y = (x − mean) / √(var + eps) · w + b, mean and biased var of each channel over all other axes.

    x N,…,C float32 or float64, not empty; w, b (C,) of the same dtype. Returns (y, mean, var), y like x and
    the two (C,), and the saved statistics, opaque, for `backward`. Raises TypeError for other dtypes and
    kinds of array.
    """
    return _module(x).forward(x, w, b, eps=eps)


def backward(
    g: tuple[Any, Any, Any], x: Any, w: Any, b: Any, *, eps: float, hint: Any
) -> tuple[Any, Any, Any]:
    """Gradients (gx, gw, gb) of sum(g[0]·y) + sum(g[1]·mean) + sum(g[2]·var); hint is what `forward`
    returned."""
    return _module(x).backward(g, x, w, b, eps=eps, hint=hint)
