"""Nearest-neighbour enlargement on the CPU: every number is read once and written once, rows shared among threads."""

from typing import Any

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, grain, run

_FLAGS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "cache": True, "nogil": True}


@njit(**_FLAGS)
def _nearest(x, y, first, last):
    """x R,W,C -> y R,sh,W,sw,C: a row of the image is widened once, then copied downwards."""
    _, sh, W, sw, C = y.shape
    for r in range(first, last):
        for w in range(W):
            for j in range(sw):
                for c in range(C):
                    y[r, 0, w, j, c] = x[r, w, c]
        row = y[r].reshape(sh, W * sw * C)
        for i in range(1, sh):
            for k in range(W * sw * C):
                row[i, k] = row[0, k]


@njit(**_FLAGS)
def _block_sum(g, x, first, last):
    """g R,sh,W,sw,C -> x R,W,C"""
    _, sh, W, sw, C = g.shape
    for r in range(first, last):
        for w in range(W):
            for c in range(C):
                x[r, w, c] = g[r, 0, w, 0, c]
            for i in range(sh):
                for j in range(1 if i == 0 else 0, sw):
                    for c in range(C):
                        x[r, w, c] += g[r, i, w, j, c]


_nearest_pieces, _block_sum_pieces = loop(_nearest), loop(_block_sum)


@njit(**_FLAGS)
def _nearest_all(team, pieces, n, *args):
    divide(team, pieces, n, _nearest_pieces(args))


@njit(**_FLAGS)
def _block_sum_all(team, pieces, n, *args):
    divide(team, pieces, n, _block_sum_pieces(args))


def _plain(a, shape):
    """a as a contiguous, aligned, writable array of that shape: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(shape)


def nearest(x, scale):
    """x N,H,W,C -> N,H·s_h,W·s_w,C"""
    (N, H, W, C), (sh, sw) = x.shape, scale
    y = np.empty((N, H * sh, W * sw, C), x.dtype)
    if y.size:
        rows, out = _plain(x, (N * H, W, C)), y.reshape(N * H, sh, W, sw, C)
        run(_nearest_all, N * H, rows, out, least=grain(N * H, y.size, PIECE))
    return y


def block_sum(g, scale):
    """g N,H·s_h,W·s_w,C -> N,H,W,C"""
    (sh, sw), C = scale, g.shape[3]
    N, H, W = g.shape[0], g.shape[1] // sh, g.shape[2] // sw
    x = np.empty((N, H, W, C), g.dtype)
    if x.size:
        rows, out = _plain(g, (N * H, sh, W, sw, C)), x.reshape(N * H, W, C)
        run(_block_sum_all, N * H, rows, out, least=grain(N * H, g.size, PIECE))
    return x
