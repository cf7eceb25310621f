"""Changing the resolution of images N, H, W, C: pixel shuffles, resizing, pooling and FIR filters.

All of these but max pooling are linear in the image, and each comes with its adjoint, so that every pair is closed
under differentiation: the rule of the one is the other.

Pooling and filters walk over the taps of the window: for each, a strided slice of the input goes to a strided slice
of the output (`_taps`). Padding and inserted zeros are never made; a tap that falls on them is left out.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..tape import op
from ..tensor import Tensor, wrap
from .index import scatter_along_axis
from .reduce import mean
from .shape import reshape

# ---- attributes


def _image(x) -> None:
    if x.ndim != 4:
        raise ShapeError(f"an image batch has axes N, H, W, C; this array has {x.ndim}.")


def _pair(value: Any, what: str, low: int = 1) -> tuple[int, int]:
    """An int, or one for each of H and W, as a pair."""
    pair = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and v >= low for v in pair):
        raise ShapeError(f"{what} must be an integer of at least {low}, or a pair of them for H and W, not {value!r}.")
    return int(pair[0]), int(pair[1])


def _padding(value: Any, low: int | None = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """p, (p_h, p_w) or ((top, bottom), (left, right)) as the last of these."""
    pairs = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    pairs = tuple((p, p) if isinstance(p, (int, np.integer)) else tuple(p) for p in pairs)
    if [len(p) for p in pairs] != [2, 2] or low is not None and min(min(p) for p in pairs) < low:
        raise ShapeError(f"padding must be p, (p_h, p_w) or ((top, bottom), (left, right)), not {value!r}.")
    return pairs  # type: ignore[return-value]


@lru_cache(maxsize=1024)
def _taps(n: int, out: int, size: int, up: int, down: int, before: int) -> tuple[tuple[int, slice, slice], ...]:
    """For each tap t < size: the outputs i and the inputs j that it joins, up·j = down·i + t − before."""
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
            found.append((t, slice(i, i + (count - 1) * step_i + 1, step_i), slice(j, j + (count - 1) * step_j + 1, step_j)))
    return tuple(found)


# ---- pixel shuffles


def _prepare_depth(x, *, block):
    _image(x)
    if block < 1 or x.shape[3] % block**2:
        raise ShapeError(f"depth_to_space needs channels divisible by block² = {block**2}; {x.shape[3]} are not.")
    return {"block": block}


def _prepare_space(x, *, block):
    _image(x)
    if block < 1 or x.shape[1] % block or x.shape[2] % block:
        raise ShapeError(f"space_to_depth needs H and W divisible by block = {block}; {x.shape[1:3]} are not.")
    return {"block": block}


@op(flops=lambda x, block: 0, prepare=_prepare_depth)
def depth_to_space(xp, x, *, block):
    """y[n, h·b + i, w·b + j, c] = x[n, h, w, (i·b + j)·C + c], b = block: (N, H, W, C·b²) to (N, H·b, W·b, C).

    The channel order of TensorFlow's depth_to_space; PyTorch's pixel_shuffle has c slowest, (c·b + i)·b + j."""
    n, h, w, c = x.shape
    y = x.reshape(n, h, w, block, block, c // block**2).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h * block, w * block, c // block**2)


@op(flops=lambda x, block: 0, prepare=_prepare_space)
def space_to_depth(xp, x, *, block):
    """y[n, h, w, (i·b + j)·C + c] = x[n, h·b + i, w·b + j, c], b = block: the inverse of depth_to_space."""
    n, h, w, c = x.shape
    y = x.reshape(n, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h // block, w // block, c * block**2)


depth_to_space.vjp(x=lambda g, block: space_to_depth(g, block=block))
space_to_depth.vjp(x=lambda g, block: depth_to_space(g, block=block))


# ---- nearest neighbour, and sums over windows


def _prepare_nearest(x, *, scale):
    _image(x)
    return {"scale": _pair(scale, "scale")}


def _repeat(xp, x, scale):
    (n, h, w, c), (sh, sw) = x.shape, scale
    y = xp.empty((n, h, sh, w, sw, c), x.dtype)
    y[...] = x[:, :, None, :, None, :]
    return y.reshape(n, h * sh, w * sw, c)


@op(flops=lambda x, scale: 0, prepare=_prepare_nearest)
def resize_nearest(xp, x, *, scale=2):
    """y[n, i, j, c] = x[n, ⌊i / s_h⌋, ⌊j / s_w⌋, c]: each pixel becomes a block of s_h × s_w. scale: int or pair."""
    return _repeat(xp, x, scale)


def _prepare_pool(x, *, size, stride, padding):
    _image(x)
    size = _pair(size, "size")
    stride, padding = size if stride is None else _pair(stride, "stride"), _padding(padding)
    for n, k, p in zip(x.shape[1:3], size, padding):
        if max(p) >= k:
            raise ShapeError(f"pooling needs padding smaller than its window; {p} for a window of {k}.")
        if n + sum(p) < k:
            raise ShapeError(f"pooling needs a window that fits; {k} > {n} + {sum(p)} (padding).")
    return {"size": size, "stride": stride, "padding": padding}


def _prepare_unpool(values, *, shape, size, stride, padding):
    return {"shape": shape, "size": size, "stride": stride, "padding": padding}


def _pooled(n: int, size: int, stride: int, padding: tuple[int, int]) -> int:
    return (n + sum(padding) - size) // stride + 1


def _windows(shape, size, stride, padding):
    """((H', W'), [(outputs, inputs), …]): an index of y and one of x for each place in the window, row by row."""
    out = tuple(_pooled(*each) for each in zip(shape[1:3], size, stride, padding))
    rows, columns = (
        _taps(n, o, k, 1, s, p[0]) for n, o, k, s, p in zip(shape[1:3], out, size, stride, padding)
    )
    return out, [((slice(None), i, j), (slice(None), h, w)) for (_, i, h), (_, j, w) in itertools.product(rows, columns)]


def _pool_flops(x, size, stride, padding):
    out = [_pooled(*each) for each in zip(x.shape[1:3], size, stride, padding)]
    return x.shape[0] * x.shape[3] * math.prod(out) * math.prod(size)


@op(flops=_pool_flops, prepare=_prepare_pool)
def sum_pool2d(xp, x, *, size, stride=None, padding=0):
    """y[n, i, j, c] = Σ x over the window of `size` whose corner is at (i·s_h − top, j·s_w − left); x is 0 outside.

    size, stride: int or pair, stride is size by default. padding: p, (p_h, p_w) or ((top, bottom), (left, right)).
    A row or column at the end that no whole window covers is left out."""
    out, windows = _windows(x.shape, size, stride, padding)
    y = None
    for at, of in windows:
        if y is None and padding == ((0, 0), (0, 0)):
            y = x[of].copy()
            continue
        if y is None:
            y = xp.zeros((x.shape[0], *out, x.shape[3]), x.dtype)
        y[at] += x[of]
    return y


@op(flops=lambda values, shape, size, stride, padding: values.size * math.prod(size), prepare=_prepare_unpool)
def sum_unpool2d(xp, values, *, shape, size, stride, padding):
    """Each value added to every pixel of its window, in an image of `shape`; the adjoint of sum_pool2d."""
    if size == stride and (values.shape[1] * size[0], values.shape[2] * size[1]) == tuple(shape[1:3]):
        return _repeat(xp, values, size)  # the windows tile the image
    y = xp.zeros(shape, values.dtype)
    for at, of in _windows(shape, size, stride, padding)[1]:
        y[of] += values[at]
    return y


resize_nearest.vjp(x=lambda g, scale: sum_pool2d(g, size=scale, stride=scale, padding=0))
sum_pool2d.vjp(
    x=lambda g, x_shape, size, stride, padding: sum_unpool2d(
        g, shape=x_shape, size=size, stride=stride, padding=padding
    )
)
sum_unpool2d.vjp(
    values=lambda g, size, stride, padding: sum_pool2d(g, size=size, stride=stride, padding=padding)
)


@lru_cache(maxsize=64)
def _one_over_counts(shape, size, stride, padding, dtype) -> np.ndarray:
    """1 / the number of pixels, without padding, in each window: (H', W', 1)."""
    ones = np.ones((1, *shape[1:3], 1), dtype)
    return 1 / sum_pool2d.forward(np, ones, size=size, stride=stride, padding=padding)[0]


def avg_pool2d(x: Tensor, size, stride=None, padding=0, count_include_pad: bool = True) -> Tensor:
    """The mean over windows of an image (N, H, W, C) -> (N, H', W', C), H' = ⌊(H + top + bottom − size) / stride⌋ + 1.

    Arguments as for sum_pool2d. count_include_pad: padding counts as pixels of value 0; False: the mean is over the
    pixels inside the image. Both as in PyTorch. Raises ShapeError for a window that does not fit."""
    attrs = _prepare_pool(x.data, size=size, stride=stride, padding=padding)
    total = sum_pool2d(x, **attrs)
    if count_include_pad or attrs["padding"] == ((0, 0), (0, 0)):
        return total * (1 / math.prod(attrs["size"]))
    weights = _one_over_counts(x.shape, **attrs, dtype=x.dtype)
    return total * (weights if isinstance(x.data, np.ndarray) else Tensor(weights).to(x.device))


def global_avg_pool(x: Tensor) -> Tensor:
    """The mean over H and W: (N, H, W, C) -> (N, C)."""
    return mean(x, axis=(1, 2))


# ---- max pooling


@op(flops=_pool_flops, prepare=_prepare_pool)
def max_pool2d(xp, x, *, size, stride=None, padding=0):
    """y[n, i, j, c] = max x over the window of (i, j); padding never wins. Arguments as for sum_pool2d.

    The gradient goes to the first of the largest entries, row by row."""
    out, windows = _windows(x.shape, size, stride, padding)
    y = xp.full((x.shape[0], *out, x.shape[3]), -math.inf, x.dtype)
    for at, of in windows:
        y[at] = xp.maximum(y[at], x[of])
    return y


@op(flops=_pool_flops, prepare=_prepare_pool)
def max_pool2d_places(xp, x, *, size, stride=None, padding=0):
    """Where max_pool2d found its maxima: h·W + w of the first one in each window, (N, H', W', C) int64."""
    out, windows = _windows(x.shape, size, stride, padding)
    shape = (x.shape[0], *out, x.shape[3])
    best, places = xp.full(shape, -math.inf, x.dtype), xp.full(shape, -1, np.int64)
    numbers = xp.arange(x.shape[1] * x.shape[2]).reshape(1, *x.shape[1:3], 1)
    for at, of in windows:
        better = (x[of] > best[at]) | (places[at] < 0)
        best[at] = xp.where(better, x[of], best[at])
        places[at] = xp.where(better, numbers[of], places[at])
    return places


def _max_pool_rule(g, x, x_shape, size, stride, padding):
    n, h, w, c = x_shape
    m = math.prod(g.shape[1:3])
    places = max_pool2d_places(x, size=size, stride=stride, padding=padding).data.reshape(n, m, c)
    gx = scatter_along_axis(reshape(g, shape=(n, m, c)), wrap(places, None), axis=1, size=h * w)
    return reshape(gx, shape=x_shape)


max_pool2d.vjp(x=_max_pool_rule)
max_pool2d_places.vjp(x=None)


# ---- bilinear resizing


def _bilinear_weights(n: int, out: int, align_corners: bool, antialias: bool) -> np.ndarray:
    """The matrix (out, n) that interpolates a row of n pixels linearly at `out` positions."""
    step = n / out if not align_corners else (n - 1) / (out - 1) if out > 1 else 0.0
    i = np.arange(out)
    if antialias:  # a triangle as wide as the step, cut off at the border and normalised
        width, centre = max(step, 1.0), step * (i + 0.5)
        low = np.maximum((centre - width + 0.5).astype(int), 0)[:, None]
        high = np.minimum((centre + width + 0.5).astype(int), n)[:, None]
        j = np.arange(n)
        weights = np.maximum(0.0, 1 - np.abs(j + 0.5 - centre[:, None]) / width) * ((low <= j) & (j < high))
        return weights / weights.sum(axis=1, keepdims=True)
    at = i * step if align_corners else np.maximum((i + 0.5) * step - 0.5, 0.0)
    left = np.minimum(at.astype(int), n - 1)
    weights = np.zeros((out, n))
    weights[i, left] = 1 - (at - left)
    weights[i, np.minimum(left + 1, n - 1)] += at - left
    return weights


@lru_cache(maxsize=64)
def _resizing(xp, n: int, out: int, align_corners: bool, antialias: bool, channels: int, dtype):
    """_bilinear_weights as an array of xp; for pixels of few channels, the matrix that moves whole pixels."""
    weights = _bilinear_weights(n, out, align_corners, antialias)
    return xp.asarray(np.kron(weights, np.eye(channels)), dtype=dtype)


def _few(channels: int) -> int:
    """Rows of few channels are cheaper in one large product than in a batch of thin ones."""
    return channels if channels <= 4 else 1


def _apply(xp, x, rows, columns):
    """y[n, i, j, c] = Σ_h Σ_w rows[i, h] columns[j, w] x[n, h, w, c]."""
    n, h, w, c = x.shape
    y = xp.matmul(rows, x.reshape(n, h, w * c))
    if c == _few(c):
        y = xp.matmul(y.reshape(-1, w * c), columns.T) if y.size else y
        return y.reshape(n, len(rows), len(columns) // max(c, 1), c)
    return xp.matmul(columns, y.reshape(n * len(rows), w, c)).reshape(n, len(rows), len(columns), c)


def _prepare_bilinear(x, *, size, align_corners, antialias):
    _image(x)
    if min(x.shape[1:3]) < 1:
        raise ShapeError("resize_bilinear needs an image of at least one pixel.")
    return {"size": _pair(size, "size"), "align_corners": bool(align_corners), "antialias": bool(antialias)}


def _bilinear_flops(x, size, align_corners, antialias):
    n, h, w, c = x.shape
    return 2 * n * c * size[0] * w * (h + size[1])


@op(flops=_bilinear_flops, prepare=_prepare_bilinear)
def resize_bilinear(xp, x, *, size, align_corners=False, antialias=False):
    """y = R_h x R_wᵀ for each channel: linear interpolation to `size` (H', W'), as torch.nn.functional.interpolate.

    Pixel i' of H' lies at (i' + ½) H / H' − ½ (at i' (H − 1) / (H' − 1) with align_corners), and the border pixels
    extend outwards. antialias: when shrinking, the triangle is widened by H / H', as Pillow does."""
    (_, h, w, c), (out_h, out_w) = x.shape, size
    rows = _resizing(xp, h, out_h, align_corners, antialias, 1, x.dtype)
    return _apply(xp, x, rows, _resizing(xp, w, out_w, align_corners, antialias, _few(c), x.dtype))


@op(flops=lambda values, size, align_corners, antialias: _bilinear_flops(values, size, align_corners, antialias))
def resize_bilinear_adjoint(xp, values, *, size, align_corners, antialias):
    """x = R_hᵀ y R_w for each channel, to `size` (H, W): the adjoint of resize_bilinear from that size."""
    (_, h, w, c), (out_h, out_w) = values.shape, size
    rows = _resizing(xp, out_h, h, align_corners, antialias, 1, values.dtype)
    return _apply(xp, values, rows.T, _resizing(xp, out_w, w, align_corners, antialias, _few(c), values.dtype).T)


resize_bilinear.vjp(
    x=lambda g, x_shape, align_corners, antialias: resize_bilinear_adjoint(
        g, size=x_shape[1:3], align_corners=align_corners, antialias=antialias
    )
)
resize_bilinear_adjoint.vjp(
    values=lambda g, values_shape, align_corners, antialias: resize_bilinear(
        g, size=values_shape[1:3], align_corners=align_corners, antialias=antialias
    )
)


# ---- FIR filters


def _prepare_fir(x, *, kernel, up, down, padding):
    _image(x)
    kernel, padding = tuple(float(k) for k in kernel), _padding(padding, low=None)
    up, down = _pair(up, "up"), _pair(down, "down")
    for n, u, p in zip(x.shape[1:3], up, padding):
        if n * u + sum(p) < len(kernel):
            raise ShapeError(f"fir needs at least as many pixels as taps; {n}·{u} + {sum(p)} < {len(kernel)}.")
    return {"kernel": kernel, "up": up, "down": down, "padding": padding}


def _filtered(n: int, taps: int, up: int, down: int, padding: tuple[int, int]) -> int:
    return (n * up + sum(padding) - taps) // down + 1


def _fir_flops(x, kernel, up, down, padding):
    n, h, w, c = x.shape
    out_h, out_w = (_filtered(m, len(kernel), *each) for m, *each in zip((h, w), up, down, padding))
    return 2 * n * c * out_h * (w * -(-len(kernel) // up[0]) + out_w * -(-len(kernel) // up[1]))


@op(flops=_fir_flops, prepare=_prepare_fir)
def fir(xp, x, *, kernel, up=1, down=1, padding=0):
    """Along H, then along W, for each channel: put up − 1 zeros after each pixel, pad, convolve with `kernel`
    (k taps), keep every down-th: y[i] = Σ_t kernel[k − 1 − t] x₀[i·down + t], x₀ the padded row.

    The operation upfirdn2d of StyleGAN2 (Karras et al. 2020) for a separable filter, taken as it is: neither
    normalised nor scaled by up². up, down: int or pair; padding as for sum_pool2d, negative to crop."""
    for axis, u, d, p in zip((1, 2), up, down, padding):
        shape = list(x.shape)
        n, shape[axis] = shape[axis], _filtered(shape[axis], len(kernel), u, d, p)
        y = xp.zeros(shape, x.dtype)
        before = (slice(None),) * axis
        for t, at, of in _taps(n, shape[axis], len(kernel), u, d, p[0]):
            y[(*before, at)] += kernel[-1 - t] * x[(*before, of)]
        x = y
    return x


def _fir_rule(g, x_shape, kernel, up, down, padding):
    """The adjoint is a filter again: taps reversed, up and down exchanged, padded so that the shape comes out."""
    k = len(kernel)
    before = [k - 1 - p[0] for p in padding]
    after = [n * u - u - m * d + p[0] + 1 for n, m, u, d, p in zip(x_shape[1:3], g.shape[1:3], up, down, padding)]
    return fir(g, kernel=kernel[::-1], up=down, down=up, padding=tuple(zip(before, after)))


fir.vjp(x=_fir_rule)


def blur(x: Tensor, taps=(1, 3, 3, 1), up: int = 1, down: int = 1, gain: float = 1.0) -> Tensor:
    """A low-pass filter that keeps constants (times gain), with an optional change of resolution: (N, H, W, C) to
    (N, H·up/down, W·up/down, C). StyleGAN2's filter2d, upsample2d and downsample2d, with zeros outside the image.

    taps: the separable filter, normalised here to sum 1 along each axis; up: its gain is multiplied by up²."""
    k = len(taps)
    scale = up * math.sqrt(gain) / sum(taps)
    if up > 1:
        p = ((k + up - 1) // 2, (k - up) // 2)
    elif down > 1:
        p = ((k - down + 1) // 2, (k - down) // 2)
    else:
        p = (k // 2, (k - 1) // 2)
    return fir(x, kernel=tuple(t * scale for t in taps), up=up, down=down, padding=(p, p))
