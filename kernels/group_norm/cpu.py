"""Group norm (+ SiLU) on the CPU: one sample at a time, so that its passes find it in the second-level cache.

A sample P,C is walked in rows of L consecutive elements, L a multiple of C and of two vectors: lane j of a row always
belongs to channel j mod C, and a pass goes down the lanes with the channel's constants and sums in registers, whatever
C and the grouping are. See README.md for the formulas.
"""
import math
from typing import Any

import numpy as np

from tinygen.kernels.columns import columns, exp
from tinygen.kernels.conv2d.simd import lanes
from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, get_threads, grain, run

# Rows whose sum is taken in the arrays' precision before it goes to the sample's, in float64; and rows that a pass goes
# down two vectors of lanes before it turns to the next two: few, so that memory is read nearly as it lies.
_RUN, _STEP = 64, 4
_FLAGS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True, "nogil": True}


# ---- the passes, in vectors: (walked arrays), (constants), (sums) → (what is written), (sums)


def _moments_step(moving, fixed, sums):
    d = moving[0] - fixed[0]
    return [], [sums[0] + d, sums[1] + d * d]


def _norm(x, centre, a, shift):
    return (x - centre) * a + shift  # not x·a + (shift − centre·a), which cancels when the mean is large


def _sigmoid(t):
    one = t.like(1)
    return one / (one + exp(t.like(0) - t))


def _silu_step(moving, fixed, sums):
    t = _norm(moving[0], *fixed)
    return [t * _sigmoid(t)], []


def _pull_silu_step(moving, fixed, sums):
    x, g, _ = moving
    t = _norm(x, *fixed)
    s = _sigmoid(t)
    h = g * (s * (t.like(1) + t * (t.like(1) - s)))
    return [h], [sums[0] + h, sums[1] + h * (x - fixed[0])]


def _pull_step(moving, fixed, sums):
    x, g = moving
    return [], [sums[0] + g, sums[1] + g * (x - fixed[0])]


def _spread_step(moving, fixed, sums):
    (x, h, _), (centre, a, slope, constant) = moving, fixed
    return [a * h - constant - (x - centre) * slope], []


_total_vectors = columns(lambda moving, fixed, sums: ([], [sums[0] + moving[0]]), 1, 0, 1)
_moments_vectors = columns(_moments_step, 1, 1, 2)
_apply_vectors = columns(lambda moving, fixed, sums: ([_norm(moving[0], *fixed)], []), 2, 3, 0)
_silu_vectors = columns(_silu_step, 2, 3, 0)
_pull_silu_vectors = columns(_pull_silu_step, 3, 3, 2)
_pull_vectors = columns(_pull_step, 2, 1, 2)
_spread_vectors = columns(_spread_step, 3, 4, 0)


# What a pass does with the rows that it has come to. Either pass of each direction has a function of its own, so that a
# direction is compiled with what it needs and no more.


@njit(**_FLAGS, inline="always")
def _moments(about_mean, at, L, n, c, x, g, h, constants, one, two):
    if about_mean:
        _moments_vectors(at, L, n, c, (x, constants[0], one, two))
    else:
        _total_vectors(at, L, n, c, (x, one))


@njit(**_FLAGS, inline="always")
def _pulls(silu, at, L, n, c, x, g, h, constants, one, two):
    if silu:
        _pull_silu_vectors(at, L, n, c, (x, g, h, constants[0], constants[1], constants[2], one, two))
    else:
        _pull_vectors(at, L, n, c, (x, g, constants[0], one, two))


@njit(**_FLAGS, inline="always")
def _applied(silu, at, L, n, c, x, h, y, constants):
    if silu:
        _silu_vectors(at, L, n, c, (x, y, constants[0], constants[1], constants[2]))
    else:
        _apply_vectors(at, L, n, c, (x, y, constants[0], constants[1], constants[2]))


@njit(**_FLAGS, inline="always")
def _spread(silu, at, L, n, c, x, h, y, constants):
    _spread_vectors(at, L, n, c, (x, h, y, constants[0], constants[1], constants[2], constants[3]))


def _summing(these):
    """Add to sums[:, lo:hi] those of a pass down these lanes of rows of L numbers from `at` on."""

    @njit(**_FLAGS)
    def sums_of(how, x, g, h, at, L, W, rows, lo, hi, constants, parts, sums):
        (one, two), (first, second) = parts, sums
        for begin in range(0, rows, _RUN):
            one[lo:hi] = 0
            two[lo:hi] = 0
            end = min(begin + _RUN, rows)
            for start in range(begin, end, _STEP):
                n = min(_STEP, end - start)
                for c in range(lo, hi, W):
                    these(how, at + start * L + c, L, n, c, x, g, h, constants, one, two)
            for j in range(lo, hi):
                first[j] += one[j]
            for j in range(lo, hi):
                second[j] += two[j]

    return sums_of


def _mapping(this):
    """Fill y with what a pass makes of x, or of x and h."""

    @njit(**_FLAGS)
    def map_(how, x, h, y, at, L, W, rows, lo, hi, constants):
        for start in range(0, rows, _STEP):
            n = min(_STEP, rows - start)
            for c in range(lo, hi, W):
                this(how, at + start * L + c, L, n, c, x, h, y, constants)

    return map_


_sum_moments, _sum_pulls = _summing(_moments), _summing(_pulls)
_map_applied, _map_spread = _mapping(_applied), _mapping(_spread)


@njit(**_FLAGS)
def _copy(to, i, from_, j, n):
    for k in range(n):  # a slice set to a slice brings Numba's text of a shape error along: 2 s of compiling
        to[i + k] = from_[j + k]


@njit(**_FLAGS)
def _fold(sums, C):
    """Add the sums of all lanes of a channel up in its first."""
    for s in sums:
        for start in range(C, s.size, C):
            for c in range(C):
                s[c] += s[start + c]


@njit(**_FLAGS)
def _repeat(constants, C):
    for a in constants:
        for j in range(C, a.size):
            a[j] = a[j - C]


@njit(**_FLAGS)
def _room(L, like):
    """Constants and sums of the lanes, in the arrays' precision and in float64."""
    new = np.zeros((6, L), like.dtype)
    return (new[0], new[1], new[2], new[3]), (new[4], new[5]), (np.zeros(L), np.zeros(L))


@njit(**_FLAGS)
def _forward(x, w, b, eps, silu, L, W, parts, y, mean, rstd, first, last):
    """Items first:last: samples, or each sample's lanes in as many parts."""
    C, groups, size = w.size, mean.shape[1], x.shape[1]
    width, rows, rest = C // groups, size // L, size % L
    n = size // C * width
    xf, yf, tail, out = x.reshape(-1), y.reshape(-1), np.zeros(L, x.dtype), np.zeros(L, x.dtype)
    constants, halves, sums = _room(L, x)
    centre, a, shift, _ = constants
    for item in range(first, last):
        s, part, at = item // parts, item % parts, item // parts * size
        lo, hi = part * (L // parts), (part + 1) * (L // parts)
        own = range(part * groups // parts, (part + 1) * groups // parts)
        _copy(tail, 0, x[s], rows * L, rest)
        for about_mean in (False, True):
            sums[0][lo:hi] = 0
            sums[1][lo:hi] = 0
            for k in range(1 + (rest > 0)):  # one call, in a loop: it is compiled where it stands
                v, start, count, left, right = (tail, 0, 1, 0, rest) if k else (xf, at, rows, lo, hi)
                _sum_moments(about_mean, v, v, v, start, L, W, count, left, right, constants, halves, sums)
            _fold(sums, C)
            for k in own:
                channels = range(k * width, (k + 1) * width)
                d, squares = 0.0, 0.0
                for c in channels:
                    d += sums[0][c]
                    squares += sums[1][c]
                d /= n
                if not about_mean:
                    for c in channels:
                        centre[c] = d
                else:
                    # d: what the mean is beyond `centre`, which is rounded, as are the sums it was made of
                    mean[s, k] = centre[k * width] + d
                    rstd[s, k] = 1.0 / math.sqrt(max(squares / n - d * d, 0.0) + eps)
                    for c in channels:
                        a[c] = rstd[s, k] * w[c]
                        shift[c] = b[c] - d * rstd[s, k] * w[c]
            _repeat(constants, C)
        for k in range(1 + (rest > 0)):
            v, to, start, count, left, right = (tail, out, 0, 1, 0, rest) if k else (xf, yf, at, rows, lo, hi)
            _map_applied(silu, v, v, to, start, L, W, count, left, right, constants)
        if rest:
            _copy(y[s], rows * L, out, 0, rest)


@njit(**_FLAGS)
def _backward(g, x, w, b, silu, L, W, parts, mean, rstd, gx, gw, gb, first, last):
    """Items as _forward's."""
    C, groups, size = w.size, mean.shape[1], x.shape[1]
    width, rows, rest = C // groups, size // L, size % L
    n = size // C * width
    xf, gf, gxf = x.reshape(-1), g.reshape(-1), gx.reshape(-1)
    tail, g_tail, out = np.zeros(L, x.dtype), np.zeros(L, x.dtype), np.zeros(L, x.dtype)
    constants, halves, sums = _room(L, x)
    centre, a, shift, constant = constants
    h, h_tail = (gxf, out) if silu else (gf, g_tail)
    for item in range(first, last):
        s, part, at = item // parts, item % parts, item // parts * size
        lo, hi = part * (L // parts), (part + 1) * (L // parts)
        own = range(part * groups // parts, (part + 1) * groups // parts)
        for k in own:
            for c in range(k * width, (k + 1) * width):
                centre[c] = mean[s, k]
                a[c] = rstd[s, k] * w[c]
                shift[c] = b[c] - (mean[s, k] - centre[c]) * rstd[s, k] * w[c]
        _repeat(constants, C)
        # h, the gradient at the norm's output, waits in gx for the second pass
        sums[0][lo:hi] = 0
        sums[1][lo:hi] = 0
        if rest:
            _copy(tail, 0, x[s], rows * L, rest)
            _copy(g_tail, 0, g[s], rows * L, rest)
        for k in range(1 + (rest > 0)):
            start, count, left, right = (0, 1, 0, rest) if k else (at, rows, lo, hi)
            v, gv, to = (tail, g_tail, out) if k else (xf, gf, gxf)
            _sum_pulls(silu, v, gv, to, start, L, W, count, left, right, constants, halves, sums)
        _fold(sums, C)
        for k in own:
            r, e = rstd[s, k], mean[s, k] - centre[k * width]
            c1, c2 = 0.0, 0.0
            for c in range(k * width, (k + 1) * width):
                gb[s, c] = sums[0][c]
                gw[s, c] = r * (sums[1][c] - e * sums[0][c])
                c1 += w[c] * gb[s, c]
                c2 += w[c] * gw[s, c]
            for c in range(k * width, (k + 1) * width):
                shift[c] = r * r * (c2 / n)
                constant[c] = r * (c1 / n) - e * r * r * (c2 / n)
        _repeat(constants, C)
        for k in range(1 + (rest > 0)):
            start, count, left, right = (0, 1, 0, rest) if k else (at, rows, lo, hi)
            v, hv, to = (tail, h_tail, out) if k else (xf, h, gxf)
            _map_spread(silu, v, hv, to, start, L, W, count, left, right, constants)
        if rest:
            _copy(gx[s], rows * L, out, 0, rest)


_forward_pieces, _backward_pieces = loop(_forward), loop(_backward)


@njit(**_FLAGS)
def _forward_all(team, pieces, n, *args):
    divide(team, pieces, n, _forward_pieces(args))


@njit(**_FLAGS)
def _backward_all(team, pieces, n, *args):
    divide(team, pieces, n, _backward_pieces(args))


def _plain(a, shape):
    """a as a contiguous, aligned, writable array of that shape: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(shape)


def _cut(N, size, C, groups, dtype):
    """(L, two vectors' numbers, parts of a sample): samples too few for the threads are cut between groups, where that
    is between vectors."""
    W = 2 * lanes(dtype)
    L, parts = math.lcm(C, W), 1
    while N * parts < get_threads() and L == C and C % (2 * parts * W) == 0 and groups % (2 * parts) == 0 and size > L:
        parts *= 2
    return L, W, parts


def forward(x, w, b, *, groups, eps, silu):
    """x N,…,C; w, b (C,). Returns y like x, and the hint (mean, rstd), float64 N,groups each."""
    N, C = x.shape[0], x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    mean = np.zeros((N, groups))
    rstd = np.zeros((N, groups))
    if x.size:
        size = x.size // N
        cut = _cut(N, size, C, groups, x.dtype)
        args = (_plain(x, (N, size)), _plain(w, C), _plain(b, C), float(eps), bool(silu), *cut, y.reshape(N, size),
                mean, rstd)
        items = N * cut[-1]
        run(_forward_all, items, *args, least=grain(items, x.size, PIECE))
    return y, (mean, rstd)


def backward(g, x, w, b, *, groups, eps, silu, hint):
    """g like x N,…,C; hint from forward. Returns gx like x, gw, gb (C,)."""
    N, C = x.shape[0], x.shape[-1]
    gx = np.empty(x.shape, x.dtype)
    gw = np.zeros((N, C))
    gb = np.zeros((N, C))
    if x.size:
        size = x.size // N
        cut = _cut(N, size, C, groups, x.dtype)
        args = (_plain(g, (N, size)), _plain(x, (N, size)), _plain(w, C), _plain(b, C), bool(silu), *cut, *hint,
                gx.reshape(N, size), gw, gb)
        items = N * cut[-1]
        run(_backward_all, items, *args, least=grain(items, x.size, PIECE))
    return gx, gw.sum(0).astype(x.dtype), gb.sum(0).astype(x.dtype)
