"""Pooling over windows of images N, H, W, C: sums, means, maxima, each with its adjoint.

A window is walked over tap by tap: for each, a strided slice of the input goes to a strided slice of the
output (`strided_taps`). Padding is never made; a tap that falls on it is left out.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import numpy as np

from .. import backend
from ..errors import ShapeError
from ..kernels import resize as kernel
from ..tape import op
from ..tensor import Tensor, wrap
from .reduce import mean

# ---- attributes


def check_image(x) -> None:
    """Raises ShapeError unless x has four axes."""
    if x.ndim != 4:
        raise ShapeError(f"an image batch has axes N, H, W, C; this array has {x.ndim}.")


def as_pair(value: Any, what: str, low: int = 1) -> tuple[int, int]:
    """An int, or one for each of H and W, as a pair."""
    pair = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and v >= low for v in pair):
        raise ShapeError(f"{what} must be an integer >= {low}, or a pair of them for H and W, not {value!r}.")
    return int(pair[0]), int(pair[1])


def as_padding(value: Any, low: int | None = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """p, (p_h, p_w) or ((top, bottom), (left, right)) as the last of these."""
    pairs = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    pairs = tuple((p, p) if isinstance(p, (int, np.integer)) else tuple(p) for p in pairs)
    if [len(p) for p in pairs] != [2, 2] or low is not None and min(min(p) for p in pairs) < low:
        raise ShapeError(f"padding must be p, (p_h, p_w) or ((top, bottom), (left, right)), not {value!r}.")
    return pairs  # type: ignore[return-value]


@lru_cache(maxsize=1024)
def strided_taps(n: int, out: int, size: int, up: int, down: int, before: int) -> tuple:
    """For each tap t < size: (t, the outputs i, the inputs j that it joins), where up·j = down·i + t −
    before."""
    found = []
    for t in range(size):
        i = next((i for i in range(up) if (down * i + t - before) % up == 0), None)
        if i is None:
            continue  # this tap meets inserted zeros only
        step_i, step_j = up // math.gcd(up, down), down // math.gcd(up, down)
        j = (down * i + t - before) // up
        skip = max(0, -(j // step_j))
        i, j = i + skip * step_i, j + skip * step_j
        count = min(-(-(out - i) // step_i), -(-(n - j) // step_j))
        if count > 0:
            last_i, last_j = i + (count - 1) * step_i, j + (count - 1) * step_j
            found.append((t, slice(i, last_i + 1, step_i), slice(j, last_j + 1, step_j)))
    return tuple(found)


# ---- sums and means


def repeat_pixels(xp, x, scale: tuple[int, int]):
    """The array with each pixel repeated scale[0] times along H and scale[1] times along W."""
    if x.dtype == np.float32:
        return kernel.nearest(x, scale=scale)
    (n, h, w, c), (sh, sw) = x.shape, scale
    y = xp.empty((n, h, sh, w, sw, c), x.dtype)
    y[...] = x[:, :, None, :, None, :]
    return y.reshape(n, h * sh, w * sw, c)


def _prepare_pool(x, *, size, stride, padding):
    check_image(x)
    size = as_pair(size, "size")
    stride, padding = size if stride is None else as_pair(stride, "stride"), as_padding(padding)
    for n, k, p in zip(x.shape[1:3], size, padding):
        if max(p) >= k:
            raise ShapeError(f"pooling needs padding smaller than its window; {p} for a window of {k}.")
        if n + sum(p) < k:
            raise ShapeError(f"pooling needs a window that fits; {k} > {n} + {sum(p)} (padding).")
    return {"size": size, "stride": stride, "padding": padding}


def _prepare_unpool(values, *, shape, size, stride, padding):
    return {"shape": shape, "size": size, "stride": stride, "padding": padding}


def _pooled(shape, size, stride, padding) -> list[int]:
    return [(n + sum(p) - k) // s + 1 for n, k, s, p in zip(shape[1:3], size, stride, padding)]


def _pool_taps(shape, size, stride, padding):
    """The taps along H and those along W."""
    each = zip(shape[1:3], _pooled(shape, size, stride, padding), size, stride, padding)
    return [strided_taps(n, out, k, 1, s, p[0]) for n, out, k, s, p in each]


def _pool_flops(x, *rest, size, stride, padding):
    return x.shape[0] * x.shape[3] * math.prod(_pooled(x.shape, size, stride, padding)) * math.prod(size)


@op(flops=_pool_flops, prepare=_prepare_pool)
def sum_pool2d(xp, x, *, size, stride=None, padding=0):
    """y[n, i, j, c] = Σ x over the window of `size` whose corner is (i·s_h − top, j·s_w − left); x = 0
    outside.

    size, stride: int or pair, stride = size by default; padding: p, (p_h, p_w) or ((top, bottom), (left,
    right)). A row or column at the end that no whole window covers is left out."""
    out = _pooled(x.shape, size, stride, padding)
    tiled = size == stride and (out[0] * size[0], out[1] * size[1]) == x.shape[1:3] and not any(map(any, padding))
    if tiled and x.dtype == np.float32:
        return kernel.block_sum(x, scale=size)
    for axis, taps in enumerate(_pool_taps(x.shape, size, stride, padding), start=1):
        before = (slice(None),) * axis
        if padding[axis - 1] == (0, 0) and len(taps) > 1:
            first, second, *taps = taps  # each tap reaches every window: no need to begin with zeros
            y = x[(*before, first[2])] + x[(*before, second[2])]
        else:
            y = xp.zeros((*x.shape[:axis], out[axis - 1], *x.shape[axis + 1 :]), x.dtype)
        for _, at, of in taps:
            y[(*before, at)] += x[(*before, of)]
        x = y
    return x


@op(flops=lambda values, shape, size, stride, padding: values.size * math.prod(size), prepare=_prepare_unpool)
def sum_unpool2d(xp, values, *, shape, size, stride, padding):
    """Each value added to every pixel of its window, in an image of `shape`; the adjoint of sum_pool2d."""
    if size == stride and (values.shape[1] * size[0], values.shape[2] * size[1]) == tuple(shape[1:3]):
        return repeat_pixels(xp, values, size)  # the windows tile the image
    for axis, taps in enumerate(_pool_taps(shape, size, stride, padding), start=1):
        before = (slice(None),) * axis
        y = xp.zeros((*values.shape[:axis], shape[axis], *values.shape[axis + 1 :]), values.dtype)
        for _, at, of in taps:
            y[(*before, of)] += values[(*before, at)]
        values = y
    return values


sum_pool2d.vjp(
    x=lambda g, x_shape, size, stride, padding: sum_unpool2d(
        g, shape=x_shape, size=size, stride=stride, padding=padding
    )
)
sum_unpool2d.vjp(
    values=lambda g, size, stride, padding: sum_pool2d(g, size=size, stride=stride, padding=padding)
)


def _one_over_counts(xp, shape, size, stride, padding, dtype):
    """1 / the number of pixels, without padding, in each window: (H', W', 1)."""
    ones = xp.ones((1, *shape[1:3], 1), dtype)
    return 1 / sum_pool2d.forward(xp, ones, size=size, stride=stride, padding=padding)[0]


def avg_pool2d(x: Tensor, size, stride=None, padding=0, count_include_pad: bool = True) -> Tensor:
    """The mean over windows, (N, H, W, C) -> (N, H', W', C) with H' = ⌊(H + top + bottom − size) / stride⌋ +
    1.

    Arguments as for sum_pool2d. count_include_pad: padding counts as pixels of value 0; False: the mean is
    over the pixels inside the image. Both as in PyTorch. Raises ShapeError for a window that does not fit."""
    total = sum_pool2d(x, size=size, stride=stride, padding=padding)
    if count_include_pad or padding == 0:
        return total * (1 / math.prod(as_pair(size, "size")))
    attrs = _prepare_pool(x.data, size=size, stride=stride, padding=padding)
    return total * wrap(_one_over_counts(backend.array_module([x.data]), x.shape, **attrs, dtype=x.dtype), None)


def global_avg_pool(x: Tensor) -> Tensor:
    """The mean over H and W: (N, H, W, C) -> (N, C)."""
    return mean(x, axis=(1, 2))


# ---- max pooling


def _windows(shape, size, stride, padding):
    """For each place t in the window, row by row: (t, index of the outputs, index of the inputs it joins)."""
    rows, columns = _pool_taps(shape, size, stride, padding)
    for (k, i, h), (l, j, w) in itertools.product(rows, columns):
        yield k * size[1] + l, (slice(None), i, j), (slice(None), h, w)


@op(flops=_pool_flops, prepare=_prepare_pool)
def max_pool2d(xp, x, *, size, stride=None, padding=0):
    """y[n, i, j, c] = max x over the window of (i, j); padding never wins. Arguments as for sum_pool2d.

    The gradient goes to the first of the largest entries, row by row."""
    out = (x.shape[0], *_pooled(x.shape, size, stride, padding), x.shape[3])
    y = xp.full(out, -math.inf, x.dtype)
    for _, at, of in _windows(x.shape, size, stride, padding):
        xp.maximum(y[at], x[of], out=y[at])
    return y


@op(flops=_pool_flops)
def max_pool2d_taps(xp, x, y, *, size, stride, padding):
    """Which place t in the window, counted row by row, holds the maximum y; the first one where tied."""
    none = math.prod(size)
    taps = xp.full(y.shape, none, np.uint8 if none < 256 else np.int32)
    for t, at, of in _windows(x.shape, size, stride, padding):
        here = (x[of] == y[at]).astype(taps.dtype)
        xp.minimum(taps[at], none - (none - t) * here, out=taps[at])  # t where here; a masked store is slower
    return taps


@op(flops=_pool_flops)
def pick_pool2d(xp, x, taps, *, size, stride, padding):
    """y = the entry of x at place `taps` of each window."""
    y = xp.zeros(taps.shape, x.dtype)
    for t, at, of in _windows(x.shape, size, stride, padding):
        y[at] += x[of] * (taps[at] == t)
    return y


@op(flops=lambda values, taps, shape, size, stride, padding: values.size * math.prod(size))
def pick_unpool2d(xp, values, taps, *, shape, size, stride, padding):
    """Each value added to the pixel at place `taps` of its window, in zeros of `shape`; adjoint of
    pick_pool2d."""
    y = xp.zeros(shape, values.dtype)
    for t, at, of in _windows(shape, size, stride, padding):
        y[of] += values[at] * (taps[at] == t)
    return y


def _max_pool_rule(g, x, y, x_shape, size, stride, padding):
    window = {"size": size, "stride": stride, "padding": padding}
    return pick_unpool2d(g, max_pool2d_taps(x, y, **window), shape=x_shape, **window)


max_pool2d.vjp(x=_max_pool_rule)
max_pool2d_taps.vjp(x=None, y=None)
pick_pool2d.vjp(
    x=lambda g, taps, x_shape, size, stride, padding: pick_unpool2d(
        g, taps, shape=x_shape, size=size, stride=stride, padding=padding
    )
)
pick_unpool2d.vjp(
    values=lambda g, taps, size, stride, padding: pick_pool2d(
        g, taps, size=size, stride=stride, padding=padding
    )
)
