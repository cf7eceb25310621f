"""Changing the resolution of images N, H, W, C: pixel shuffles, resizing and FIR filters.

All of these are linear in the image, and each comes with its adjoint, so that every pair is closed under
differentiation: the rule of the one is the other.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..errors import ShapeError
from ..kernels import gemm
from ..tape import op
from ..tensor import Tensor
from .pool import as_padding, as_pair, check_image, repeat_pixels, strided_taps, sum_pool2d

# ---- pixel shuffles


def _prepare_depth(x, *, block):
    check_image(x)
    if block < 1 or x.shape[3] % block**2:
        raise ShapeError(f"depth_to_space needs channels divisible by block²; {x.shape[3]} by {block}².")
    return {"block": block}


def _prepare_space(x, *, block):
    check_image(x)
    if block < 1 or x.shape[1] % block or x.shape[2] % block:
        raise ShapeError(f"space_to_depth needs H and W divisible by block = {block}; {x.shape[1:3]}.")
    return {"block": block}


@op(flops=lambda x, block: 0, prepare=_prepare_depth)
def depth_to_space(xp, x, *, block):
    """y[n, h·b + i, w·b + j, c] = x[n, h, w, (i·b + j)·C + c], b = block: (N, H, W, C·b²) to (N, H·b, W·b,
    C).

    The channel order of TensorFlow's depth_to_space; PyTorch's pixel_shuffle has c slowest, (c·b + i)·b +
    j."""
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


# ---- nearest neighbour


def _prepare_nearest(x, *, scale):
    check_image(x)
    return {"scale": as_pair(scale, "scale")}


@op(flops=lambda x, scale: 0, prepare=_prepare_nearest)
def resize_nearest(xp, x, *, scale=2):
    """y[n, i, j, c] = x[n, ⌊i / s_h⌋, ⌊j / s_w⌋, c]: each pixel becomes s_h × s_w pixels. scale: int or
    pair."""
    return repeat_pixels(xp, x, scale)


resize_nearest.vjp(x=lambda g, scale: sum_pool2d(g, size=scale, stride=scale, padding=0))


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


@lru_cache(maxsize=256)
def _matrix(xp, weights, arguments: tuple, channels: int, dtype):
    """weights(*arguments) as an array of xp; times the identity, where it is to move whole pixels of
    channels."""
    return xp.asarray(np.kron(weights(*arguments), np.eye(channels)), dtype=dtype)


def _apply(xp, x, weights, rows: tuple, columns: tuple, transpose: bool = False):
    """y[n, i, j, c] = Σ_h Σ_w R[i, h] C[j, w] x[n, h, w, c], with R = weights(*rows), C = weights(*columns),
    or their transposes."""
    n, h, w, c = x.shape
    few = c if 0 < c <= 4 else 1  # of few channels, one large product is cheaper than many thin ones
    r, s = _matrix(xp, weights, rows, 1, x.dtype), _matrix(xp, weights, columns, few, x.dtype)
    r, s = (r.T, s.T) if transpose else (r, s)
    matmul = xp.matmul if xp is np or x.dtype != np.float32 else gemm.matmul  # which a CUDA graph can hold
    y = matmul(r, x.reshape(n, h, w * c))
    if few > 1 or c == 1:
        y = matmul(y.reshape(n * len(r), w * c), s.T)
    else:
        y = matmul(s, y.reshape(n * len(r), w, c))
    return y.reshape(n, len(r), len(s) // few, c)


def _prepare_bilinear(x, *, size, align_corners, antialias):
    check_image(x)
    if min(x.shape[1:3]) < 1:
        raise ShapeError("resize_bilinear needs an image of at least one pixel.")
    return {"size": as_pair(size, "size"), "align_corners": bool(align_corners), "antialias": bool(antialias)}


def _bilinear_flops(values, size, align_corners, antialias):
    n, h, w, c = values.shape
    return 2 * n * c * size[0] * w * (h + size[1])


@op(flops=_bilinear_flops, prepare=_prepare_bilinear)
def resize_bilinear(xp, x, *, size, align_corners=False, antialias=False):
    """y = R_h x R_wᵀ for each channel: linear interpolation to `size` (H', W'), as
    torch.nn.functional.interpolate.

    Pixel i' of H' lies at (i' + ½) H / H' − ½ (at i' (H − 1) / (H' − 1) with align_corners), and the border
    pixels extend outwards. antialias: when shrinking, the triangle is widened by H / H', as Pillow does."""
    rows, columns = ((n, out, align_corners, antialias) for n, out in zip(x.shape[1:3], size))
    return _apply(xp, x, _bilinear_weights, rows, columns)


@op(flops=_bilinear_flops)
def resize_bilinear_adjoint(xp, values, *, size, align_corners, antialias):
    """x = R_hᵀ y R_w for each channel, to `size` (H, W): the adjoint of resize_bilinear from that size."""
    rows, columns = ((n, out, align_corners, antialias) for n, out in zip(size, values.shape[1:3]))
    return _apply(xp, values, _bilinear_weights, rows, columns, transpose=True)


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
    check_image(x)
    kernel, padding = tuple(float(k) for k in kernel), as_padding(padding, low=None)
    up, down = as_pair(up, "up"), as_pair(down, "down")
    for n, u, p in zip(x.shape[1:3], up, padding):
        if n * u + sum(p) < len(kernel):
            raise ShapeError(f"fir needs no more taps than pixels; {len(kernel)} > {n}·{u} + {sum(p)}.")
    return {"kernel": kernel, "up": up, "down": down, "padding": padding}


def _filtered(n: int, taps: int, up: int, down: int, padding: tuple[int, int]) -> int:
    return (n * up + sum(padding) - taps) // down + 1


def _fir_weights(n: int, kernel: tuple, up: int, down: int, padding: tuple[int, int]) -> np.ndarray:
    """The filter as a matrix (outputs, n)."""
    weights = np.zeros((_filtered(n, len(kernel), up, down, padding), n))
    i, j = np.arange(len(weights)), np.arange(n)
    for t, at, of in strided_taps(n, len(weights), len(kernel), up, down, padding[0]):
        weights[i[at], j[of]] = kernel[-1 - t]
    return weights


def _fir_flops(x, kernel, up, down, padding):
    n, h, w, c = x.shape
    out_h, out_w = (_filtered(m, len(kernel), *each) for m, *each in zip((h, w), up, down, padding))
    return 2 * n * c * out_h * (w * -(-len(kernel) // up[0]) + out_w * -(-len(kernel) // up[1]))


_SHORT = 64  # pixels: up to here a dense matrix is faster than a walk over the taps


@op(flops=_fir_flops, prepare=_prepare_fir)
def fir(xp, x, *, kernel, up=1, down=1, padding=0):
    """Along H, then along W, for each channel: put up − 1 zeros after each pixel, pad, convolve with `kernel`
    (k taps), keep every down-th: y[i] = Σ_t kernel[k − 1 − t] x₀[i·down + t], x₀ the padded row.

    The operation upfirdn2d of StyleGAN2 (Karras et al. 2020) for a separable filter, taken as it is: neither
    normalised nor scaled by up². up, down: int or pair; padding as for sum_pool2d, negative to crop."""
    axes = [(n, kernel, u, d, p) for n, u, d, p in zip(x.shape[1:3], up, down, padding)]
    out = [_filtered(n, len(kernel), u, d, p) for n, _, u, d, p in axes]
    if max(*x.shape[1:3], *out) <= _SHORT:
        rows, columns = axes
        return _apply(xp, x, _fir_weights, rows, columns)
    for axis, (n, _, u, d, p) in enumerate(axes, start=1):
        before = (slice(None),) * axis
        y = xp.zeros((*x.shape[:axis], out[axis - 1], *x.shape[axis + 1 :]), x.dtype)
        for t, at, of in strided_taps(n, out[axis - 1], len(kernel), u, d, p[0]):
            y[(*before, at)] += kernel[-1 - t] * x[(*before, of)]
        x = y
    return x


def _fir_rule(g, x_shape, kernel, up, down, padding):
    """The adjoint is a filter again: taps reversed, up and down exchanged, padded to come out at x's
    shape."""
    k = len(kernel)
    before = [k - 1 - p[0] for p in padding]
    sizes = zip(x_shape[1:3], g.shape[1:3], up, down, padding)
    after = [n * u - u - m * d + p[0] + 1 for n, m, u, d, p in sizes]
    return fir(g, kernel=kernel[::-1], up=down, down=up, padding=tuple(zip(before, after)))


fir.vjp(x=_fir_rule)


def blur(x: Tensor, taps=(1, 3, 3, 1), up: int = 1, down: int = 1, gain: float = 1.0) -> Tensor:
    """A low-pass filter that keeps constants (times gain), with an optional change of resolution: (N, H, W,
    C) to (N, H·up/down, W·up/down, C). StyleGAN2's filter2d, upsample2d and downsample2d, with zeros outside
    the image.

    taps: the separable filter, normalised here to sum 1 along each axis; up: its gain is multiplied by
    up²."""
    k = len(taps)
    scale = up * math.sqrt(gain) / sum(taps)
    if up > 1:
        p = ((k + up - 1) // 2, (k - up) // 2)
    elif down > 1:
        p = ((k - down + 1) // 2, (k - down) // 2)
    else:
        p = (k // 2, (k - 1) // 2)
    return fir(x, kernel=tuple(t * scale for t in taps), up=up, down=down, padding=(p, p))
