"""Attention on the CPU: a block of queries at a time goes from its scores to its results within the cache.

A block's scores are kept transposed, keys down and queries across: the softmax of all its queries is then straight
vector code, and q and g are the only matrices that any of the seven products needs turned over. Nothing of size Tq·Tk
outlives its block; the backward pass makes the scores again from the saved log-sum-exp. See README.md.
"""
import math
from typing import Any

import numpy as np

from tinygen.kernels.attention.simd import exponentials, gradients, largest, multiply, probabilities, turn
from tinygen.kernels.conv2d.simd import ROWS, lanes
from tinygen.kernels.jit import njit
from tinygen.kernels.threads import WORTH, share

# Queries in a block, in columns of the products' own blocks, and scores in it unless one column has more already: more
# queries share each load of k, v, gk and gv, fewer leave room in the cache. 256 KB of float32; the backward pass holds
# two such blocks.
_PANELS = 2
_BLOCK = 1 << 16
# Terms of a sum over keys that are added one by one; such sums are then added up.
_RUN = 256
_FASTMATH = {"contract", "nsz", "arcp"}
_FLAGS: dict[str, Any] = {"fastmath": _FASTMATH, "error_model": "numpy", "nogil": True, "cache": True}


@njit(**_FLAGS)
def _product(a, a0, am, ak, b, b0, bk, bn, c, c0, cm, M, N, K, W, add):
    """c[m, n] = Σ_k a[m, k]·b[k, n], or added to c: m < M and n < N, rounded up to whole blocks of ROWS and W. Columns
    of b lie in panels of W, bn apart."""
    for k in range(0, max(K, 1), _RUN):
        for n in range(0, N, W):
            for m in range(0, M, ROWS):
                multiply(a, a0 + m * am + k * ak, am, ak, b, b0 + n // W * bn + k * bk, bk, c, c0 + m * cm + n, cm,
                         min(_RUN, K - k), add or k > 0)


@njit(**_FLAGS)
def _turn(x, x0, row, count, depth, factor, W, R, to):
    """to = factor·xᵀ in panels of W columns, one for each of `count` rows of x, zeros after them up to R."""
    L = W // 2
    whole = depth // L * L
    for panel in range(0, R, L):
        at = panel // W * W * depth + panel % W
        start = x0 + panel * row
        some = max(0, min(L, count - panel))
        for k in range(0, whole if some == L else 0, L):
            turn(x, start + k, row, to, at + k * W, W, factor)
        for k in range(whole if some == L else 0, depth):
            for r in range(some):
                to[at + k * W + r] = factor * x[start + r * row + k]
            for r in range(some, L):
                to[at + k * W + r] = 0


@njit(**_FLAGS)
def _hide(s, gp, R, count, keys, seen, mask, m0, mi, mj):
    """Scores of hidden pairs become −inf, the gradients at them 0. Query r sees the keys below seen + r that the mask
    allows, mask[m0 + r·mi + j·mj], if there is one."""
    for j in range(max(0, seen), keys):
        blind = j * R, j * R + min(count, j - seen + 1)
        gp[blind[0] : blind[1]] = 0
        s[blind[0] : blind[1]] = -np.inf
    for j in range(keys if mask.size else 0):
        for r in range(count):
            if not mask[m0 + r * mi + j * mj]:
                gp[j * R + r] = 0
                s[j * R + r] = -np.inf


@njit(**_FLAGS)
def _softmax(s, R, W, keys, top, total, part):
    """s becomes e^(s − its column's largest). Also returned: the largest of each column, and the sums."""
    top[:] = -np.inf
    total[:] = 0
    for c in range(0, R, W):
        largest(c, R, keys, c, (s, top))
        for r in range(c, c + W):
            # Nothing but −inf (all hidden) or NaN: subtract 0, so that exp gives 0 or NaN respectively.
            top[r] = top[r] if top[r] > -np.inf else 0
        for j in range(0, keys, _RUN):
            part[:] = 0
            exponentials(j * R + c, R, min(_RUN, keys - j), c, (s, top, part))
            for r in range(c, c + W):
                total[r] += part[r]


@njit(**_FLAGS)
def _softmax_gradient(s, gp, R, W, keys, high, factor, delta, part, scale):
    """s becomes P, the probabilities; gp, the gradient at P, becomes scale times that at the scores,
    P·(gp − Σ P·gp)."""
    delta[:] = 0
    for c in range(0, R, W):
        for j in range(0, keys, _RUN):
            part[:] = 0
            probabilities(j * R + c, R, min(_RUN, keys - j), c, (gp, s, high, factor, part))
            for r in range(c, c + W):
                delta[r] += part[r]
        part[:] = scale
        gradients(c, R, keys, c, (s, gp, delta, part))


@njit(**_FLAGS)
def _aligned(size, like):
    """Room for `size` numbers like those of `like`, from a multiple of 64 bytes on."""
    room = np.empty(size + 64 // like.itemsize, like.dtype)
    skip = (-room.ctypes.data % 64) // like.itemsize
    return room[skip : skip + size]


@njit(**_FLAGS)
def _forward(q, k, v, mask, steps, heads, causal, scale, d, Tk, R, W, y, lse, first, last):
    """Blocks first:last of R queries, counted through all matrices. q, y B,≥Tq,·; k, v B,≥Tk,·; lse B,Tq."""
    Tq, (_, T, D), E = lse.shape[1], k.shape, v.shape[2]
    rows, blocks = q.shape[1], -(-Tq // R)
    qf, kf, vf, yf = q.reshape(-1), k.reshape(-1), v.reshape(-1), y.reshape(-1)
    turned, s = _aligned(d * R, q), _aligned(T * R, q)
    top, total, part = np.empty(R, q.dtype), np.empty(R, q.dtype), np.empty(R, q.dtype)
    for item in range(first, last):
        b, i0 = item // blocks, item % blocks * R
        count = min(R, Tq - i0)
        seen = i0 + Tk - Tq + 1 if causal else Tk
        keys = max(0, min(Tk, seen + count - 1))
        _turn(qf, (b * rows + i0) * D, D, count, d, scale, W, R, turned)
        _product(kf, b * T * D, D, 1, turned, 0, W, d * W, s, 0, R, keys, count, d, W, 0)
        _hide(s, s, R, count, keys, seen, mask, b // heads * steps[0] + b % heads * steps[1] + i0 * steps[2], steps[2],
              steps[3])
        _softmax(s, R, W, keys, top, total, part)
        y0 = (b * rows + i0) * E
        _product(s, 0, 1, R, vf, b * T * E, E, W, yf, y0, E, count, E, keys, W, 0)
        for r in range(count):
            none = total[r] == 0
            lse[b, i0 + r] = np.inf if none else top[r] + math.log(np.float64(total[r]))
            inverse = q.dtype.type(0) if none else q.dtype.type(1) / total[r]
            out = yf[y0 + r * E : y0 + (r + 1) * E]
            for c in range(E):
                out[c] *= inverse


@njit(**_FLAGS)
def _backward(g, q, k, v, mask, steps, heads, causal, scale, d, dv, Tk, R, W, lse, gq, gk, gv, spare_k, spare_v, first,
              last):
    """Blocks first:last, as _forward's. Where the first of them is not the first of its matrix, what they add to that
    matrix's gk and gv goes to spare_k and spare_v."""
    Tq, (_, T, D), E = lse.shape[1], k.shape, v.shape[2]
    rows, blocks = q.shape[1], -(-Tq // R)
    gf, qf, kf, vf, gqf = g.reshape(-1), q.reshape(-1), k.reshape(-1), v.reshape(-1), gq.reshape(-1)
    gkf, gvf, spare_kf, spare_vf = gk.reshape(-1), gv.reshape(-1), spare_k.reshape(-1), spare_v.reshape(-1)
    turned, s, gp = _aligned(max(d, dv) * R, q), _aligned(T * R, q), _aligned(T * R, q)
    high, factor = np.ones(R, q.dtype), np.ones(R, q.dtype)
    delta, part = np.empty(R, q.dtype), np.empty(R, q.dtype)
    one = q.dtype.type(1)
    for item in range(first, last):
        b, i0 = item // blocks, item % blocks * R
        count = min(R, Tq - i0)
        seen = i0 + Tk - Tq + 1 if causal else Tk
        keys = max(0, min(Tk, seen + count - 1))
        apart = first % blocks > 0 and b == first // blocks
        to_k, k0 = (spare_kf, 0) if apart else (gkf, b * T * D)
        to_v, v0 = (spare_vf, 0) if apart else (gvf, b * T * E)
        if item == first or i0 == 0:
            to_k[k0 : k0 + T * D] = 0
            to_v[v0 : v0 + T * E] = 0
        q0, g0 = (b * rows + i0) * D, (b * rows + i0) * E
        _turn(qf, q0, D, count, d, scale, W, R, turned)
        _product(kf, b * T * D, D, 1, turned, 0, W, d * W, s, 0, R, keys, count, d, W, 0)
        _turn(gf, g0, E, count, dv, one, W, R, turned)
        _product(vf, b * T * E, E, 1, turned, 0, W, dv * W, gp, 0, R, keys, count, dv, W, 0)
        _hide(s, gp, R, count, keys, seen, mask, b // heads * steps[0] + b % heads * steps[1] + i0 * steps[2],
              steps[2], steps[3])
        for r in range(count):
            # lse as a float of q's type plus a small rest: in float32 alone it is off by 5e-4 when scores reach 1e4.
            high[r] = lse[b, i0 + r]
            factor[r] = one if np.isinf(high[r]) else math.exp(high[r] - lse[b, i0 + r])
        _softmax_gradient(s, gp, R, W, keys, high, factor, delta, part, scale)
        tall = -(-keys // ROWS) * ROWS
        s[keys * R : tall * R] = 0
        gp[keys * R : tall * R] = 0
        _product(s, 0, R, 1, gf, g0, E, W, to_v, v0, E, keys, E, count, W, 1)
        _product(gp, 0, R, 1, qf, q0, D, W, to_k, k0, D, keys, D, count, W, 1)
        _product(gp, 0, 1, R, kf, b * T * D, D, W, gqf, q0, D, count, D, keys, W, 0)


def _matrices(x, rows, columns):
    """x as matrices B,·,· with zeros below and to the right, up to multiples of rows and columns. Contiguous, aligned
    and writable: one type, so one compilation."""
    (*stack, T, d), B = x.shape, math.prod(x.shape[:2])
    T_, d_ = -(-T // rows) * rows, -(-d // columns) * columns
    if (T_, d_) != (T, d):
        padded = np.zeros((*stack, T_, d_), x.dtype)
        padded[..., :T, :d] = x
        x = padded
    x = np.ascontiguousarray(x)
    return (x if x.flags.writeable and x.flags.aligned else x.copy()).reshape(B, T_, d_)


def _part(x, shape):
    """The first rows and columns of padded matrices, as an array of that shape."""
    return np.ascontiguousarray(x[:, : shape[2], : shape[3]]).reshape(shape)


def _flat_mask(mask):
    """(its numbers, the steps between them along N, heads, Tq, Tk); empty if there is none."""
    if mask is None:
        return np.empty(0, bool), (0, 0, 0, 0)
    mask = np.array(mask, ndmin=4, order="C")
    sizes = [math.prod(mask.shape[axis + 1 :]) for axis in range(4)]
    return mask.reshape(-1), tuple(0 if n == 1 else size for n, size in zip(mask.shape, sizes))


def _queries(Tq, Tk, W):
    """Queries in a block, W or a few times that."""
    return W * max(1, min(_PANELS, _BLOCK // (max(1, Tk) * W), -(-Tq // W)))


def _share_blocks(B, Tq, Tk, R, causal, cost, work):
    """work(first, last) over parts of the blocks of R queries of B matrices, equal in the pairs of query and key that
    they see. cost: multiply-adds for each pair."""
    sees = np.minimum(Tk, np.arange(R, Tq + R, R) + Tk - Tq) if causal else np.full(-(-Tq // R), Tk)
    ends = np.cumsum(np.tile(np.maximum(sees, 0) + 1, B))

    def part(start, stop):
        first, last = map(int, np.searchsorted(ends, (start, stop), side="right"))
        if first < last:
            work(first, last)

    share(int(ends[-1]), part, least=-(-WORTH // (cost * R)))


def forward(q, k, v, mask, *, causal, scale):
    """q N,heads,Tq,d; k N,heads,Tk,d; v N,heads,Tk,dv. Returns y N,heads,Tq,dv and the hint, lse N·heads,Tq
    float64."""
    N, heads, Tq, d = q.shape
    Tk, dv = v.shape[2:]
    W = 2 * lanes(q.dtype)
    lse = np.full((N * heads, Tq), np.inf)
    if not lse.size or not Tk or not dv:
        return np.zeros((N, heads, Tq, dv), q.dtype), lse
    q, k, v = (_matrices(x, ROWS, W) for x in (q, k, v))
    y = np.empty((*q.shape[:2], v.shape[2]), q.dtype)
    R = _queries(Tq, Tk, W)
    args = q, k, v, *_flat_mask(mask), heads, causal, q.dtype.type(scale), d, Tk, R, W, y, lse
    _share_blocks(len(q), Tq, Tk, R, causal, d + dv, lambda first, last: _forward(*args, first, last))
    return _part(y, (N, heads, Tq, dv)), lse


def backward(g, q, k, v, mask, *, causal, scale, hint):
    """g like y; hint from forward. Returns gq, gk, gv like q, k, v."""
    shapes = q.shape, k.shape, v.shape
    (_, heads, Tq, d), (Tk, dv), lse = q.shape, v.shape[2:], hint
    W = 2 * lanes(q.dtype)
    if not lse.size or not Tk:
        return tuple(np.zeros(shape, q.dtype) for shape in shapes)
    g, q, k, v = (_matrices(x, ROWS, W) for x in (g, q, k, v))
    gq, gk, gv = (np.empty(x.shape, q.dtype) for x in (q, k, v))
    R = _queries(Tq, Tk, W)
    blocks = -(-Tq // R)
    args = g, q, k, v, *_flat_mask(mask), heads, causal, q.dtype.type(scale), d, dv, Tk, R, W, lse, gq, gk, gv
    apart = []

    def work(first, last):
        spare = [np.empty(x.shape[1:] if first % blocks else (1, 1), q.dtype) for x in (k, v)]
        _backward(*args, *spare, first, last)
        if first % blocks:
            apart.append((first, *spare))

    _share_blocks(len(q), Tq, Tk, R, causal, 2 * d + dv, work)
    for first, more_k, more_v in sorted(apart, key=lambda part: part[0]):
        gk[first // blocks] += more_k
        gv[first // blocks] += more_v
    return tuple(_part(x, shape) for x, shape in zip((gq, gk, gv), shapes))
