"""Depthwise convolution: one input channel a group, so that nothing is summed over channels and memory sets the pace.

At 3×3 and stride 1 a window slides along the lines of the image (window.py). Else ROWS neighbouring results at a time,
a vector of channels of each in registers, take in the runs of all taps, found by the table of gemm.py. Either way each
pixel of the image is fetched from memory once. README.md has the three forms.
"""

from __future__ import annotations

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, PIECES, get_threads, grain, run

from . import simd
from .gemm import PIXELS, look_at, look_up, place, ready
from .window import slide

# Results along a line for which a window slides before it turns to the next vector of channels: few, so that memory is
# read nearly as it lies.
STRETCH = 32


def forward(x, w, geo):
    """y (N, OH, OW, F) from x (N, H, W, C) and w (kh, kw, 1, F), C dividing F."""
    F = w.shape[3]
    x, w = _widen(x, F), _widen(w, F)
    y = np.empty((x.shape[0], geo[8], geo[9], x.shape[3]), x.dtype)
    _each(x, w, y, geo, False, 0)
    return _narrowed(y, F)


def input_grad(g, w, geo):
    """gx (N, H, W, F) from g (N, OH, OW, F) and w (kh, kw, 1, F): of each output channel for itself."""
    F = w.shape[3]
    g, w = _widen(g, F), _widen(w, F)
    gx = np.empty((g.shape[0], geo[10], geo[11], g.shape[3]), g.dtype)
    _each(g, w, gx, geo, True, 0)
    return _narrowed(gx, F)


def weight_grad(x, g, geo):
    """gw (kh, kw, 1, F) from x (N, H, W, C) and g (N, OH, OW, F), C dividing F."""
    F = g.shape[3]
    x, g = _widen(x, F), _widen(g, F)
    slots = PIECES * get_threads()
    gw = np.zeros((slots, geo[0], geo[1], 1, x.shape[3]), x.dtype)
    _each(x, gw, g, geo, False, slots)
    return _narrowed(gw.sum(axis=0), F)


def _each(src, w, dst, geo, backward, slots) -> None:
    """dst = src · w for each channel, or, given slots for w to be summed in, w += src · dst."""
    chunks, C = PIECES * get_threads(), src.shape[3]
    if geo[:6] == (3, 3, 1, 1, 1, 1):
        top, left = geo[6:8]
        if backward:
            w, top, left = np.ascontiguousarray(w[::-1, ::-1]), 2 - top, 2 - left
        run(_slide_whole, chunks, src.reshape(-1), w.reshape(-1), dst.reshape(-1), src.shape, dst.shape, top, left,
            chunks, slots, least=grain(chunks, src.size + dst.size, PIECE))
        return
    n = chunks * min(geo[2], geo[10]) * min(geo[3], geo[11]) if backward else chunks
    run(_whole, n, src.reshape(-1), w.reshape(-1), dst.reshape(-1), geo, (src.shape[0], C, 0, C), backward, chunks,
        slots, least=grain(n, src.size + dst.size, PIECE))


def _widen(a, F: int) -> np.ndarray:
    """Each channel repeated for the outputs that it feeds, and zeros up to a whole number of vectors."""
    a, lanes = ready(a), simd.lanes(a.dtype)
    if a.shape[3] == F and F % lanes == 0:
        return a
    wide = np.zeros((*a.shape[:3], -(-F // lanes) * lanes), a.dtype)
    wide[..., :F] = np.repeat(a, F // a.shape[3], axis=3)
    return wide


def _narrowed(a, F: int) -> np.ndarray:
    return a if a.shape[3] == F else np.ascontiguousarray(a[..., :F])


@njit(cache=True, error_model="numpy", nogil=True)
def _piece(src, w, dst, geo, runs, backward, chunks, slots, first, last):
    """The chunks first … last of the results of all phases."""
    C, T, lanes = runs[3], geo[0] * geo[1], simd.VECTOR // src.itemsize
    taps, table = np.empty((T, 3), np.int64), np.empty((T + 4, PIXELS), np.int64)
    outs, zeros, spare = (T + 3) * PIXELS, np.zeros(C, src.dtype), np.zeros(C, src.dtype)
    for part in range(first, last):
        T, size, grid, step, into, lattice = look_at(taps, part // chunks, geo, C, backward)
        if slots:
            taps[:, 0] += part * T * C
        pixels = runs[0] * grid[0] * grid[1]
        tiles = -(-pixels // simd.ROWS)
        stop = min(tiles * (part % chunks + 1) // chunks * simd.ROWS, pixels)
        for start in range(tiles * (part % chunks) // chunks * simd.ROWS, stop, PIXELS):
            count = min(PIXELS, stop - start)
            look_up(table, taps, 0, T, src, zeros, runs, size, grid, step, start, count)
            place(table, dst, C, 0, into, lattice, count, spare.ctypes.data)
            for p in range(0, count, simd.ROWS):
                for c in range(0, C, lanes):
                    simd.multiply_each(table, p, PIXELS, taps, T, c, w, outs + p, slots)


@njit(cache=True, error_model="numpy", nogil=True)
def _slide(src, w, dst, size, into, top, left, chunks, slots, first, last):
    """The chunks first … last of the lines of results, images of the shape `into`, from images of the shape `size`."""
    (_, H, W, C), (N, OH, OW, _) = size, into
    lanes, pitch, line = simd.VECTOR // src.itemsize, C * src.itemsize, W * C * src.itemsize
    base, out, zeros = src.ctypes.data, dst.ctypes.data, np.zeros(lanes, src.dtype)
    nothing = zeros.ctypes.data
    for chunk in range(first, last):
        w0 = chunk * 9 * C if slots else 0
        for q in range(N * OH * chunk // chunks, N * OH * (chunk + 1) // chunks):
            n, i = q // OH, q % OH - top
            a, b, c = base + (n * H + i) * line, base + (n * H + i + 1) * line, base + (n * H + i + 2) * line
            for p in range(0, OW, STRETCH):
                for k in range(0, C, lanes):
                    shift = k * src.itemsize
                    slide((a + shift, b + shift, c + shift), (i, i + 1, i + 2), H, nothing, pitch, p - left, W,
                          min(STRETCH, OW - p), w, w0 + k, C, out + (q * OW + p) * pitch + shift, slots)


_pieces, _slides = loop(_piece), loop(_slide)


@njit(cache=True, error_model="numpy", nogil=True)
def _whole(team, pieces, n, *args):
    divide(team, pieces, n, _pieces(args))


@njit(cache=True, error_model="numpy", nogil=True)
def _slide_whole(team, pieces, n, *args):
    divide(team, pieces, n, _slides(args))
