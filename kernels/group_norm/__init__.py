"""Group normalisation (Wu and He 2018, eq. 1-3, 7), with SiLU fused in if asked. Derivation: README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device.
"""
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.cuda import is_device

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@cache
def _backend(kind: type) -> ModuleType:
    if issubclass(kind, np.ndarray):
        # Here, so that Numba is loaded by the first call and not by import.
        from tinygen.kernels.group_norm import cpu

        return cpu
    if is_device(kind):
        from tinygen.kernels.group_norm import cuda

        return cuda
    raise TypeError(f"the group-norm kernel runs on NumPy's arrays and a device's, and was given a {kind.__module__}."
                    f"{kind.__qualname__}.")


def _module(x: Any) -> ModuleType:
    kind: Any = type(x)
    module = _backend(kind)
    if x.dtype not in _FLOATS:
        raise TypeError(f"the group-norm kernel takes float32 or float64, not {x.dtype}: cast the input.")
    return module


def forward(x: Any, w: Any, b: Any, *, groups: int, eps: float, silu: bool) -> tuple[Any, Any]:
    """y = silu?((x - mean) / sqrt(var + eps) · w + b), mean and biased var over each sample's group of
    channels.

    x N,…,C float32 or float64; w, b (C,) of the same dtype; groups divides C. Returns y (shape and dtype of
    x) and the saved statistics, opaque, for `backward`. Raises TypeError for other dtypes and kinds of array.
    """
    return _module(x).forward(x, w, b, groups=groups, eps=eps, silu=silu)


def backward(
    g: Any, x: Any, w: Any, b: Any, *, groups: int, eps: float, silu: bool, hint: Any
) -> tuple[Any, Any, Any]:
    """Gradients (gx, gw, gb) of sum(g·y) for x, w, b; g like x; hint is what `forward` returned."""
    return _module(x).backward(g, x, w, b, groups=groups, eps=eps, silu=silu, hint=hint)
