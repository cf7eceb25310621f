"""Group norm (+ SiLU) on the CPU: one sample at a time, so that its passes find it in the second-level cache.

A sample P,C is walked in rows of L consecutive elements, L a multiple of C: lane j of a row always belongs to
channel j mod C. Each pass is then a loop over lanes with the channel's constants laid out beside it, which
vectorises whatever C and the grouping are. See README.md for the formulas.
"""
import math
from typing import Any

import numpy as np
from numba import njit

from tinygen.kernels.mathfast import exp
from tinygen.kernels.threads import grain, share

_ROW = 256
# No "reassoc": nothing here needs a sum reordered, and (x - mean)·a + b must not become x·a + (b - mean·a),
# which cancels when the mean is large.
_FLAGS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True, "nogil": True}


def _row_length(P, C):
    """Lanes per row: a multiple of C, of 16 where that is cheap, about _ROW, at most the sample."""
    L = C
    if C < _ROW:
        L = math.lcm(C, 16) if math.lcm(C, 16) <= 8 * _ROW else C
        L *= -(-_ROW // L)
    return min(L, P * C)


@njit(**_FLAGS)
def _repeat(a, C):
    for j in range(C, a.size):
        a[j] = a[j - C]


@njit(**_FLAGS)
def _fold(a, C):
    for start in range(C, a.size, C):
        for c in range(C):
            a[c] += a[start + c]


@njit(**_FLAGS)
def _forward_sample(x, w, b, eps, silu, L, y, mean, rstd):
    C = w.size
    groups = mean.size
    width = C // groups
    n = (x.size // C) * width
    one = w.dtype.type(1)

    total = np.zeros(L)
    for start in range(0, x.size, L):
        row = x[start : start + L]
        for j in range(row.size):
            total[j] += row[j]
    _fold(total, C)
    centre = np.empty(L, x.dtype)
    for k in range(groups):
        m = 0.0
        for c in range(k * width, (k + 1) * width):
            m += total[c]
        mean[k] = m / n
        for c in range(k * width, (k + 1) * width):
            centre[c] = mean[k]
    _repeat(centre, C)

    total[:] = 0.0
    for start in range(0, x.size, L):
        row = x[start : start + L]
        for j in range(row.size):
            d = row[j] - centre[j]
            total[j] += d * d
    _fold(total, C)
    a = np.empty(L, x.dtype)
    shift = np.empty(L, x.dtype)
    for k in range(groups):
        v = 0.0
        for c in range(k * width, (k + 1) * width):
            v += total[c]
        # The squares were taken about `centre`, the mean rounded to x's precision; e puts that right.
        e = mean[k] - centre[k * width]
        r = 1.0 / math.sqrt(max(v / n - e * e, 0.0) + eps)
        rstd[k] = r
        for c in range(k * width, (k + 1) * width):
            a[c] = r * w[c]
            shift[c] = b[c] - e * r * w[c]
    _repeat(a, C)
    _repeat(shift, C)

    for start in range(0, x.size, L):
        row = x[start : start + L]
        out = y[start : start + L]
        if silu:
            for j in range(row.size):
                t = (row[j] - centre[j]) * a[j] + shift[j]
                out[j] = t / (one + exp(-t))
        else:
            for j in range(row.size):
                out[j] = (row[j] - centre[j]) * a[j] + shift[j]


@njit(**_FLAGS)
def _backward_sample(g, x, w, b, silu, L, mean, rstd, gx, gw, gb):
    C = w.size
    groups = mean.size
    width = C // groups
    n = (x.size // C) * width
    one = w.dtype.type(1)

    centre = np.empty(L, x.dtype)
    a = np.empty(L, x.dtype)
    shift = np.empty(L, x.dtype)
    for k in range(groups):
        for c in range(k * width, (k + 1) * width):
            centre[c] = mean[k]
            a[c] = rstd[k] * w[c]
            shift[c] = b[c] - (mean[k] - centre[c]) * rstd[k] * w[c]
    _repeat(centre, C)
    _repeat(a, C)
    _repeat(shift, C)

    # h, the gradient at the norm's output, waits in gx for the second pass. The sums have a loop of their own
    # because LLVM gives up vectorising a loop that needs more than eight checks that its arrays do not
    # overlap.
    source = gx if silu else g
    sum_h = np.zeros(L)
    sum_hd = np.zeros(L)
    for start in range(0, x.size, L):
        row = x[start : start + L]
        hrow = source[start : start + L]
        if silu:
            grow = g[start : start + L]
            out = gx[start : start + L]
            for j in range(row.size):
                t = (row[j] - centre[j]) * a[j] + shift[j]
                s = one / (one + exp(-t))
                out[j] = grow[j] * (s * (one + t * (one - s)))
        for j in range(row.size):
            sum_h[j] += hrow[j]
            sum_hd[j] += hrow[j] * (row[j] - centre[j])
    _fold(sum_h, C)
    _fold(sum_hd, C)

    constant = np.empty(L, x.dtype)
    slope = np.empty(L, x.dtype)
    for k in range(groups):
        r = rstd[k]
        e = mean[k] - centre[k * width]
        c1 = 0.0
        c2 = 0.0
        for c in range(k * width, (k + 1) * width):
            gb[c] = sum_h[c]
            gw[c] = r * (sum_hd[c] - e * sum_h[c])
            c1 += w[c] * gb[c]
            c2 += w[c] * gw[c]
        for c in range(k * width, (k + 1) * width):
            slope[c] = r * r * (c2 / n)
            constant[c] = r * (c1 / n) - e * r * r * (c2 / n)
    _repeat(constant, C)
    _repeat(slope, C)

    # One loop for h in gx itself and one for h in g: a single loop over `source` would fail LLVM's test that
    # what it reads and what it writes do not overlap, and run one element at a time.
    for start in range(0, x.size, L):
        row = x[start : start + L]
        out = gx[start : start + L]
        if silu:
            for j in range(row.size):
                out[j] = a[j] * out[j] - constant[j] - (row[j] - centre[j]) * slope[j]
        else:
            grow = g[start : start + L]
            for j in range(row.size):
                out[j] = a[j] * grow[j] - constant[j] - (row[j] - centre[j]) * slope[j]


@njit(**_FLAGS)
def _forward_samples(x, w, b, eps, silu, L, y, mean, rstd, first, last):
    for n in range(first, last):
        _forward_sample(x[n], w, b, eps, silu, L, y[n], mean[n], rstd[n])


@njit(**_FLAGS)
def _backward_samples(g, x, w, b, silu, L, mean, rstd, gx, gw, gb, first, last):
    for n in range(first, last):
        _backward_sample(g[n], x[n], w, b, silu, L, mean[n], rstd[n], gx[n], gw[n], gb[n])


def _plain(a, shape):
    """a as a contiguous, aligned, writable array of that shape: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    if not (a.flags.writeable and a.flags.aligned):
        a = a.copy()
    return a.reshape(shape)


def forward(x, w, b, *, groups, eps, silu):
    """x N,…,C; w, b (C,). Returns y like x, and the hint (mean, rstd), float64 N,groups each."""
    N, C = x.shape[0], x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    mean = np.zeros((N, groups))
    rstd = np.zeros((N, groups))
    if x.size:
        size = x.size // N
        L = _row_length(size // C, C)
        w, b = _plain(w, C), _plain(b, C)
        args = _plain(x, (N, size)), w, b, float(eps), bool(silu), L, y.reshape(N, size), mean, rstd
        share(N, lambda first, last: _forward_samples(*args, first, last), least=grain(N, x.size))
    return y, (mean, rstd)


def backward(g, x, w, b, *, groups, eps, silu, hint):
    """g like x N,…,C; hint from forward. Returns gx like x, gw, gb (C,)."""
    N, C = x.shape[0], x.shape[-1]
    gx = np.empty(x.shape, x.dtype)
    gw = np.zeros((N, C))
    gb = np.zeros((N, C))
    if x.size:
        size = x.size // N
        L = _row_length(size // C, C)
        g, x = _plain(g, (N, size)), _plain(x, (N, size))
        args = g, x, _plain(w, C), _plain(b, C), bool(silu), L, *hint, gx.reshape(N, size), gw, gb
        share(N, lambda first, last: _backward_samples(*args, first, last), least=grain(N, x.size))
    return gx, gw.sum(0).astype(x.dtype), gb.sum(0).astype(x.dtype)
