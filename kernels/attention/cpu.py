"""Attention on the CPU: scores by BLAS, one block of queries at a time, softmax rows by a jitted kernel.

Blocks are small enough that a block's scores stay in cache between the product that makes them, the softmax,
and the product that uses them. Nothing of size Tq·Tk outlives its block; the backward pass makes the scores
again from the saved log-sum-exp. See README.md for the formulas.
"""
import math
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from tinygen.kernels.mathfast import exp
from tinygen.kernels.threads import WORTH, get_threads, matmul, share

# Scores in one block: 1 MB of float32. The backward pass holds two such blocks.
_BLOCK = 1 << 18
# Queries in one block under a causal mask: fewer skip more of the keys that no query of the block may see,
# more make better matrix products.
_CAUSAL_ROWS = 64
# Below this many scores waking a thread costs more than it saves.
_SERIAL = 50_000
# What calling BLAS for one small matrix costs, in multiply-adds.
_CALLS = 20_000
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
_FLAGS: dict[str, Any] = {"fastmath": _FASTMATH, "error_model": "numpy", "nogil": True, "cache": True}


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
    """s becomes P, the probabilities; gp, the gradient at P, becomes that at the scores, P·(gp - sum
    P·gp)."""
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


# These take the whole of `inverse` and `lse` and find the block's part themselves: a slice is contiguous or
# not depending on the block, and each would be compiled for. Rows start:stop of the block's B·R are done.
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


def _share_matrices(B, cost, work):
    """work(b0, b1) over parts of the B matrices, `cost` multiply-adds each; too few for a thread each, and work is
    called once, to share what it does inside."""
    if B >= get_threads():
        share(B, work, least=-(-WORTH // (cost + _CALLS)))
    else:
        work(0, B)


def _share_rows(s, work):
    rows = s.shape[0] * s.shape[1]
    share(rows, work, least=-(-_SERIAL // s.shape[2]))


def _product(a, b, out):
    """out = a b for stacks of matrices; a stack of one is shared by rows, unless the stacks are being shared."""
    if len(a) == 1:
        matmul(a[0], b[0], out=out[0])
    else:
        np.matmul(a, b, out=out)


def _blocks(b0, b1, Tq, Tk, causal, alone):
    """Blocks (b0, b1, i0, i1, keys): queries i0:i1 of matrices b0:b1, which see at most the first `keys`
    keys, at least one. `alone`: one matrix at a time.

    For each b0:b1 the last queries come first: they alone see every key.
    """
    R = max(1, min(Tq, _BLOCK // max(1, Tk), _CAUSAL_ROWS if causal else Tq))
    span = 1 if alone else max(1, _BLOCK // max(1, R * Tk))
    for start in range(b0, b1, span):
        for i1 in range(Tq, 0, -R):
            keys = min(Tk, i1 + Tk - Tq) if causal else Tk
            if keys > 0:
                yield start, min(b1, start + span), max(0, i1 - R), i1, keys


def _most(blocks):
    return max(((b1 - b0) * (i1 - i0) * keys for b0, b1, i0, i1, keys in blocks), default=0)


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


def _scaled(q, scale):
    """scale·q as matrices: once here rather than at every score."""
    return np.multiply(q, q.dtype.type(scale), order="C").reshape(q.shape[0] * q.shape[1], *q.shape[2:])


def _scores(qs, kt, hidden, block, room):
    b0, b1, i0, i1, keys = block
    s = room[: (b1 - b0) * (i1 - i0) * keys].reshape(b1 - b0, i1 - i0, keys)
    _product(qs[b0:b1, i0:i1], kt[b0:b1, :, :keys], s)
    if hidden is not None:
        np.copyto(s, -np.inf, where=hidden.block(*block))
    return s


def forward(q, k, v, mask, *, causal, scale):
    """q N,heads,Tq,d; k N,heads,Tk,d; v N,heads,Tk,dv. Returns y N,heads,Tq,dv and the hint, lse N·heads,Tq
    float64."""
    N, heads, Tq, d = q.shape
    Tk, dv = v.shape[2:]
    B = N * heads
    hidden = None if mask is None else _Hidden(np.asarray(mask), (N, heads, Tq, Tk))
    qs, kt, v3 = _scaled(q, scale), _matrices(k).swapaxes(1, 2), _matrices(v)
    y = np.zeros((B, Tq, dv), q.dtype)
    lse = np.full((B, Tq), np.inf)
    inverse = np.zeros((B, Tq), q.dtype)

    def work(start, stop):
        blocks = list(_blocks(start, stop, Tq, Tk, causal, B < get_threads()))
        room = np.empty(_most(blocks), q.dtype)
        for block in blocks:
            b0, b1, i0, i1, keys = block
            s = _scores(qs, kt, hidden, block, room)
            # The block's first query sees `first` keys and each later one `step` more, up to all of them.
            first, step = (i0 + Tk - Tq + 1, 1) if causal else (Tk, 0)
            _share_rows(s, partial(_softmax_rows, s, first, step, inverse, lse, b0, i0))
            out = y[b0:b1, i0:i1]
            _product(s, v3[b0:b1, :keys], out)
            out *= inverse[b0:b1, i0:i1, None]

    _share_matrices(B, Tq * Tk * (d + dv), work)
    return y.reshape(N, heads, Tq, dv), lse


def backward(g, q, k, v, mask, *, causal, scale, hint):
    """g like y; hint from forward. Returns gq, gk, gv like q, k, v."""
    N, heads, Tq, d = q.shape
    Tk, dv = v.shape[2:]
    B = N * heads
    lse = hint
    hidden = None if mask is None else _Hidden(np.asarray(mask), (N, heads, Tq, Tk))
    qs, g3, k3, v3 = _scaled(q, scale), _matrices(g), _matrices(k), _matrices(v)
    kt, vt = k3.swapaxes(1, 2), v3.swapaxes(1, 2)
    gq, gk, gv = np.zeros_like(qs), np.zeros_like(k3), np.zeros_like(v3)

    def work(start, stop):
        blocks = list(_blocks(start, stop, Tq, Tk, causal, B < get_threads()))
        room, room2 = np.empty((2, _most(blocks)), q.dtype)
        for block in blocks:
            b0, b1, i0, i1, keys = block
            s = _scores(qs, kt, hidden, block, room)
            gp = room2[: s.size].reshape(s.shape)
            gb = g3[b0:b1, i0:i1]
            _product(gb, vt[b0:b1, :, :keys], gp)
            first, step = (i0 + Tk - Tq + 1, 1) if causal else (Tk, 0)
            _share_rows(s, partial(_score_gradient_rows, s, gp, first, step, lse, b0, i0))
            _product(gp, k3[b0:b1, :keys], gq[b0:b1, i0:i1])
            for into, left, right in ((gv, s, gb), (gk, gp, qs[b0:b1, i0:i1])):
                left, into = left.swapaxes(1, 2), into[b0:b1, :keys]
                if i1 == Tq:
                    _product(left, right, into)
                else:
                    more = np.empty_like(into)
                    _product(left, right, more)
                    into += more

    _share_matrices(B, Tq * Tk * (2 * d + dv), work)
    gq *= gq.dtype.type(scale)
    return gq.reshape(q.shape), gk.reshape(k.shape), gv.reshape(v.shape)
