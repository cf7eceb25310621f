"""Attention on a GPU: tiles of 64 rows against a stream of the other side's, no atomics. See README.md.

float32 arrays; `precision` is that of the products. The functions are those of cpu.py. Heads of up to 128 numbers run
in tiles; wider ones by whole matrices of scores (kernels/gemm and kernels/softmax), some matrices at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready, zeros

_SOURCE = "attention/cuda.cu"
_PRECISIONS = {"float32": 0, "tf32": 1, "bf16": 2}
_OWN, _WIDEST = 64, 128
_LOG2E = math.log2(math.e)
# Scores that wider heads have in memory at once, several times over: 128 MB each.
_SCORES = 1 << 25
BUILDS: tuple[dict, ...] = (
    *({"D": d, "PRECISION": p, "FOURS": 1} for d in (32, 64, 128) for p in (0, 1, 2)),
    *({"D": 64, "PRECISION": p, "FOURS": 0} for p in (0, 2)),
)


def _build(d: int, dv: int, precision: str) -> dict[str, int]:
    if precision not in _PRECISIONS:
        raise ValueError(f'precision is "float32", "tf32" or "bf16", not {precision!r}.')
    wide = max(d, dv)
    return {"D": 32 if wide <= 32 else 64 if wide <= 64 else 128, "PRECISION": _PRECISIONS[precision],
            "FOURS": int(d % 4 == dv % 4 == 0)}


def _room(how: dict[str, int], own: int, numbers: int = 0) -> tuple[int, int]:
    """(threads of a block, bytes of its shared memory): `own` tiles of 64 rows, two times two of the other side's, for
    each row of which there are `numbers` numbers besides."""
    D, other = how["D"], 32 if how["D"] > 64 else 64
    simt = how["PRECISION"] == 0
    floats = own * _OWN * D + 4 * other * D + 2 * numbers * other + (_OWN * (other + 4) if simt else 0)
    return 256 if simt else 128, 4 * floats


def _mask(mask: Any) -> tuple[Any, int, int, int, int]:
    """The mask in memory, and how far apart its entries lie along N, heads, queries and keys: 0 where it repeats."""
    if mask is None:
        return None, 0, 0, 0, 0
    mask = ready(mask)
    steps, apart = [], 1
    for n in (1, 1, 1, 1, *mask.shape)[:-5:-1]:
        steps.append(apart if n > 1 else 0)
        apart *= n
    return mask, steps[3], steps[2], steps[1], steps[0]


def forward(q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float,
            precision: str = "float32") -> tuple[Any, Any]:
    """q N,heads,Tq,d; k N,heads,Tk,d; v N,heads,Tk,dv. Returns y N,heads,Tq,dv and the hint: y, and the natural
    log-sum-exp, N·heads,Tq float64 (None for heads wider than 128)."""
    (N, heads, Tq, d), (Tk, dv) = q.shape, v.shape[2:]
    how = _build(d, dv, precision)
    if not N * heads * Tq * dv:
        return empty((N, heads, Tq, dv), np.float32), None
    if not Tk:
        return zeros((N, heads, Tq, dv), np.float32), None
    q, k, v = ready(q), ready(k), ready(v)
    if max(d, dv) > _WIDEST:
        y = _wide_forward(q, k, v, mask, causal, scale, precision)
        return y, (y, None)
    y, lse = empty((N, heads, Tq, dv), np.float32), empty((N * heads, Tq), np.float64)
    threads, shared = _room(how, 1)
    launch(_SOURCE, "forward", (N * heads * ceildiv(Tq, _OWN),), threads,
           (q, k, v, *_mask(mask), y, lse, heads, Tq, Tk, d, dv, causal, scale * _LOG2E), shared=shared, **how)
    return y, (y, lse)


def backward(g: Any, q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float, hint: Any,
             precision: str = "float32") -> tuple[Any, Any, Any]:
    """g like y; hint from forward. Returns gq, gk, gv like q, k, v."""
    (N, heads, Tq, d), (Tk, dv) = q.shape, v.shape[2:]
    how = _build(d, dv, precision)
    if hint is None:
        return zeros(q.shape, np.float32), zeros(k.shape, np.float32), zeros(v.shape, np.float32)
    g, q, k, v = ready(g), ready(q), ready(k), ready(v)
    y, lse = hint
    if lse is None:
        return _wide_backward(g, q, k, v, mask, causal, scale, precision)
    B = N * heads
    gq, gk, gv = (empty(x.shape, np.float32) for x in (q, k, v))
    delta = empty((B, Tq), np.float32)
    launch(_SOURCE, "row_products", (ceildiv(B * Tq, 4),), 128, (g, y, delta, B * Tq, dv), **how)
    seen = _mask(mask)
    threads, shared = _room(how, 2)
    launch(_SOURCE, "backward_queries", (B * ceildiv(Tq, _OWN),), threads,
           (g, q, k, v, *seen, lse, delta, gq, heads, Tq, Tk, d, dv, causal, scale), shared=shared, **how)
    threads, shared = _room(how, 2, 3)
    launch(_SOURCE, "backward_keys", (B * ceildiv(Tk, _OWN),), threads,
           (g, q, k, v, *seen, lse, delta, gk, gv, heads, Tq, Tk, d, dv, causal, scale), shared=shared, **how)
    return gq, gk, gv


def _pieces(B: int, Tq: int, Tk: int) -> list[tuple[slice, slice]]:
    """Matrices and queries to be done at once, so that there are no more than _SCORES scores unless a query has."""
    rows = max(1, min(Tq, _SCORES // Tk))
    some = max(1, _SCORES // (Tk * rows)) if rows == Tq else 1
    return [(slice(b, min(B, b + some)), slice(i, min(Tq, i + rows)))
            for b in range(0, B, some) for i in range(0, Tq, rows)]


def _probabilities(q: Any, k: Any, mask: Any, causal: bool, scale: float, precision: str, heads: int, at: slice,
                   Tq: int, i0: int) -> Any:
    """softmax(scale·q kᵀ) of whole matrices: q (b, rows, d) the queries from i0 on, k (b, Tk, d)."""
    from tinygen.kernels.gemm import matmul
    from tinygen.kernels.softmax.cuda import softmax

    s, Tk = matmul(q, k.swapaxes(-1, -2), precision=precision), k.shape[1]
    args = s, *_mask(mask), s.size, heads, at.start, i0, q.shape[1], Tq, Tk, causal, scale
    launch(_SOURCE, "hide", (min(4096, ceildiv(s.size, 256)),), 256, args, D=32, PRECISION=0, FOURS=1)
    return softmax(s)


def _wide_forward(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, precision: str) -> Any:
    from tinygen.kernels.gemm import matmul

    (N, heads, Tq, _), (Tk, dv), B = q.shape, v.shape[2:], math.prod(q.shape[:2])
    q, k, v = (x.reshape(B, *x.shape[2:]) for x in (q, k, v))
    y = empty((B, Tq, dv), np.float32)
    for b, i in _pieces(B, Tq, Tk):
        p = _probabilities(q[b, i], k[b], mask, causal, scale, precision, heads, b, Tq, i.start)
        y[b, i] = matmul(p, v[b], precision=precision)
    return y.reshape(N, heads, Tq, dv)


def _wide_backward(g: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, precision: str) -> Any:
    from tinygen.kernels.gemm import matmul
    from tinygen.kernels.softmax.cuda import softmax_pull

    shapes, heads, B, Tq, Tk = (q.shape, k.shape, v.shape), q.shape[1], math.prod(q.shape[:2]), q.shape[2], k.shape[2]
    g, q, k, v = (x.reshape(B, *x.shape[2:]) for x in (g, q, k, v))
    gq, gk, gv = empty(q.shape, np.float32), empty(k.shape, np.float32), empty(v.shape, np.float32)
    for b, i in _pieces(B, Tq, Tk):
        p = _probabilities(q[b, i], k[b], mask, causal, scale, precision, heads, b, Tq, i.start)
        gs = softmax_pull(matmul(g[b, i], v[b].swapaxes(-1, -2), precision=precision), p)
        gs *= np.float32(scale)
        gq[b, i] = matmul(gs, k[b], precision=precision)
        for out, left, right in ((gk, gs, q[b, i]), (gv, p, g[b, i])):
            part = matmul(left.swapaxes(-1, -2), right, precision=precision)
            if i.start:
                out[b] += part
            else:
                out[b] = part
    return tuple(x.reshape(shape) for x, shape in zip((gq, gk, gv), shapes))
