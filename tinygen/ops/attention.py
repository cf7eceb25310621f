"""Scaled dot-product attention: a law in plain operations, and kernels for its value and its first
gradient."""

from __future__ import annotations

import math

import numpy as np

from .. import backend
from ..errors import DtypeError, ShapeError
from ..fused import float32_only, fused
from ..kernels import attention as kernel
from ..modes import precise
from ..tensor import Tensor
from .elementwise import where
from .linalg import matmul
from .reduce import softmax
from .shape import swapaxes


def attention_law(q, k, v, mask=None, *, causal=False, scale=None, precision=None):
    """y = softmax(q kᵀ · scale + mask) v (Vaswani et al. 2017, "Attention Is All You Need", eq. 1)

    q (N, heads, Tq, d); k (N, heads, Tk, d); v (N, heads, Tk, dv) → y (N, heads, Tq, dv). scale: 1/√d if
    None. causal: query i sees key j only where j ≤ i + Tk − Tq, so that the last query sees every key.
    mask, broadcastable to (N, heads, Tq, Tk): boolean, True where a query may attend; or float, added to the
    scores, differentiable, −inf meaning "may not". A query that may attend to nothing gives 0, and zero
    gradients at every order. precision: see `tinygen.precision`. Raises ShapeError, DtypeError.
    """
    scores = matmul(q, swapaxes(k, -1, -2), precision=precision) * scale  # N, heads, Tq, Tk
    xp = backend.array_module([q.data])
    allowed = None
    if causal:
        allowed = xp.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], dtype=bool)
    if mask is not None:
        may = mask.data if mask.dtype.kind == "b" else mask.data > -np.inf
        if mask.dtype.kind == "f":
            # −inf leaves here, before any arithmetic: −inf · 0 in a derivative would be NaN.
            scores = scores + where(may, mask, 0.0)
        allowed = may if allowed is None else allowed & may
    if allowed is None:
        return matmul(softmax(scores, axis=-1), v, precision=precision)
    allowed = Tensor(allowed)
    # A finite low, not −inf: a row with nothing allowed stays finite, and the second `where` makes it and its
    # derivatives zero. In other rows exp(low − max) is 0 exactly.
    low = float(xp.finfo(scores.dtype).min) / 2
    weights = where(allowed, softmax(where(allowed, scores, low), axis=-1), 0.0)
    return matmul(weights, v, precision=precision)


def _prepare(q, k, v, mask=None, *, causal=False, scale=None, precision=None) -> dict:
    for letter, a in (("q", q), ("k", k), ("v", v)):
        if a.ndim != 4:
            raise ShapeError(f"attention needs {letter} (N, heads, T, d); it has {a.ndim} axes.")
        if a.dtype.kind != "f" or a.dtype != q.dtype:
            raise DtypeError(f"attention needs q, k and v of one float type; {q.dtype} and {a.dtype} meet.")
    if not q.shape[:2] == k.shape[:2] == v.shape[:2]:
        raise ShapeError(f"attention needs the same N and heads in q, k and v; {q.shape[:2]}, {k.shape[:2]} "
                         f"and {v.shape[:2]} differ.")
    if q.shape[3] != k.shape[3]:
        raise ShapeError(f"attention needs q.d == k.d; {q.shape[3]} ≠ {k.shape[3]}.")
    if k.shape[2] != v.shape[2]:
        raise ShapeError(f"attention needs k.T == v.T; {k.shape[2]} ≠ {v.shape[2]}.")
    if mask is not None:
        scores = (*q.shape[:3], k.shape[2])
        if mask.ndim > 4 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], scores[::-1])):
            raise ShapeError(f"attention needs a mask that broadcasts to (N, heads, Tq, Tk) = {scores}; "
                             f"got {mask.shape}.")
        if mask.dtype.kind not in "bf":
            raise DtypeError("attention needs a mask of booleans (True: may attend) or floats (added to the "
                             f"scores), not {mask.dtype}.")
    return {"causal": bool(causal), "scale": 1 / math.sqrt(q.shape[3]) if scale is None else float(scale),
            "precision": precise(precision, q.dtype)}


def _takes(q, k, v, mask=None, *, precision=None, **attrs) -> bool:
    if precise(precision, q.dtype) != "float32" and isinstance(q.data, np.ndarray):
        return False  # the CPU's kernel is exact: the law rounds
    return float32_only(q, k, v) and (mask is None or mask.dtype.kind == "b")


def _flops(q, k, v, mask=None, **attrs) -> int:
    """For each pair of a query and a key (masked or not): q·k, softmax 5, p·v."""
    pairs = math.prod(q.shape[:3]) * k.shape[2]
    return pairs * (2 * q.shape[3] + 5 + 2 * v.shape[3])


def _forward(q, k, v, mask, *, causal, scale, precision):
    if mask is not None and mask.dtype.kind != "b":
        raise DtypeError("attention's kernel takes boolean masks; a float mask runs the law: leave out impl.")
    return kernel.forward(q, k, v, mask, causal=causal, scale=scale, precision=precision)


attention = fused(attention_law, name="attention", forward=_forward, vjp={("q", "k", "v"): kernel.backward},
                  flops=_flops, takes=_takes, prepare=_prepare)


__all__ = ["attention"]
