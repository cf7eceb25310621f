"""Batch norm on the CPU: one pass for the sums of every channel, one for the result, both ways.

Forward and backward are the same two loops. Few channels are taken several positions at a time (`_positions`), so that
the loops along a row of memory are long. The rows are dealt to a fixed number of blocks: the sums have one order
whatever the thread count.
"""

import math
from typing import Any

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, grain, run

_BLOCKS = 16
_ROW = 128  # numbers that make a row long enough
_RUN = 16  # rows added in the arrays' precision before their sum goes to the block's in float64
_FAST = {"contract", "nsz", "arcp"}
_FLAGS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy", "cache": True, "nogil": True}


@njit(**_FLAGS)
def _sums(a, x, a0, x0, blocks, first, second, start, stop):
    """first[k,c] = Σ (a − a0[c]) and second[k,c] = Σ (a − a0[c])·(x − x0[c]) over the rows of block k."""
    M, C = x.shape
    one, two = np.empty(C, x.dtype), np.empty(C, x.dtype)
    for k in range(start, stop):
        end = (k + 1) * M // blocks
        for begin in range(k * M // blocks, end, _RUN):
            one[:] = 0
            two[:] = 0
            for m in range(begin, min(begin + _RUN, end)):
                for c in range(C):
                    d = a[m, c] - a0[c]
                    one[c] += d
                    two[c] += d * (x[m, c] - x0[c])
            for c in range(C):
                first[k, c] += one[c]
            for c in range(C):
                second[k, c] += two[c]


@njit(**_FLAGS)
def _combine(a, x, x0, ka, kx, k0, y, start, stop):
    """y = a·ka[c] + (x − x0[c])·kx[c] + k0[c] on the rows start:stop"""
    for m in range(start, stop):
        for c in range(x.shape[1]):
            y[m, c] = a[m, c] * ka[c] + (x[m, c] - x0[c]) * kx[c] + k0[c]


_sums_pieces, _combine_pieces = loop(_sums), loop(_combine)


@njit(**_FLAGS)
def _sums_all(team, pieces, n, *args):
    divide(team, pieces, n, _sums_pieces(args))


@njit(**_FLAGS)
def _combine_all(team, pieces, n, *args):
    divide(team, pieces, n, _combine_pieces(args))


def _positions(x):
    """How many positions to take as one row: a divisor of their number, 1 where there are channels enough."""
    C = x.shape[-1]
    return math.gcd(x.size // C, 2 ** max(0, (_ROW // C).bit_length() - 1))


def _rows(a, width):
    """a as contiguous rows: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(-1, width)


def _laid_out(a, x, *constants):
    """a and x as rows of one or more positions; beside them, in x's precision, the constants of the channels."""
    n, C = _positions(x), x.shape[-1]
    rows = _rows(x, n * C)
    return rows if a is x else _rows(a, n * C), rows, *[np.tile(np.asarray(c, x.dtype), n) for c in constants]


def _reduce(a, x, a0, x0):
    """Σ (a − a0) and Σ (a − a0)·(x − x0) of each channel, float64."""
    a, rows, a0, x0 = _laid_out(a, x, a0, x0)
    blocks = min(_BLOCKS, len(rows))
    first, second = sums = np.zeros((2, blocks, a0.size))
    run(_sums_all, blocks, a, rows, a0, x0, blocks, first, second, least=grain(blocks, x.size, PIECE))
    return sums.reshape(2, -1, x.shape[-1]).sum(1)


def _apply(a, x, *constants):
    """a·ka + (x − x0)·kx + k0, with constants x0, ka, kx, k0 of each channel."""
    a, rows, *constants = _laid_out(a, x, *constants)
    y = np.empty(x.shape, x.dtype)
    out = y.reshape(rows.shape)
    n = len(rows)
    run(_combine_all, n, a, rows, *constants, out, least=grain(n, x.size, PIECE))
    return y


def forward(x, w, b, *, eps):
    """x N,…,C; w, b (C,). Returns (y, mean, var) and the hint (mean, rstd), float64 (C,)."""
    t, C = x.dtype.type, x.shape[-1]
    M = x.size // C
    # Sums about the first row: no cancellation when the mean is large, and still one pass.
    start = x.reshape(-1, C)[0]
    first, second = _reduce(x, x, start, start)
    mean, var = start + first / M, np.maximum(second / M - (first / M) ** 2, 0.0)
    rstd = 1.0 / np.sqrt(var + eps)
    centre = mean.astype(t)
    scale = rstd * w
    y = _apply(x, x, centre, np.zeros(C), scale, b - (mean - centre) * scale)
    return (y, centre, var.astype(t)), (mean, rstd)


def backward(g, x, w, b, *, eps, hint):
    """g = cotangents of (y, mean, var); hint from forward. Returns gx like x, gw, gb (C,)."""
    (gy, g_mean, g_var), (mean, rstd) = g, hint
    t, C = x.dtype.type, x.shape[-1]
    M = x.size // C
    centre = mean.astype(t)
    gb, second = _reduce(gy, x, np.zeros(C), centre)
    gw = (second - (mean - centre) * gb) * rstd
    scale = rstd * w
    slope = 2 * g_var / M - scale * rstd * gw / M
    gx = _apply(gy, x, centre, scale, slope, (g_mean - scale * gb) / M - (mean - centre) * slope)
    return gx, gw.astype(t), gb.astype(t)
