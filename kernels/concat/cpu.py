"""Two arrays side by side on the CPU: the result is written once, from its beginning to its end."""

import math
from typing import Any

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, grain, run

_FLAGS: dict[str, Any] = {"error_model": "numpy", "cache": True, "nogil": True}


@njit(**_FLAGS)
def _join(a, b, y, first, last):
    P = a.shape[1]
    for r in range(first, last):
        source, to = a[r], y[r, :P]
        for k in range(P):
            to[k] = source[k]
        source, to = b[r], y[r, P:]
        for k in range(source.size):
            to[k] = source[k]


_join_pieces = loop(_join)


@njit(**_FLAGS)
def _join_all(team, pieces, n, *args):
    divide(team, pieces, n, _join_pieces(args))


def _plain(a, shape):
    """a as a contiguous, aligned, writable array of that shape: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(shape)


def forward(a, b, axis):
    """y = a, then b, along `axis`"""
    shape = (*a.shape[:axis], a.shape[axis] + b.shape[axis], *a.shape[axis + 1 :])
    y = np.empty(shape, a.dtype)
    if y.size:
        R = math.prod(shape[:axis])
        rows = [_plain(t, (R, t.size // R)) for t in (a, b)]
        out = y.reshape(R, -1)
        run(_join_all, R, *rows, out, least=grain(R, y.size, PIECE))
    return y
