"""The CPU path: columns built by Numba, multiplied by BLAS; a direct kernel for depthwise. README.md says why.

Every function takes and returns what __init__.py documents. Two building blocks do all the work that is not
depthwise, each in chunks whose columns stay in the cache:

    gather    image → columns → GEMM          each output pixel collects its kh·kw·C inputs
    scatter   GEMM → columns → image (adds)   each input pixel spreads its kh·kw·F products

At stride 1 either block computes either of `forward` and `input_grad`, so the one with fewer columns is chosen.
Threads belong either to Numba (filling columns) or to BLAS (multiplying), never to both at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numba
import numpy as np

# Bytes of columns a chunk may have. Measured: flat between 1 and 4 MB, worse beyond; see README.
CHUNK = 2 << 20
# Below this many column elements, waking Numba's threads costs more than they save.
SERIAL = 1 << 15
# Columns of the other side must be this many times fewer before a form changes sides: scattering reads, adds and
# writes where gathering only writes.
LOPSIDED = 2

_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
_scratch = threading.local()


# ------------------------------------------------------------------------------------------- the three forms


def forward(x, w, *, stride, padding, dilation, groups):
    """y (N, OH, OW, F) from x (N, H, W, C) and w (kh, kw, C/groups, F)."""
    x, w = _ready(x), _ready(w)
    N, H, W, C = x.shape
    kh, kw, cg, F = w.shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    shape = (N, geo[8], geo[9], F)
    if cg == 1 < groups:
        return _depthwise_forward(_spread(x, F // groups), w, geo, shape)
    if _is_matmul(geo, padding):
        y = np.empty(shape, x.dtype)
        for cs, fs in _groups(C, F, groups):
            np.matmul(x.reshape(-1, C)[:, cs], w[0, 0, :, fs], out=y.reshape(-1, F)[:, fs])
        return y
    if stride == (1, 1) and LOPSIDED * F <= C:
        y = np.zeros(shape, x.dtype)
        for cs, fs in _groups(C, F, groups):
            _scatter(x, cs, _flipped(w[..., fs]), y, fs, _adjoint(geo, H, W))
        return y
    y = np.empty(shape, x.dtype)
    for cs, fs in _groups(C, F, groups):
        _gather(x, cs, w[..., fs].reshape(-1, fs.stop - fs.start), y, fs, geo)
    return y


def input_grad(g, w, *, x_shape, stride, padding, dilation, groups):
    """gx (N, H, W, C) from g (N, OH, OW, F) and w (kh, kw, C/groups, F)."""
    g, w = _ready(g), _ready(w)
    N, H, W, C = x_shape
    kh, kw, cg, F = w.shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    if cg == 1 < groups:
        gx = _depthwise_input_grad(g, w, geo, (N, H, W, F))
        return gx if F == C else gx.reshape(N, H, W, C, F // C).sum(axis=-1)
    if _is_matmul(geo, padding):
        gx = np.empty(x_shape, g.dtype)
        for cs, fs in _groups(C, F, groups):
            np.matmul(g.reshape(-1, F)[:, fs], w[0, 0, :, fs].T, out=gx.reshape(-1, C)[:, cs])
        return gx
    if stride == (1, 1) and LOPSIDED * C > F:
        gx = np.empty(x_shape, g.dtype)
        for cs, fs in _groups(C, F, groups):
            _gather(g, fs, _flipped(w[..., fs]).T, gx, cs, _adjoint(geo, H, W))
        return gx
    gx = np.zeros(x_shape, g.dtype)
    for cs, fs in _groups(C, F, groups):
        _scatter(g, fs, w[..., fs].reshape(-1, fs.stop - fs.start).T, gx, cs, geo)
    return gx


def weight_grad(x, g, *, w_shape, stride, padding, dilation, groups):
    """gw (kh, kw, C/groups, F) from x (N, H, W, C) and g (N, OH, OW, F)."""
    x, g = _ready(x), _ready(g)
    H, W, C = x.shape[1:]
    kh, kw, cg, F = w_shape
    geo = _geometry(H, W, kh, kw, stride, padding, dilation)
    if cg == 1 < groups:
        return _depthwise_weight_grad(_spread(x, F // groups), g, geo)
    gw = np.empty(w_shape, x.dtype)
    for cs, fs in _groups(C, F, groups):
        if _is_matmul(geo, padding):
            gw[0, 0, :, fs] = x.reshape(-1, C)[:, cs].T @ g.reshape(-1, F)[:, fs]
        elif stride == (1, 1) and LOPSIDED * F <= C:
            # Σ over pixels of x ⊗ columns(g): the same products, summed over input instead of output pixels
            gwt = _correlate(g, fs, x, cs, _adjoint(geo, H, W)).T.reshape(cg, kh, kw, -1)
            gw[..., fs] = gwt.transpose(1, 2, 0, 3)[::-1, ::-1]
        else:
            gw[..., fs] = _correlate(x, cs, g, fs, geo).reshape(kh, kw, cg, -1)
    return gw


# -------------------------------------------------------------------------------------------------- geometry


def _ready(a: np.ndarray) -> np.ndarray:
    """C-contiguous and writeable: Numba compiles every kernel again for read-only arrays."""
    a = np.ascontiguousarray(a)
    return a if a.flags.writeable else a.copy()


def _geometry(H, W, kh, kw, stride, padding, dilation):
    (top, bottom), (left, right) = padding
    OH = (H + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    OW = (W + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    return (kh, kw, *stride, *dilation, top, left, OH, OW)


def _adjoint(geo, H, W):
    """The stride-1 convolution that is `geo`'s input gradient: it reads (OH, OW) and makes (H, W)."""
    kh, kw, _, _, dh, dw, top, left, _, _ = geo
    return (kh, kw, 1, 1, dh, dw, dh * (kh - 1) - top, dw * (kw - 1) - left, H, W)


def _is_matmul(geo, padding) -> bool:
    return geo[:4] == (1, 1, 1, 1) and padding == ((0, 0), (0, 0))


def _groups(C: int, F: int, groups: int) -> list[tuple[slice, slice]]:
    cg, fg = C // groups, F // groups
    return [(slice(i * cg, i * cg + cg), slice(i * fg, i * fg + fg)) for i in range(groups)]


def _flipped(w: np.ndarray) -> np.ndarray:
    """(kh, kw, C, F) → (C, kh·kw·F), both kernel axes reversed; F stays innermost, so that the copy runs along it."""
    return w[::-1, ::-1].transpose(2, 0, 1, 3).reshape(w.shape[2], -1)


# ------------------------------------------------------------------------- columns and products, chunk by chunk


def _chunks(n_lines: int, line_bytes: int, budget: int) -> Iterator[tuple[int, int]]:
    """Split the image lines 0 … n_lines into equal runs whose columns fit the budget."""
    count = max(1, min(n_lines, -(-n_lines * line_bytes // budget)))
    size = -(-n_lines // count) if n_lines else 1
    for start in range(0, n_lines, size):
        yield start, min(start + size, n_lines)


def _buffer(rows: int, cols: int, dtype) -> np.ndarray:
    """A (rows, cols) piece of this thread's scratch memory: fresh pages for every call would cost more than im2col."""
    need = rows * cols * dtype.itemsize
    memory = getattr(_scratch, "memory", None)
    if memory is None or memory.nbytes < need:
        memory = _scratch.memory = np.empty(max(need, CHUNK), np.uint8)
    return memory[:need].view(dtype).reshape(rows, cols)


def _gather(src, s, matrix, dst, d, geo):
    """dst[..., d] = columns(src[..., s]) @ matrix, with matrix (kh·kw·|s|, |d|)."""
    N, OH, OW, D = dst.shape
    K = matrix.shape[0]
    src3, dst2 = _lines(src), dst.reshape(-1, D)[:, d]
    for a, b in _chunks(N * OH, OW * K * src.itemsize, CHUNK):
        col = _buffer((b - a) * OW, K, src.dtype)
        _im2col(src3, col, s.start, s.stop - s.start, src.shape[3], geo, a, b, col.size > SERIAL)
        np.matmul(col, matrix, out=dst2[a * OW : b * OW])


def _scatter(src, s, matrix, dst, d, geo):
    """dst[..., d] += images(src[..., s] @ matrix), with matrix (|s|, kh·kw·|d|): the adjoint of a gather."""
    N, OH, OW, S = src.shape
    K = matrix.shape[1]
    src2, dst3 = src.reshape(-1, S)[:, s], _lines(dst)
    for a, b in _chunks(N * OH, OW * K * src.itemsize, CHUNK):
        col = _buffer((b - a) * OW, K, src.dtype)
        np.matmul(src2[a * OW : b * OW], matrix, out=col)
        _col2im(col, dst3, d.start, d.stop - d.start, dst.shape[3], geo, a, b, col.size > SERIAL)


def _correlate(a, s, b, d, geo):
    """columns(a[..., s])ᵀ @ b[..., d]: (kh·kw·|s|, |d|), summed over chunks in order."""
    N, OH, OW, D = b.shape
    kh, kw = geo[:2]
    K = kh * kw * (s.stop - s.start)
    a3, b2 = _lines(a), b.reshape(-1, D)[:, d]
    total = np.zeros((K, d.stop - d.start), a.dtype)
    part = None
    for i, j in _chunks(N * OH, OW * K * a.itemsize, max(CHUNK, 2 * total.nbytes)):
        col = _buffer((j - i) * OW, K, a.dtype)
        _im2col(a3, col, s.start, s.stop - s.start, a.shape[3], geo, i, j, col.size > SERIAL)
        if i == 0:
            np.matmul(col.T, b2[i * OW : j * OW], out=total)
        else:
            part = np.matmul(col.T, b2[i * OW : j * OW], out=part)
            total += part
    return total


def _lines(a: np.ndarray) -> np.ndarray:
    """(N, H, W, C) → (N, H, W·C): neighbouring pixels' channels are one run of memory."""
    return a.reshape(a.shape[0], a.shape[1], a.shape[2] * a.shape[3])


@numba.njit(cache=True, error_model="numpy")
def _taps(start, step, count, size):
    """The taps t in [lo, hi) for which 0 ≤ start + t·step < size."""
    if step == 1:
        lo, hi = -start, size - start
    else:
        lo, hi = (step - 1 - start) // step, (size - start + step - 1) // step
    lo = min(max(lo, 0), count)
    return lo, max(min(hi, count), lo)


@numba.njit(cache=True, error_model="numpy")
def _im2col_line(x, col, c0, cg, C, geo, q, row):
    kh, kw, sh, sw, dh, dw, top, left, OH, OW = geo
    n, oy = q // OH, q % OH
    H, W = x.shape[1], x.shape[2] // C
    for ox in range(OW):
        ix = ox * sw - left
        lo, hi = _taps(ix, dw, kw, W)
        for ky in range(kh):
            iy = oy * sh - top + ky * dh
            k0 = ky * kw * cg
            if iy < 0 or iy >= H:
                for j in range(kw * cg):
                    col[row + ox, k0 + j] = 0
                continue
            for j in range(lo * cg):
                col[row + ox, k0 + j] = 0
            if dw == 1 and cg == C:  # the taps of one kernel row are one run of memory
                for j in range((hi - lo) * C):
                    col[row + ox, k0 + lo * C + j] = x[n, iy, (ix + lo) * C + j]
            else:
                for kx in range(lo, hi):
                    for c in range(cg):
                        col[row + ox, k0 + kx * cg + c] = x[n, iy, (ix + kx * dw) * C + c0 + c]
            for j in range(hi * cg, kw * cg):
                col[row + ox, k0 + j] = 0


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _im2col(x, col, c0, cg, C, geo, a, b, parallel):
    """col[(q − a)·OW + ox, (ky·kw + kx)·cg + c] = x at that tap, 0 outside, for the output lines q = n·OH + oy in
    [a, b) and the channels c0 … c0 + cg of C."""
    if parallel:
        for q in numba.prange(a, b):
            _im2col_line(x, col, c0, cg, C, geo, q, (q - a) * geo[9])
    else:
        for q in range(a, b):
            _im2col_line(x, col, c0, cg, C, geo, q, (q - a) * geo[9])


@numba.njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _col2im_line(col, x, c0, cg, C, geo, a, b, p):
    kh, kw, sh, sw, dh, dw, top, left, OH, OW = geo
    H, W = x.shape[1], x.shape[2] // C
    n, iy = p // H, p % H
    for ky in range(kh):
        y = iy + top - ky * dh
        q = n * OH + y // sh
        if y < 0 or y % sh != 0 or y // sh >= OH or q < a or q >= b:
            continue
        for ox in range(OW):
            ix = ox * sw - left
            lo, hi = _taps(ix, dw, kw, W)
            row, k0 = (q - a) * OW + ox, ky * kw * cg
            if dw == 1 and cg == C:
                for j in range((hi - lo) * C):
                    x[n, iy, (ix + lo) * C + j] += col[row, k0 + lo * C + j]
            else:
                for kx in range(lo, hi):
                    for c in range(cg):
                        x[n, iy, (ix + kx * dw) * C + c0 + c] += col[row, k0 + kx * cg + c]


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _col2im(col, x, c0, cg, C, geo, a, b, parallel):
    """Add the columns of the output lines [a, b) into the image lines they came from. One thread owns an image line
    and collects what falls on it, in a fixed order: no races, and the same bits whatever the thread count."""
    H, OH = x.shape[1], geo[8]
    first, last = a // OH * H, ((b - 1) // OH + 1) * H
    if parallel:
        for p in numba.prange(first, last):
            _col2im_line(col, x, c0, cg, C, geo, a, b, p)
    else:
        for p in range(first, last):
            _col2im_line(col, x, c0, cg, C, geo, a, b, p)


# ------------------------------------------------------------------- depthwise: one input channel per group, direct


def _spread(x, m):
    """Each channel repeated for the m outputs it feeds; with that, every depthwise convolution has m = 1."""
    return x if m == 1 else np.repeat(x, m, axis=3)


def _depthwise_forward(x, w, geo, shape):
    y = np.empty(shape, x.dtype)
    _dw_forward(x, w.reshape(geo[0], geo[1], -1), y, geo, y.size * geo[0] * geo[1] > SERIAL)
    return y


def _depthwise_input_grad(g, w, geo, shape):
    gx = np.zeros(shape, g.dtype)
    _dw_input_grad(g, w.reshape(geo[0], geo[1], -1), gx, geo, g.size * geo[0] * geo[1] > SERIAL)
    return gx


def _depthwise_weight_grad(x, g, geo):
    # A fixed number of partial sums, added in order: the result does not depend on who computed which.
    part = np.zeros((min(16, max(1, g.shape[0] * g.shape[1])), geo[0], geo[1], x.shape[3]), x.dtype)
    _dw_weight_grad(x, g, part, geo, g.size * geo[0] * geo[1] > SERIAL)
    return part.sum(axis=0)[:, :, None, :]


@numba.njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _dw_line(mode, x, w, y, geo, q):
    """One output line q of a depthwise convolution. mode 0: y = x·w; mode 1: w += x·y."""
    kh, kw, sh, sw, dh, dw, top, left, OH, OW = geo
    n, oy = q // OH, q % OH
    H, W, C = x.shape[1:]
    ylo, yhi = _taps(oy * sh - top, dh, kh, H)
    for ox in range(OW):
        lo, hi = _taps(ox * sw - left, dw, kw, W)
        if mode == 0:
            for c in range(C):
                y[n, oy, ox, c] = 0
        for ky in range(ylo, yhi):
            iy = oy * sh - top + ky * dh
            for kx in range(lo, hi):
                ix = ox * sw - left + kx * dw
                if mode == 0:
                    for c in range(C):
                        y[n, oy, ox, c] += x[n, iy, ix, c] * w[ky, kx, c]
                else:
                    for c in range(C):
                        w[ky, kx, c] += x[n, iy, ix, c] * y[n, oy, ox, c]


@numba.njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _dw_input_line(g, w, gx, geo, p):
    kh, kw, sh, sw, dh, dw, top, left, OH, OW = geo
    H, W, C = gx.shape[1:]
    n, iy = p // H, p % H
    for ky in range(kh):
        y = iy + top - ky * dh
        if y < 0 or y % sh != 0 or y // sh >= OH:
            continue
        for ox in range(OW):
            lo, hi = _taps(ox * sw - left, dw, kw, W)
            for kx in range(lo, hi):
                ix = ox * sw - left + kx * dw
                for c in range(C):
                    gx[n, iy, ix, c] += g[n, y // sh, ox, c] * w[ky, kx, c]


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _dw_forward(x, w, y, geo, parallel):
    if parallel:
        for q in numba.prange(y.shape[0] * geo[8]):
            _dw_line(0, x, w, y, geo, q)
    else:
        for q in range(y.shape[0] * geo[8]):
            _dw_line(0, x, w, y, geo, q)


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _dw_input_grad(g, w, gx, geo, parallel):
    if parallel:
        for p in numba.prange(gx.shape[0] * gx.shape[1]):
            _dw_input_line(g, w, gx, geo, p)
    else:
        for p in range(gx.shape[0] * gx.shape[1]):
            _dw_input_line(g, w, gx, geo, p)


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _dw_weight_grad(x, g, part, geo, parallel):
    """part[i] = the sum over the i-th share of the output lines."""
    lines, shares = g.shape[0] * geo[8], part.shape[0]
    if parallel:
        for i in numba.prange(shares):
            for q in range(lines * i // shares, lines * (i + 1) // shares):
                _dw_line(1, x, part[i], g, geo, q)
    else:
        for i in range(shares):
            for q in range(lines * i // shares, lines * (i + 1) // shares):
                _dw_line(1, x, part[i], g, geo, q)
