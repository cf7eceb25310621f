"""Batch normalisation over all axes but the last (Ioffe and Szegedy 2015, Algorithm 1). Derivation:
README.md.

The functions here hand an array to the code for its device.
"""

from typing import Any

from tinygen.kernels.seam import Seam

_module = Seam("batch_norm")


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
