"""The CPU path: columns by Numba, products by BLAS, a direct kernel for depthwise. README.md says why.

Every function takes and returns what __init__.py documents. Two building blocks do all the work that is not
depthwise, each in chunks whose columns stay in a core's cache:

    gather    image → columns → GEMM          each output pixel collects its kh·kw·C inputs
    scatter   GEMM → columns → image (adds)   each input pixel spreads its kh·kw·F products

At stride 1 either block computes either of `forward` and `input_grad`; the one with fewer columns is chosen.
The image lines are shared among the threads, each of which fills columns and multiplies on its own core.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numba
import numpy as np

from tinygen.kernels.threads import WORTH, grain, matmul, share

# Bytes of columns in a chunk: small enough for the cache, large enough that BLAS packs the weights rarely.
CHUNK = 2 << 20
# One side's columns must be this many times fewer before a form changes sides: scattering reads, adds and
# writes where gathering only writes.
LOPSIDED = 2

_scratch = threading.local()


# ------------------------------------------------------------------------------------------- the three forms


def forward(x, w, *, stride, padding, dilation, groups):
    """y (N, OH, OW, F) from x (N, H, W, C) and w (kh, kw, C/groups, F)."""
    x, w = ready(x), ready(w)
    N, H, W, C = x.shape
    kh, kw, cg, F = w.shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    shape = (N, geo[8], geo[9], F)
    if cg == 1 < groups:
        return _depthwise_forward(_spread(x, F // groups), w, geo, shape)
    if _is_matmul(geo, padding):
        y = np.empty(shape, x.dtype)
        for cs, fs in _groups(C, F, groups):
            matmul(x.reshape(-1, C)[:, cs], w[0, 0, :, fs], out=y.reshape(-1, F)[:, fs])
        return y
    if stride == (1, 1) and LOPSIDED * F <= C:
        y = np.zeros(shape, x.dtype)
        for cs, fs in _groups(C, F, groups):
            _scatter(x, cs, _flipped(w[..., fs]), y, fs, _adjoint(geo))
        return y
    y = np.empty(shape, x.dtype)
    for cs, fs in _groups(C, F, groups):
        _gather(x, cs, w[..., fs].reshape(-1, fs.stop - fs.start), y, fs, geo)
    return y


def input_grad(g, w, *, x_shape, stride, padding, dilation, groups):
    """gx (N, H, W, C) from g (N, OH, OW, F) and w (kh, kw, C/groups, F)."""
    g, w = ready(g), ready(w)
    N, H, W, C = x_shape
    kh, kw, cg, F = w.shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    if cg == 1 < groups:
        gx = _depthwise_input_grad(g, w, geo, (N, H, W, F))
        return gx if F == C else gx.reshape(N, H, W, C, F // C).sum(axis=-1)
    if _is_matmul(geo, padding):
        gx = np.empty(x_shape, g.dtype)
        for cs, fs in _groups(C, F, groups):
            matmul(g.reshape(-1, F)[:, fs], w[0, 0, :, fs].T, out=gx.reshape(-1, C)[:, cs])
        return gx
    if stride == (1, 1) and LOPSIDED * C > F:
        gx = np.empty(x_shape, g.dtype)
        for cs, fs in _groups(C, F, groups):
            _gather(g, fs, _flipped(w[..., fs]).T, gx, cs, _adjoint(geo))
        return gx
    gx = np.zeros(x_shape, g.dtype)
    for cs, fs in _groups(C, F, groups):
        _scatter(g, fs, w[..., fs].reshape(-1, fs.stop - fs.start).T, gx, cs, geo)
    return gx


def weight_grad(x, g, *, w_shape, stride, padding, dilation, groups):
    """gw (kh, kw, C/groups, F) from x (N, H, W, C) and g (N, OH, OW, F)."""
    x, g = ready(x), ready(g)
    H, W, C = x.shape[1:]
    kh, kw, cg, F = w_shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    if cg == 1 < groups:
        return _depthwise_weight_grad(_spread(x, F // groups), g, geo)
    gw = np.empty(w_shape, x.dtype)
    for cs, fs in _groups(C, F, groups):
        if _is_matmul(geo, padding):
            matmul(x.reshape(-1, C)[:, cs].T, g.reshape(-1, F)[:, fs], out=gw[0, 0, :, fs])
        elif stride == (1, 1) and LOPSIDED * F <= C:
            # Σ over pixels of x ⊗ columns(g): the same products, summed over input instead of output pixels
            gwt = _correlate(g, fs, x, cs, _adjoint(geo)).T.reshape(cg, kh, kw, -1)
            gw[..., fs] = gwt.transpose(1, 2, 0, 3)[::-1, ::-1]
        else:
            gw[..., fs] = _correlate(x, cs, g, fs, geo).reshape(kh, kw, cg, -1)
    return gw


# -------------------------------------------------------------------------------------------------- geometry


def ready(a: np.ndarray) -> np.ndarray:
    """C-contiguous and writeable: Numba compiles every kernel again for read-only arrays."""
    a = np.ascontiguousarray(a)
    return a if a.flags.writeable else a.copy()


def _geometry(H, W, kh, kw, stride, padding, dilation):
    (top, bottom), (left, right) = padding
    OH = (H + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    OW = (W + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    return (kh, kw, *stride, *dilation, top, left, OH, OW, H, W)


def _adjoint(geo):
    """The stride-1 convolution that is `geo`'s input gradient: it reads (OH, OW) and makes (H, W)."""
    kh, kw, _, _, dh, dw, top, left, OH, OW, H, W = geo
    return (kh, kw, 1, 1, dh, dw, dh * (kh - 1) - top, dw * (kw - 1) - left, H, W, OH, OW)


def _is_matmul(geo, padding) -> bool:
    return geo[:4] == (1, 1, 1, 1) and padding == ((0, 0), (0, 0))


def _groups(C: int, F: int, groups: int) -> list[tuple[slice, slice]]:
    cg, fg = C // groups, F // groups
    return [(slice(i * cg, i * cg + cg), slice(i * fg, i * fg + fg)) for i in range(groups)]


def _flipped(w: np.ndarray) -> np.ndarray:
    """(kh, kw, C, F) → (C, kh·kw·F), both kernel axes reversed; F stays innermost: the copy runs along it."""
    return w[::-1, ::-1].transpose(2, 0, 1, 3).reshape(w.shape[2], -1)


# ----------------------------------------------------------------------- columns and products, chunk by chunk


def _chunks(first: int, last: int, line_bytes: int, budget: int) -> Iterator[tuple[int, int]]:
    """Split the image lines first … last into equal runs whose columns fit the budget."""
    lines = last - first
    count = max(1, min(lines, -(-lines * line_bytes // budget)))
    size = -(-lines // count) if lines else 1
    for start in range(first, last, size):
        yield start, min(start + size, last)


def _buffer(rows: int, cols: int, dtype) -> np.ndarray:
    """(rows, cols) of this thread's scratch memory: fresh pages in every call would cost more than im2col."""
    need = rows * cols * dtype.itemsize
    memory = getattr(_scratch, "memory", None)
    if memory is None or memory.nbytes < need:
        memory = _scratch.memory = np.empty(max(need, CHUNK), np.uint8)
    return memory[:need].view(dtype).reshape(rows, cols)


def _least(lines: int, products: int) -> int:
    """The fewest image lines, out of `lines` with so many multiply-adds, that are worth a thread."""
    return max(1, -(-lines * WORTH // (2 * max(products, 1))))


def _gather(src, s, matrix, dst, d, geo):
    """dst[..., d] = columns(src[..., s]) @ matrix, with matrix (kh·kw·|s|, |d|)."""
    N, OH, OW, D = dst.shape
    K = matrix.shape[0]
    flat, dst2 = src.reshape(-1), dst.reshape(-1, D)[:, d]

    def lines(first: int, last: int) -> None:
        for a, b in _chunks(first, last, OW * K * src.itemsize, CHUNK):
            col = _buffer((b - a) * OW, K, src.dtype)
            _im2col(flat, col.reshape(-1), s.start, s.stop - s.start, src.shape[3], geo, a, b)
            np.matmul(col, matrix, out=dst2[a * OW : b * OW])

    share(N * OH, lines, least=_least(N * OH, dst2.shape[0] * matrix.size))


def _scatter(src, s, matrix, dst, d, geo):
    """dst[..., d] += images(src[..., s] @ matrix), with matrix (|s|, kh·kw·|d|): the adjoint of a gather.

    Whole images are shared, so that no two threads add to one line.
    """
    N, OH, OW, S = src.shape
    K = matrix.shape[1]
    src2, flat = src.reshape(-1, S)[:, s], dst.reshape(-1)

    def images(first: int, last: int) -> None:
        for a, b in _chunks(first * OH, last * OH, OW * K * src.itemsize, CHUNK):
            col = _buffer((b - a) * OW, K, src.dtype)
            np.matmul(src2[a * OW : b * OW], matrix, out=col)
            _col2im(col.reshape(-1), flat, d.start, d.stop - d.start, dst.shape[3], geo, a, b)

    share(N, images, least=_least(N, src2.shape[0] * matrix.size))


def _correlate(a, s, b, d, geo):
    """columns(a[..., s])ᵀ @ b[..., d]: (kh·kw·|s|, |d|), summed over chunks in order, then over threads in order."""
    N, OH, OW, D = b.shape
    kh, kw = geo[:2]
    K = kh * kw * (s.stop - s.start)
    flat, b2 = a.reshape(-1), b.reshape(-1, D)[:, d]
    shape = (K, d.stop - d.start)
    totals: dict[int, np.ndarray] = {}
    budget = max(CHUNK, 2 * K * shape[1] * a.itemsize)

    def lines(first: int, last: int) -> None:
        total, part = np.empty(shape, a.dtype), None
        for i, j in _chunks(first, last, OW * K * a.itemsize, budget):
            col = _buffer((j - i) * OW, K, a.dtype)
            _im2col(flat, col.reshape(-1), s.start, s.stop - s.start, a.shape[3], geo, i, j)
            if i == first:
                np.matmul(col.T, b2[i * OW : j * OW], out=total)
            else:
                part = np.matmul(col.T, b2[i * OW : j * OW], out=part)
                total += part
        totals[first] = total

    share(N * OH, lines, least=_least(N * OH, b2.shape[0] * K * shape[1]))
    if not totals:
        return np.zeros(shape, a.dtype)
    first, *others = (totals[k] for k in sorted(totals))
    for other in others:
        first += other
    return first


# The inner loops, on flat arrays. Unsigned indices spare Numba's wrap-around of negative ones, a test per
# element that made these copies ten times slower.


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _zero(dst, d, count):
    for j in range(count):
        dst[np.uint64(d + j)] = 0


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _copy(dst, d, src, s, count):
    for j in range(count):
        dst[np.uint64(d + j)] = src[np.uint64(s + j)]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _add(dst, d, src, s, count):
    for j in range(count):
        dst[np.uint64(d + j)] += src[np.uint64(s + j)]


@numba.njit(cache=True, error_model="numpy", fastmath={"contract"}, nogil=True)
def _add_product(dst, d, a, i, b, k, count):
    for j in range(count):
        dst[np.uint64(d + j)] += a[np.uint64(i + j)] * b[np.uint64(k + j)]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _taps(start, step, count, size):
    """The taps t in [lo, hi) for which 0 ≤ start + t·step < size."""
    if step == 1:
        lo, hi = -start, size - start
    else:
        lo, hi = (step - 1 - start) // step, (size - start + step - 1) // step
    lo = min(max(lo, 0), count)
    return lo, max(min(hi, count), lo)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _im2col_line(x, col, c0, cg, C, geo, q, row):
    kh, kw, sh, sw, dh, dw, top, left, OH, OW, H, W = geo
    n, oy = q // OH, q % OH
    run = kw * cg  # columns of one kernel line
    for ox in range(OW):
        ix = ox * sw - left
        lo, hi = _taps(ix, dw, kw, W)
        for ky in range(kh):
            iy = oy * sh - top + ky * dh
            d = ((row + ox) * kh + ky) * run
            if iy < 0 or iy >= H:
                _zero(col, d, run)
                continue
            s = ((n * H + iy) * W + ix) * C + c0
            _zero(col, d, lo * cg)
            if dw == 1 and cg == C:  # neighbouring taps are one run of memory
                _copy(col, d + lo * C, x, s + lo * C, (hi - lo) * C)
            else:
                for kx in range(lo, hi):
                    _copy(col, d + kx * cg, x, s + kx * dw * C, cg)
            _zero(col, d + hi * cg, run - hi * cg)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _im2col(x, col, c0, cg, C, geo, a, b):
    """col[(q − a)·OW + ox, (ky·kw + kx)·cg + c] = x at that tap, 0 outside, for the output lines q = n·OH +
    oy in [a, b) and the channels c0 … c0 + cg of C. Both arrays flat."""
    for q in range(a, b):
        _im2col_line(x, col, c0, cg, C, geo, q, (q - a) * geo[9])


@numba.njit(cache=True, error_model="numpy", nogil=True)
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


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _col2im(col, x, c0, cg, C, geo, a, b):
    """Add the columns of the output lines [a, b) to the image lines they came from, each image line collecting what
    falls on it in a fixed order."""
    OH, H = geo[8], geo[10]
    for p in range(a // OH * H, ((b - 1) // OH + 1) * H):
        _col2im_line(col, x, c0, cg, C, geo, a, b, p)


# --------------------------------------------------------- depthwise: one input channel per group, no columns


def _spread(x, m):
    """Each channel repeated for the m outputs it feeds: after that every depthwise convolution has m = 1."""
    return x if m == 1 else np.repeat(x, m, axis=3)


def _depthwise_forward(x, w, geo, shape):
    y = np.zeros(shape, x.dtype)
    args, lines = (x.reshape(-1), w.reshape(-1), y.reshape(-1), shape[3], geo), shape[0] * geo[8]
    least = grain(lines, w.size * y.size // shape[3] or 1)
    share(lines, lambda first, last: _dw_forward(*args, first, last), least=least)
    return y


def _depthwise_input_grad(g, w, geo, shape):
    gx = np.zeros(shape, g.dtype)
    args, lines = (g.reshape(-1), w.reshape(-1), gx.reshape(-1), shape[3], geo), shape[0] * geo[10]
    least = grain(lines, w.size * gx.size // shape[3] or 1)
    share(lines, lambda first, last: _dw_input_grad(*args, first, last), least=least)
    return gx


def _depthwise_weight_grad(x, g, geo):
    # A fixed number of partial sums, added in order: the result does not depend on who computed which.
    N, OH, _, C = g.shape
    part = np.zeros((max(1, min(16, N * OH)), geo[0] * geo[1] * C), x.dtype)
    args = x.reshape(-1), g.reshape(-1), part, N, C, geo
    least = grain(len(part), part.shape[1] * N * OH)
    share(len(part), lambda first, last: _dw_weight_grad(*args, first, last), least=least)
    return part.sum(axis=0).reshape(geo[0], geo[1], 1, C)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _dw_line(x, w, y, C, geo, q, weights):
    """The output line q: y += x·w, or, where the weights are wanted, w += x·y."""
    kh, kw, sh, sw, dh, dw, top, left, OH, OW, H, W = geo
    n, oy = q // OH, q % OH
    ylo, yhi = _taps(oy * sh - top, dh, kh, H)
    for ox in range(OW):
        lo, hi = _taps(ox * sw - left, dw, kw, W)
        for ky in range(ylo, yhi):
            for kx in range(lo, hi):
                i = ((n * H + oy * sh - top + ky * dh) * W + ox * sw - left + kx * dw) * C
                j, k = (q * OW + ox) * C, (ky * kw + kx) * C
                if weights:
                    _add_product(w, k, x, i, y, j, C)
                else:
                    _add_product(y, j, x, i, w, k, C)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _dw_input_line(g, w, gx, C, geo, p):
    kh, kw, sh, sw, dh, dw, top, left, OH, OW, H, W = geo
    n, iy = p // H, p % H
    for ky in range(kh):
        y = iy + top - ky * dh
        if y < 0 or y % sh != 0 or y // sh >= OH:
            continue
        for ox in range(OW):
            lo, hi = _taps(ox * sw - left, dw, kw, W)
            for kx in range(lo, hi):
                i = (p * W + ox * sw - left + kx * dw) * C
                _add_product(gx, i, g, ((n * OH + y // sh) * OW + ox) * C, w, (ky * kw + kx) * C, C)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _dw_forward(x, w, y, C, geo, first, last):
    for q in range(first, last):
        _dw_line(x, w, y, C, geo, q, False)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _dw_input_grad(g, w, gx, C, geo, first, last):
    for p in range(first, last):
        _dw_input_line(g, w, gx, C, geo, p)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _dw_weight_grad(x, g, part, N, C, geo, first, last):
    """part[i] = the sum over the i-th share of the output lines."""
    lines, shares = N * geo[8], part.shape[0]
    for i in range(first, last):
        for q in range(lines * i // shares, lines * (i + 1) // shares):
            _dw_line(x, part[i], g, C, geo, q, True)
