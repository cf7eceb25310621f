"""Attention on the CPU: scores by BLAS, one block of queries at a time, softmax rows by a jitted kernel.

Blocks are small enough that a block's scores stay in cache between the product that makes them, the softmax,
and the product that uses them. Nothing of size Tq·Tk outlives its block; the backward pass makes the scores
again from the saved log-sum-exp. See README.md for the formulas.
"""
import math

import numpy as np
from numba import njit, prange

from tinygen.kernels.mathfast import exp

# Scores in one block: 1 MB of float32. The backward pass holds two such blocks.
_BLOCK = 1 << 18
# Queries in one block under a causal mask: fewer skip more of the keys that no query of the block may see,
# more make better matrix products.
_CAUSAL_ROWS = 128
# Below this many scores starting the threads costs more than they save.
_SERIAL = 30_000
# Pieces a block's rows are dealt out in; each row's result is its own, so neither this nor the thread count
# shows.
_TASKS = 32
_FLAGS = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True}


@njit(**_FLAGS)
def _softmax_row(s, seen, lanes):
    """s[:seen] becomes exp(s - max), the rest 0. Returns the reciprocal of the sum and the log-sum-exp."""
    # One running maximum per lane: a single one is a chain of comparisons, which LLVM may not reorder while
    # NaNs count.
    lanes[:] = -np.inf
    for start in range(0, seen - lanes.size + 1, lanes.size):
        part = s[start : start + lanes.size]
        for j in range(lanes.size):
            lanes[j] = part[j] if part[j] > lanes[j] else lanes[j]
    top = lanes[0]
    for j in range(1, lanes.size):
        top = lanes[j] if lanes[j] > top else top
    for j in range(seen - seen % lanes.size, seen):
        top = s[j] if s[j] > top else top
    # Nothing but -inf (all masked) or NaN in the row: subtract 0, so that exp gives 0 or NaN respectively.
    if top == -np.inf:
        top = s.dtype.type(0)
    total = s.dtype.type(0)
    for j in range(seen):
        e = exp(s[j] - top)
        s[j] = e
        total += e
    s[seen:] = 0
    if total == 0:
        return s.dtype.type(0), np.inf
    return s.dtype.type(1) / total, top + math.log(np.float64(total))


@njit(**_FLAGS)
def _score_gradient_row(s, gp, seen, lse):
    """s becomes P, the probabilities; gp, the gradient at P, becomes that at the scores, P·(gp - sum P·gp)."""
    one = s.dtype.type(1)
    zero = s.dtype.type(0)
    # lse as a float of s's type plus a small rest: in float32 alone it is off by 5e-4 when scores reach 1e4.
    high = s.dtype.type(lse)
    factor = one if np.isinf(high) else s.dtype.type(math.exp(high - lse))
    delta = zero
    for j in range(seen):
        p = exp(s[j] - high) * factor
        s[j] = p
        delta += p * gp[j]
    for j in range(seen):
        gp[j] = s[j] * (gp[j] - delta)
    s[seen:] = 0
    gp[seen:] = 0


# The jitted functions take the whole of `inverse` and `lse` and find the block's part themselves: a slice is
# contiguous or not depending on the block, and each would be compiled for. Rows `start:stop` of the block's
# B·R are done.
@njit(**_FLAGS)
def _softmax_rows(s, first, step, inverse, lse, b0, i0, start, stop):
    _, R, K = s.shape
    lanes = np.empty(16, s.dtype)
    for row in range(start, stop):
        b, r = row // R, row % R
        seen = max(0, min(K, first + step * r))
        inverse[b0 + b, i0 + r], lse[b0 + b, i0 + r] = _softmax_row(s[b, r], seen, lanes)


@njit(**_FLAGS)
def _score_gradient_rows(s, gp, first, step, lse, b0, i0, start, stop):
    _, R, K = s.shape
    for row in range(start, stop):
        b, r = row // R, row % R
        _score_gradient_row(s[b, r], gp[b, r], max(0, min(K, first + step * r)), lse[b0 + b, i0 + r])


@njit(parallel=True, **_FLAGS)
def _softmax_parallel(s, first, step, inverse, lse, b0, i0):
    rows = s.shape[0] * s.shape[1]
    for t in prange(_TASKS):
        _softmax_rows(s, first, step, inverse, lse, b0, i0, rows * t // _TASKS, rows * (t + 1) // _TASKS)


@njit(parallel=True, **_FLAGS)
def _score_gradient_parallel(s, gp, first, step, lse, b0, i0):
    rows = s.shape[0] * s.shape[1]
    for t in prange(_TASKS):
        _score_gradient_rows(s, gp, first, step, lse, b0, i0, rows * t // _TASKS, rows * (t + 1) // _TASKS)


def _blocks(B, Tq, Tk, causal):
    """Blocks (b0, b1, i0, i1, keys): queries i0:i1 of matrices b0:b1, which see at most the first `keys`
    keys.

    For each b0:b1 the last queries come first: they alone see every key.
    """
    R = max(1, min(Tq, _BLOCK // max(1, Tk), _CAUSAL_ROWS if causal else Tq))
    span = max(1, _BLOCK // max(1, R * Tk))
    for b0 in range(0, B, span):
        for i1 in range(Tq, 0, -R):
            yield b0, min(B, b0 + span), max(0, i1 - R), i1, max(0, min(Tk, i1 + Tk - Tq)) if causal else Tk


class _Hidden:
    """The mask's negative, one block at a time."""

    def __init__(self, mask, shape):
        self.heads = shape[1]
        self.shared = mask.ndim < 3 or mask.shape[:-2] in ((1,), (1, 1))
        self.hidden = np.broadcast_to(~mask, shape)

    def block(self, b0, b1, i0, i1, keys):
        if self.shared:
            return self.hidden[0, 0, i0:i1, :keys]
        b = np.arange(b0, b1)
        return self.hidden[b // self.heads, b % self.heads, i0:i1, :keys]


def _matrices(x):
    return np.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _setup(q, k, mask, causal, scale):
    N, heads, Tq, d = q.shape
    Tk = k.shape[2]
    qs = np.multiply(q, q.dtype.type(scale), order="C").reshape(N * heads, Tq, d)
    hidden = None if mask is None else _Hidden(np.asarray(mask), (N, heads, Tq, Tk))
    blocks = list(_blocks(N * heads, Tq, Tk, causal)) if N * heads * Tq * Tk else []
    most = max(((b1 - b0) * (i1 - i0) * keys for b0, b1, i0, i1, keys in blocks), default=0)
    return qs, hidden, blocks, most


def _scores(qs, kt, hidden, block, room):
    b0, b1, i0, i1, keys = block
    s = room[: (b1 - b0) * (i1 - i0) * keys].reshape(b1 - b0, i1 - i0, keys)
    np.matmul(qs[b0:b1, i0:i1], kt[b0:b1, :, :keys], out=s)
    if hidden is not None:
        np.copyto(s, -np.inf, where=hidden.block(*block))
    return s


def forward(q, k, v, mask, *, causal, scale):
    """q N,heads,Tq,d; k N,heads,Tk,d; v N,heads,Tk,dv. Returns y N,heads,Tq,dv and the hint, lse N·heads,Tq
    float64."""
    N, heads, Tq, _ = q.shape
    Tk, dv = v.shape[2:]
    qs, hidden, blocks, most = _setup(q, k, mask, causal, scale)
    kt, v3 = _matrices(k).swapaxes(1, 2), _matrices(v)
    y = np.zeros((N * heads, Tq, dv), q.dtype)
    lse = np.full((N * heads, Tq), np.inf)
    inverse = np.zeros((N * heads, Tq), q.dtype)
    room = np.empty(most, q.dtype)
    for block in blocks:
        b0, b1, i0, i1, keys = block
        if keys == 0:
            continue
        s = _scores(qs, kt, hidden, block, room)
        # The block's first query sees `first` keys and each later one `step` more, up to all of them.
        first, step = (i0 + Tk - Tq + 1, 1) if causal else (Tk, 0)
        if s.size < _SERIAL:
            _softmax_rows(s, first, step, inverse, lse, b0, i0, 0, (b1 - b0) * (i1 - i0))
        else:
            _softmax_parallel(s, first, step, inverse, lse, b0, i0)
        out = y[b0:b1, i0:i1]
        np.matmul(s, v3[b0:b1, :keys], out=out)
        out *= inverse[b0:b1, i0:i1, None]
    return y.reshape(N, heads, Tq, dv), lse


def backward(g, q, k, v, mask, *, causal, scale, hint):
    """g like y; hint from forward. Returns gq, gk, gv like q, k, v."""
    lse = hint
    Tq, Tk = q.shape[2], k.shape[2]
    qs, hidden, blocks, most = _setup(q, k, mask, causal, scale)
    g3, k3, v3 = _matrices(g), _matrices(k), _matrices(v)
    kt, vt = k3.swapaxes(1, 2), v3.swapaxes(1, 2)
    gq, gk, gv = np.zeros_like(qs), np.zeros_like(k3), np.zeros_like(v3)
    room, room2 = np.empty(most, q.dtype), np.empty(most, q.dtype)
    for block in blocks:
        b0, b1, i0, i1, keys = block
        if keys == 0:
            continue
        s = _scores(qs, kt, hidden, block, room)
        gp = room2[: s.size].reshape(s.shape)
        gb = g3[b0:b1, i0:i1]
        np.matmul(gb, vt[b0:b1, :, :keys], out=gp)
        first, step = (i0 + Tk - Tq + 1, 1) if causal else (Tk, 0)
        if s.size < _SERIAL:
            _score_gradient_rows(s, gp, first, step, lse, b0, i0, 0, (b1 - b0) * (i1 - i0))
        else:
            _score_gradient_parallel(s, gp, first, step, lse, b0, i0)
        np.matmul(gp, k3[b0:b1, :keys], out=gq[b0:b1, i0:i1])
        for into, left, right in ((gv, s, gb), (gk, gp, qs[b0:b1, i0:i1])):
            into = into[b0:b1, :keys]
            if i1 == Tq:
                np.matmul(left.swapaxes(1, 2), right, out=into)
            else:
                into += np.matmul(left.swapaxes(1, 2), right)
    gq *= gq.dtype.type(scale)
    return gq.reshape(q.shape), gk.reshape(k.shape), gv.reshape(v.shape)
