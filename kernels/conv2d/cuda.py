"""The launcher of conv2d/cuda.cu: the three passes of a convolution on a GPU, for the seam (__init__.py) and tests.

impl: "gemm", tiles of a product; "direct", plain sums, for groups of a few channels; None chooses by shape.
precision: gemm/__init__.py. float64 is computed in float64 whatever it says.
"""

from __future__ import annotations

import math
from typing import Any

from tinygen.kernels.cuda import ceildiv, empty, launch, ready, zeros

from ..gemm.cuda import add_slices, build, check, plan, shared, threads

PATH = "conv2d/cuda.cu"
IMPLS = ("direct", "gemm")
NARROW = 8  # channels of a group below which more than nine tenths of a tile would be empty
SLICES = 64  # of lines, for the direct weight gradient


def forward(x: Any, w: Any, *, stride: tuple, padding: tuple, dilation: tuple, groups: int, impl: str | None = None,
            bias: Any = None, residual: Any = None, precision: str = "float32") -> Any:
    """y = conv(x, w) + bias + residual: (N, OH, OW, F); bias (F,) and residual, shaped as y, or None."""
    check(x, w, "conv2d")
    N, H, W, C = x.shape
    kh, kw, c, F = w.shape
    out = [(n + sum(p) - d * (k - 1) - 1) // s + 1
           for n, p, d, k, s in zip((H, W), padding, dilation, (kh, kw), stride)]
    y = empty((N, *out, F), x.dtype)
    how = Geometry((N, H, W, C), (kh, kw, c, F), (out[0], out[1]), stride, padding, dilation, groups)
    x, w = ready(x), ready(w)
    bias, residual = (None if t is None else ready(t) for t in (bias, residual))
    if how.direct(impl):
        return how.plainly("direct_forward", (x, w, bias, residual), y, precision)
    f = F // groups
    return how.tiled("conv_forward", (x, w), y, precision, N * out[0] * out[1], f, kh * kw * c, 1,
                     (c % 4 == 0, f % 4 == 0), (bias, residual))


def input_grad(g: Any, w: Any, *, x_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int,
               impl: str | None = None, bias: Any = None, residual: Any = None, precision: str = "float32") -> Any:
    """The adjoint of conv in x, of g, + bias + residual: (N, H, W, C) = x_shape; bias (C,), residual as the result."""
    check(g, w, "conv2d")
    kh, kw, c, F = w.shape
    N, H, W, _ = x_shape
    gx = empty(tuple(x_shape), g.dtype)
    how = Geometry(x_shape, w.shape, g.shape[1:3], stride, padding, dilation, groups)
    g, w = ready(g), ready(w)
    bias, residual = (None if t is None else ready(t) for t in (bias, residual))
    if how.direct(impl):
        return how.plainly("direct_input_grad", (g, w, bias, residual), gx, precision)
    f = F // groups
    pixels = N * ceildiv(H, stride[0]) * ceildiv(W, stride[1])
    taps = ceildiv(kh, stride[0]) * ceildiv(kw, stride[1])
    return how.tiled("conv_input_grad", (g, w), gx, precision, pixels, c, taps * f, stride[0] * stride[1],
                     (f % 4 == 0, f % 4 == 0), (bias, residual))


def weight_grad(x: Any, g: Any, *, w_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int,
                impl: str | None = None, precision: str = "float32") -> Any:
    """The adjoint of conv in w, of g: (kh, kw, C/groups, F) = w_shape."""
    check(x, g, "conv2d")
    kh, kw, c, F = w_shape
    N, OH, OW, _ = g.shape
    how = Geometry(x.shape, w_shape, (OH, OW), stride, padding, dilation, groups)
    if not x.size or not g.size:
        return zeros(tuple(w_shape), x.dtype)
    gw = empty(tuple(w_shape), x.dtype)
    x, g = ready(x), ready(g)
    if how.direct(impl):
        return how.plainly("direct_weight_grad", (x, g), gw, precision, min(N * OH, SLICES))
    f = F // groups
    return how.tiled("conv_weight_grad", (x, g), gw, precision, kh * kw * c, f, N * OH * OW, 1,
                     (c % 4 == 0, f % 4 == 0))


class Geometry:
    """What the kernels are told of a convolution, in their order."""

    def __init__(self, x_shape: tuple, w_shape: tuple, out: tuple, stride: tuple, padding: tuple, dilation: tuple,
                 groups: int) -> None:
        (N, H, W, C), (kh, kw, c, F) = x_shape, w_shape
        if max(N * H * W, N * out[0] * out[1], kh * kw * max(c, F)) >= 2**30:
            raise ValueError(f"conv2d on the GPU counts pixels, and products of a sum, below 2³⁰; x is {x_shape}, w "
                             f"{w_shape}: divide the batch.")
        self.groups, self.channels = groups, (c, F // groups)
        self.numbers = (N, H, W, C, F, kh, kw, *out, groups, *stride, padding[0][0], padding[1][0], *dilation)

    def direct(self, impl: str | None) -> bool:
        """Plain sums, not tiles? Raises ValueError for an impl that the GPU does not know."""
        if impl not in (None, *IMPLS):
            raise ValueError(f"conv2d on the GPU knows impl {', '.join(map(repr, IMPLS))} and None; got {impl!r}.")
        return impl == "direct" if impl else self.groups > 1 and min(self.channels) < NARROW

    def tiled(self, kernel: str, inputs: tuple, y: Any, precision: str, M: int, N: int, K: int, phases: int,
              fours: tuple[bool, bool], epilogue: tuple = ()) -> Any:
        """Launch tiles of `groups` · `phases` products (M, K) by (K, N), and add up their slices."""
        if not y.size:
            return y
        tile, slices = plan(M, N, K, self.groups * phases, y.dtype)
        how = build(tile, precision, y.dtype, *fours)
        tiles = self.groups * phases * ceildiv(M, how["TILE"]) * ceildiv(N, how["TILE"])
        parts = y if slices == 1 else empty((slices, *y.shape), y.dtype)
        last = epilogue if slices == 1 else (None,) * len(epilogue)
        launch(PATH, kernel, (tiles, slices), threads(how), (*inputs, *last, parts, *self.numbers, y.size),
               shared=shared(how), **how)
        if slices > 1:
            add_slices(PATH, parts, y, how, *epilogue)
        return y

    def plainly(self, kernel: str, inputs: tuple, y: Any, precision: str, slices: int = 0) -> Any:
        """Launch a thread for each number of y, or of each slice of it."""
        if not y.size:
            return y
        how = build(64, precision, y.dtype, True, True)
        channels = y.shape[-1]
        blocks = ceildiv(math.prod(y.shape[:-1]), 256) * channels
        if not slices:
            launch(PATH, kernel, (blocks,), 256, (*inputs, y, *self.numbers), **how)
            return y
        parts = y if slices == 1 else empty((slices, *y.shape), y.dtype)
        launch(PATH, kernel, (blocks, slices), 256, (*inputs, parts, *self.numbers, y.size), **how)
        if slices > 1:
            add_slices(PATH, parts, y, how)
        return y


BUILDS: tuple[dict, ...] = (
    *({"TILE": tile, "PRECISION": p, "VA": a, "VB": b}
      for p in (0, 1, 2) for tile, a, b in ((128, 4, 4), (128, 1, 1), (64, 4, 4), (64, 1, 1), (64, 1, 4), (64, 4, 1))),
    {"REAL": "double", "TILE": 64},
)
