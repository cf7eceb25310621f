"""2-D convolution in N, H, W, C: the forward form and its two adjoints. README.md derives them, loops.py
defines them; this file only chooses who computes them.

Shapes: x (N, H, W, C); w (kh, kw, C/groups, F); y and g (N, OH, OW, F) with
OH = (H + top + bottom − dh·(kh − 1) − 1) // sh + 1, and likewise OW. Both operands float32 or both float64.
stride = (sh, sw), padding = ((top, bottom), (left, right)), dilation = (dh, dw); groups divides C and F.
impl names an algorithm (choice.py lists them); None takes the one that is fastest for the shape. precision: "float32",
or "tf32" or "bf16", to which float32 operands are rounded as they enter the products (kernels/gemm); sums are float32.
The geometry is trusted: callers validate it.
"""

from __future__ import annotations

import numpy as np

from ..cuda import is_device
from .choice import IMPLS, TILES, choose

__all__ = ["IMPLS", "choose", "forward", "input_grad", "weight_grad"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def forward(x: np.ndarray, w: np.ndarray, *, stride: Pair, padding: Padding, dilation: Pair, groups: int,
            impl: str | None = None, bias: np.ndarray | None = None, residual: np.ndarray | None = None,
            precision: str = "float32") -> np.ndarray:
    """y = conv(x, w) + bias + residual: (N, OH, OW, F), C-contiguous; bias (F,), residual like y, or None. Raises
    TypeError for arrays no kernel here serves, ValueError for an impl that does not apply."""
    if is_device(type(x)):
        from . import cuda

        return cuda.forward(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
                            bias=bias, residual=residual, precision=precision)
    _check(x, w)
    if precision != "float32":
        x, w = _rounded(x, w, precision)
    (top, bottom), (left, right) = padding
    size = x.shape[1] + top + bottom - 2, x.shape[2] + left + right - 2  # for 3×3, where it is used
    name = choose(impl, w.shape[:2], stride, dilation, groups, x.shape[0], size, *w.shape[2:])
    module, how = _algorithm(name, stride, dilation, groups)
    y = module.forward(x, w, padding=padding, **how)
    if bias is not None:
        y += bias
    if residual is not None:
        y += residual
    return y


def input_grad(g: np.ndarray, w: np.ndarray, *, x_shape: tuple[int, int, int, int], stride: Pair, padding: Padding,
               dilation: Pair, groups: int, impl: str | None = None, bias: np.ndarray | None = None,
               precision: str = "float32") -> np.ndarray:
    """The adjoint of `forward` in x, applied to g, + bias: (N, H, W, C) = x_shape; bias (C,) or None. The transposed
    convolution."""
    if is_device(type(g)):
        from . import cuda

        return cuda.input_grad(g, w, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
                               impl=impl, bias=bias, precision=precision)
    _check(g, w)
    if precision != "float32":
        g, w = _rounded(g, w, precision)
    name = choose(impl, w.shape[:2], stride, dilation, groups, x_shape[0], x_shape[1:3], w.shape[3], w.shape[2])
    module, how = _algorithm(name, stride, dilation, groups)
    gx = module.input_grad(g, w, x_shape=x_shape, padding=padding, **how)
    if bias is not None:
        gx += bias
    return gx


def weight_grad(x: np.ndarray, g: np.ndarray, *, w_shape: tuple[int, int, int, int], stride: Pair, padding: Padding,
                dilation: Pair, groups: int, impl: str | None = None, precision: str = "float32") -> np.ndarray:
    """The adjoint of `forward` in w, applied to g: (kh, kw, C/groups, F) = w_shape."""
    if is_device(type(x)):
        from . import cuda

        return cuda.weight_grad(x, g, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
                                impl=impl, precision=precision)
    _check(x, g)
    if precision != "float32":
        x, g = _rounded(x, g, precision)
    name = choose(impl, w_shape[:2], stride, dilation, groups, g.shape[0], g.shape[1:3], *w_shape[2:])
    module, how = _algorithm(name, stride, dilation, groups)
    return module.weight_grad(x, g, w_shape=w_shape, padding=padding, **how)


def _algorithm(name: str, stride: Pair, dilation: Pair, groups: int):
    """The module that computes it and what else it needs to know. Imported here, not above: importing Numba takes
    longer than importing the whole engine."""
    if name in TILES:
        from . import winograd

        return winograd, {"tile": TILES[name]}
    how = {"stride": stride, "dilation": dilation, "groups": groups}
    if name == "direct":
        from . import direct

        return direct, how
    from . import cpu

    return cpu, how


def _rounded(a: np.ndarray, b: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    from ..gemm import round_to

    return round_to(a, precision), round_to(b, precision)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    """Refuse what no kernel here computes on."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype == b.dtype and a.dtype in (np.float32, np.float64):
            return
        raise TypeError(
            f"conv2d got arrays of {a.dtype} and {b.dtype}; it needs both float32 or both float64: "
            "convert one with .astype(...)."
        )
    kinds = " and ".join(f"{type(t).__module__}.{type(t).__name__}" for t in (a, b))
    raise TypeError(
        f"conv2d got {kinds}; it needs both on the CPU, numpy.ndarray, or both on the GPU, cupy.ndarray: move one."
    )
