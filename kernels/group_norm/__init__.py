"""Group normalisation (Wu and He 2018, eq. 1-3, 7), with SiLU fused in if asked. Derivation: README.md.

The functions here hand an array to the code for its device.
"""
from typing import Any

from tinygen.kernels.seam import Seam

_module = Seam("group_norm")


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
