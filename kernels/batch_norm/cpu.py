"""Batch norm on the CPU: one pass for the sums of every channel, one for the result, both ways.

Forward and backward are the same two loops. The rows are dealt to a fixed number of blocks, so the sums have
one order whatever the thread count.
"""

from typing import Any

import numpy as np
from numba import njit

from tinygen.kernels.threads import grain, share

_BLOCKS = 16
_FAST = {"contract", "nsz", "arcp"}
_FLAGS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy", "cache": True, "nogil": True}


@njit(**_FLAGS)
def _sums(a, x, a0, x0, blocks, first, second, start, stop):
    """first[k,c] = Σ (a − a0[c]) and second[k,c] = Σ (a − a0[c])·(x − x0[c]) over the rows of block k."""
    M, C = x.shape
    for k in range(start, stop):
        for m in range(k * M // blocks, (k + 1) * M // blocks):
            for c in range(C):
                d = a[m, c] - a0[c]
                first[k, c] += d
                second[k, c] += d * (x[m, c] - x0[c])


@njit(**_FLAGS)
def _combine(a, x, x0, ka, kx, k0, blocks, y, start, stop):
    """y = a·ka[c] + (x − x0[c])·kx[c] + k0[c]"""
    M, C = x.shape
    for k in range(start, stop):
        for m in range(k * M // blocks, (k + 1) * M // blocks):
            for c in range(C):
                y[m, c] = a[m, c] * ka[c] + (x[m, c] - x0[c]) * kx[c] + k0[c]


def _rows(a, C):
    """a as contiguous rows of C: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(-1, C)


def _deal(loop, x, *args):
    blocks = min(_BLOCKS, len(x))
    share(blocks, lambda start, stop: loop(*args, start, stop), least=grain(blocks, x.size))


def _reduce(a, x, a0, x0):
    first, second = np.zeros((_BLOCKS, x.shape[1])), np.zeros((_BLOCKS, x.shape[1]))
    _deal(_sums, x, a, x, a0, x0, min(_BLOCKS, len(x)), first, second)
    return first.sum(0), second.sum(0)


def forward(x, w, b, *, eps):
    """x N,…,C; w, b (C,). Returns (y, mean, var) and the hint (mean, rstd), float64 (C,)."""
    rows, t = _rows(x, x.shape[-1]), x.dtype.type
    M, C = rows.shape
    # Sums about the first row: no cancellation when the mean is large, and still one pass.
    start = rows[0].copy()
    first, second = _reduce(rows, rows, start, start)
    mean, var = start + first / M, np.maximum(second / M - (first / M) ** 2, 0.0)
    rstd = 1.0 / np.sqrt(var + eps)
    centre = mean.astype(t)
    scale = rstd * w
    y = np.empty(x.shape, t)
    shift = b - (mean - centre) * scale
    _deal(_combine, rows, rows, rows, centre, np.zeros(C, t), scale.astype(t), shift.astype(t), min(_BLOCKS, M),
          y.reshape(M, C))
    return (y, centre, var.astype(t)), (mean, rstd)


def backward(g, x, w, b, *, eps, hint):
    """g = cotangents of (y, mean, var); hint from forward. Returns gx like x, gw, gb (C,)."""
    (gy, g_mean, g_var), (mean, rstd) = g, hint
    rows, t = _rows(x, x.shape[-1]), x.dtype.type
    M, C = rows.shape
    centre = mean.astype(t)
    grads = _rows(gy, C)
    gb, second = _reduce(grads, rows, np.zeros(C, t), centre)
    gw = (second - (mean - centre) * gb) * rstd
    scale = rstd * w
    slope = 2 * g_var / M - scale * rstd * gw / M
    gx = np.empty(x.shape, t)
    constant = (g_mean - scale * gb) / M - (mean - centre) * slope
    _deal(_combine, rows, grads, rows, centre, scale.astype(t), slope.astype(t), constant.astype(t), min(_BLOCKS, M),
          gx.reshape(M, C))
    return gx, gw.astype(t), gb.astype(t)
