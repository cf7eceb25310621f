"""Layer norm on the CPU: each row is read from memory once, and found in the first-level cache after that.

The rows are dealt to a fixed number of blocks: the sums over rows have one order whatever the thread count.
"""

import math
from typing import Any

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, grain, run

_BLOCKS = 16
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_FLAGS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy", "cache": True, "nogil": True}


@njit(**_FLAGS)
def _forward(x, w, b, eps, blocks, y, mean, rstd, first, last):
    R, C = x.shape
    for k in range(first, last):
        for r in range(k * R // blocks, (k + 1) * R // blocks):
            total = 0.0
            for c in range(C):
                total += x[r, c]
            m = x.dtype.type(total / C)
            rest = 0.0
            squares = 0.0
            for c in range(C):
                d = x[r, c] - m
                rest += d
                squares += d * d
            # m is the mean rounded to x's precision; `rest` is what the rounding left.
            rest /= C
            s = 1.0 / math.sqrt(max(squares / C - rest * rest, 0.0) + eps)
            mean[r] = m
            rstd[r] = s
            scale = x.dtype.type(s)
            for c in range(C):
                y[r, c] = (x[r, c] - m) * scale * w[c] + b[c]


@njit(**_FLAGS)
def _backward(g, x, w, mean, rstd, blocks, gx, gw, gb, first, last):
    R, C = x.shape
    for k in range(first, last):
        for r in range(k * R // blocks, (k + 1) * R // blocks):
            m = mean[r]
            s = rstd[r]
            a1 = 0.0
            a2 = 0.0
            for c in range(C):
                u = (x[r, c] - m) * s
                h = g[r, c] * w[c]
                a1 += h
                a2 += h * u
                gw[k, c] += g[r, c] * u
                gb[k, c] += g[r, c]
            c1 = x.dtype.type(a1 / C)
            c2 = x.dtype.type(a2 / C)
            for c in range(C):
                gx[r, c] = s * (g[r, c] * w[c] - c1 - (x[r, c] - m) * s * c2)


_forward_pieces, _backward_pieces = loop(_forward), loop(_backward)


@njit(**_FLAGS)
def _forward_all(team, pieces, n, *args):
    divide(team, pieces, n, _forward_pieces(args))


@njit(**_FLAGS)
def _backward_all(team, pieces, n, *args):
    divide(team, pieces, n, _backward_pieces(args))


def _rows(a, shape):
    """a as contiguous rows: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(shape)


def forward(x, w, b, *, eps):
    """x …,C; w, b (C,). Returns y like x, and the hint (mean, rstd), (rows,) each in x's dtype."""
    C = x.shape[-1]
    R = x.size // C if C else 0
    y = np.empty(x.shape, x.dtype)
    mean, rstd = np.empty(R, x.dtype), np.empty(R, x.dtype)
    if x.size:
        blocks = min(R, _BLOCKS)
        args = _rows(x, (R, C)), _rows(w, C), _rows(b, C), float(eps), blocks, y.reshape(R, C), mean, rstd
        run(_forward_all, blocks, *args, least=grain(blocks, x.size, PIECE))
    return y, (mean, rstd)


def backward(g, x, w, b, *, eps, hint):
    """g like x …,C; hint from forward. Returns gx like x, gw, gb (C,)."""
    C = x.shape[-1]
    R = x.size // C if C else 0
    gx = np.empty(x.shape, x.dtype)
    gw, gb = np.zeros((_BLOCKS, C)), np.zeros((_BLOCKS, C))
    if x.size:
        blocks = min(R, _BLOCKS)
        args = _rows(g, (R, C)), _rows(x, (R, C)), _rows(w, C), *hint, blocks, gx.reshape(R, C), gw, gb
        run(_backward_all, blocks, *args, least=grain(blocks, x.size, PIECE))
    return gx, gw.sum(0).astype(x.dtype), gb.sum(0).astype(x.dtype)
