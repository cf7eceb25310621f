"""2-D convolution in N, H, W, C: the forward form and its two adjoints. README.md derives them, loops.py
defines them; this file only chooses who computes them.

Shapes: x (N, H, W, C); w (kh, kw, C/groups, F); y and g (N, OH, OW, F) with
OH = (H + top + bottom − dh·(kh − 1) − 1) // sh + 1, and likewise OW. Both operands float32 or both float64.
stride = (sh, sw), padding = ((top, bottom), (left, right)), dilation = (dh, dw); groups divides C and F.
The geometry is trusted: callers validate it.
"""

from __future__ import annotations

import numpy as np

__all__ = ["forward", "input_grad", "weight_grad"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def forward(
    x: np.ndarray, w: np.ndarray, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> np.ndarray:
    """y = conv(x, w): (N, OH, OW, F), C-contiguous. Raises TypeError for arrays no kernel here serves."""
    return _impl(x, w).forward(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)


def input_grad(
    g: np.ndarray,
    w: np.ndarray,
    *,
    x_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """The adjoint of `forward` in x, applied to g: (N, H, W, C) = x_shape. The transposed convolution."""
    return _impl(g, w).input_grad(
        g, w, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def weight_grad(
    x: np.ndarray,
    g: np.ndarray,
    *,
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """The adjoint of `forward` in w, applied to g: (kh, kw, C/groups, F) = w_shape."""
    return _impl(x, g).weight_grad(
        x, g, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def _impl(a: np.ndarray, b: np.ndarray):
    """The module that computes on arrays like these. The seam: a CUDA launcher is one more branch here."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype == b.dtype and a.dtype in (np.float32, np.float64):
            from . import cpu  # here, not above: importing Numba takes longer than importing the whole engine

            return cpu
        raise TypeError(
            f"conv2d got arrays of {a.dtype} and {b.dtype}; it needs both float32 or both float64: "
            "convert one with .astype(...)."
        )
    kinds = " and ".join(f"{type(t).__module__}.{type(t).__name__}" for t in (a, b))
    raise TypeError(
        f"conv2d got {kinds}; the only kernel is the CPU's, which needs numpy.ndarray for both: "
        "move the arrays to the CPU first."
    )
