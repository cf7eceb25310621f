"""Depthwise convolution: one input channel a group, so that nothing is summed over channels and memory sets the pace.

ROWS neighbouring results at a time, a vector of channels of each in registers, take in the runs of all taps by the table
of gemm.py; each pixel of the image is fetched from memory once. README.md has the three forms.
"""

from __future__ import annotations

import numba
import numpy as np

from tinygen.kernels.threads import get_threads, grain, share

from . import simd
from .gemm import PIXELS, buffer, look_at, look_up, phases, place, ready, tables, zeros_of


def forward(x, w, geo):
    """y (N, OH, OW, F) from x (N, H, W, C) and w (kh, kw, 1, F), C dividing F."""
    F = w.shape[3]
    x, w = _widen(x, F), _widen(w, F)
    y = np.empty((x.shape[0], geo[8], geo[9], x.shape[3]), x.dtype)
    _share(x, w, y, geo, False)
    return _narrowed(y, F)


def input_grad(g, w, geo):
    """gx (N, H, W, F) from g (N, OH, OW, F) and w (kh, kw, 1, F): of each output channel for itself."""
    F = w.shape[3]
    g, w = _widen(g, F), _widen(w, F)
    gx = np.empty((g.shape[0], geo[10], geo[11], g.shape[3]), g.dtype)
    _share(g, w, gx, geo, True)
    return _narrowed(gx, F)


def weight_grad(x, g, geo):
    """gw (kh, kw, 1, F) from x (N, H, W, C) and g (N, OH, OW, F), C dividing F."""
    F = g.shape[3]
    x, g = _widen(x, F), _widen(g, F)
    parts: dict[int, np.ndarray] = {}

    def work(first: int, last: int) -> None:
        parts[first] = np.zeros((geo[0], geo[1], 1, x.shape[3]), x.dtype)
        _call(x, parts[first], g, geo, False, True, first, last)

    share(get_threads(), work, least=grain(get_threads(), x.size + g.size))
    total, *others = (parts[k] for k in sorted(parts))
    for other in others:
        total += other
    return _narrowed(total, F)


def _share(src, w, dst, geo, backward) -> None:
    share(get_threads(), lambda first, last: _call(src, w, dst, geo, backward, False, first, last),
          least=grain(get_threads(), src.size + dst.size))


def _call(src, w, dst, geo, backward, adjoint, first, last):
    C = src.shape[3]
    table, taps = tables(geo, PIXELS)
    spare = buffer("panel", C, src.dtype)
    if adjoint:
        spare[:C] = 0
    _part(src.reshape(-1), zeros_of(C, src.dtype), w.reshape(-1), dst.reshape(-1), spare, table, taps, geo,
          (src.shape[0], C, 0, C), backward, adjoint, first, last, get_threads())


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


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _part(src, zeros, w, dst, spare, table, taps, geo, runs, backward, adjoint, part, last, parts):
    """The share part … last of `parts` of the pixels of each phase; adjoint: to w, from dst."""
    C, lanes, outs = runs[3], simd.VECTOR // src.itemsize, (table.shape[0] - 1) * PIXELS
    for phase in range(phases(geo, backward)):
        T, size, grid, step, into, lattice = look_at(taps, phase, geo, C, backward)
        tiles = -(-runs[0] * grid[0] * grid[1] // simd.ROWS)
        stop = min(tiles * last // parts * simd.ROWS, runs[0] * grid[0] * grid[1])
        for start in range(tiles * part // parts * simd.ROWS, stop, PIXELS):
            count = min(PIXELS, stop - start)
            look_up(table, taps, T, src, zeros, runs, size, grid, step, start, count)
            place(table, dst, C, 0, into, lattice, count, spare.ctypes.data)
            for p in range(0, count, simd.ROWS):
                for c in range(0, C, lanes):
                    simd.multiply_each(table, p, PIXELS, taps, T, c, w, outs + p, adjoint)
