"""The CPU path for any geometry: which kernel computes which form of a convolution. README.md says why.

Every function takes and returns what __init__.py documents.

    gemm.py         a product that reads runs of the image in place: nearly everything
    depthwise.py    one input channel a group
    scatter, here   few output channels: a product of whole columns by BLAS, added up where they belong

At stride 1 the forward form of few output channels is a scatter too, and their weight gradient a gather of g.
"""

from __future__ import annotations

import numpy as np

from tinygen.kernels import product
from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run

from . import depthwise, gemm
from .choice import narrow
from .gemm import pieces, ready

# Bytes of columns in a chunk: small enough for the cache, large enough that BLAS packs the weights rarely.
CHUNK = 1 << 19


# ------------------------------------------------------------------------------------------- the three forms


def forward(x, w, *, stride, padding, dilation, groups):
    """y (N, OH, OW, F) from x (N, H, W, C) and w (kh, kw, C/groups, F)."""
    x = ready(x)
    N, H, W, C = x.shape
    kh, kw, cg, F = w.shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    shape = (N, geo[8], geo[9], F)
    if cg == 1 < groups:
        return depthwise.forward(x, w, geo)
    if stride == (1, 1) and narrow(F // groups, cg, kh * kw):
        y = np.zeros(shape, x.dtype)
        for cs, fs in _groups(C, F, groups):
            _scatter(x, cs, _flipped(w[..., fs]), y, fs, _adjoint(geo))
        return y
    y = np.empty(shape, x.dtype)
    for channels in _groups(C, F, groups):
        gemm.forward(x, w, y, *channels, geo)
    return y


def input_grad(g, w, *, x_shape, stride, padding, dilation, groups):
    """gx (N, H, W, C) from g (N, OH, OW, F) and w (kh, kw, C/groups, F)."""
    g = ready(g)
    N, H, W, C = x_shape
    kh, kw, cg, F = w.shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    if cg == 1 < groups:
        gx = depthwise.input_grad(g, w, geo)
        return gx if F == C else gx.reshape(N, H, W, C, F // C).sum(axis=-1)
    if narrow(cg, F // groups, kh * kw):
        gx = np.zeros(x_shape, g.dtype)
        for cs, fs in _groups(C, F, groups):
            _scatter(g, fs, w[..., fs].reshape(-1, fs.stop - fs.start).T, gx, cs, geo)
        return gx
    gx = np.empty(x_shape, g.dtype)
    for channels in _groups(C, F, groups):
        gemm.input_grad(g, w, gx, *channels, geo)
    return gx


def weight_grad(x, g, *, w_shape, stride, padding, dilation, groups):
    """gw (kh, kw, C/groups, F) from x (N, H, W, C) and g (N, OH, OW, F)."""
    x, g = ready(x), ready(g)
    H, W, C = x.shape[1:]
    kh, kw, cg, F = w_shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    if cg == 1 < groups:
        return depthwise.weight_grad(x, g, geo)
    gw = np.empty(w_shape, x.dtype)
    for cs, fs in _groups(C, F, groups):
        if stride == (1, 1) and narrow(F // groups, cg, kh * kw):
            # Σ over pixels of x ⊗ runs of g: the same products, summed over input instead of output pixels
            turned = gemm.weight_grad(g, x, fs, cs, _adjoint(geo))
            gw[..., fs] = turned[::-1, ::-1].transpose(0, 1, 3, 2)
        else:
            gw[..., fs] = gemm.weight_grad(x, g, cs, fs, geo)
    return gw


# -------------------------------------------------------------------------------------------------- geometry


def _geometry(H, W, kh, kw, stride, padding, dilation):
    (top, bottom), (left, right) = padding
    OH = (H + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    OW = (W + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    return (kh, kw, *stride, *dilation, top, left, OH, OW, H, W)


def _adjoint(geo):
    """The stride-1 convolution that is `geo`'s input gradient: it reads (OH, OW) and makes (H, W)."""
    kh, kw, _, _, dh, dw, top, left, OH, OW, H, W = geo
    return (kh, kw, 1, 1, dh, dw, dh * (kh - 1) - top, dw * (kw - 1) - left, H, W, OH, OW)


def _groups(C: int, F: int, groups: int) -> list[tuple[slice, slice]]:
    cg, fg = C // groups, F // groups
    return [(slice(i * cg, i * cg + cg), slice(i * fg, i * fg + fg)) for i in range(groups)]


def _flipped(w: np.ndarray) -> np.ndarray:
    """(kh, kw, C, F) → (C, kh·kw·F), both kernel axes reversed; F stays innermost: the copy runs along it."""
    return w[::-1, ::-1].transpose(2, 0, 1, 3).reshape(w.shape[2], -1)


# ----------------------------------------------------------------------- columns and their sums, chunk by chunk


def _scatter(src, s, matrix, dst, d, geo):
    """dst[..., d] += images(src[..., s] @ matrix), with matrix (|s|, kh·kw·|d|): the adjoint of a gather.

    Whole images are shared, so that no two threads add to one line.
    """
    N, OH, OW, S = src.shape
    lines = max(1, min(OH, CHUNK // max(OW * matrix.shape[1] * src.itemsize, 1)))
    run(_scatter_whole, N, src.reshape(-1), np.ascontiguousarray(matrix), dst.reshape(-1), geo, (S, s.start),
        (dst.shape[3], d.start, d.stop - d.start), lines, least=pieces(N, N * OH * OW * matrix.size))


@njit(cache=True, error_model="numpy", nogil=True)
def _scatter_piece(src, matrix, dst, geo, source, target, lines, first, last):
    """The images first … last, so many lines of columns at a time."""
    (S, s), (D, d, size), (OH, OW) = source, target, geo[8:10]
    depth, K = matrix.shape
    col, flat = np.empty(lines * OW * K, src.dtype), matrix.reshape(-1)
    for a in range(first * OH, last * OH, lines):
        b = min(a + lines, last * OH)
        product.gemm(src, a * OW * S + s, S, False, flat, 0, K, False, col, 0, K, (b - a) * OW, K, depth)
        _col2im(col, dst, d, size, D, geo, a, b)


_scatter_pieces = loop(_scatter_piece)


@njit(cache=True, error_model="numpy", nogil=True)
def _scatter_whole(team, pieces, n, *args):
    divide(team, pieces, n, _scatter_pieces(args))


# The inner loops, on flat arrays. Unsigned indices spare Numba's wrap-around of negative ones, a test per
# element that made these copies ten times slower.


@njit(cache=True, error_model="numpy", nogil=True)
def _add(dst, d, src, s, count):
    for j in range(count):
        dst[np.uint64(d + j)] += src[np.uint64(s + j)]


@njit(cache=True, error_model="numpy", nogil=True)
def _taps(start, step, count, size):
    """The taps t in [lo, hi) for which 0 ≤ start + t·step < size."""
    if step == 1:
        lo, hi = -start, size - start
    else:
        lo, hi = (step - 1 - start) // step, (size - start + step - 1) // step
    lo = min(max(lo, 0), count)
    return lo, max(min(hi, count), lo)


@njit(cache=True, error_model="numpy", nogil=True)
def _col2im_line(col, x, c0, cg, C, geo, a, b, p):
    kh, kw, sh, sw, dh, dw, top, left, OH, OW, H, W = geo
    n, iy = p // H, p % H
    for ky in range(kh):
        y = iy + top - ky * dh
        q = n * OH + y // sh
        if y < 0 or y % sh != 0 or y // sh >= OH or q < a or q >= b:
            continue
        for ox in range(OW):
            ix = ox * sw - left
            lo, hi = _taps(ix, dw, kw, W)
            s = (((q - a) * OW + ox) * kh + ky) * kw * cg
            d = (p * W + ix) * C + c0
            if dw == 1 and cg == C:
                _add(x, d + lo * C, col, s + lo * C, (hi - lo) * C)
            else:
                for kx in range(lo, hi):
                    _add(x, d + kx * dw * C, col, s + kx * cg, cg)


@njit(cache=True, error_model="numpy", nogil=True)
def _col2im(col, x, c0, cg, C, geo, a, b):
    """Add the columns of the output lines [a, b) to the image lines they came from, each image line collecting what
    falls on it in a fixed order."""
    OH, H = geo[8], geo[10]
    for p in range(a // OH * H, ((b - 1) // OH + 1) * H):
        _col2im_line(col, x, c0, cg, C, geo, a, b, p)
