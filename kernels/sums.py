"""Sums over the rows of a matrix: a bias's gradient.

RUN rows are added in their own type, four at a time, and the sums of these runs in float64, so that the relative error
is at most about (RUN/4 + 2)·2⁻²⁴ for float32 terms of one sign, however many there are. The rows are divided by their
number alone: the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, grain, run

RUN, BLOCKS, WIDTH = 64, 64, 64
_FLAGS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_FLAGS)
def _blocks(x, blocks, sums, first, last):
    rows, columns = x.shape
    part = np.empty(columns, x.dtype)
    for b in range(first, last):
        stop, total = rows * (b + 1) // blocks, sums[b]
        total[:] = 0
        for start in range(rows * b // blocks, stop, RUN):
            r, end = start, min(start + RUN, stop)
            part[:] = 0
            while r + 4 <= end:
                x0, x1, x2, x3 = x[r], x[r + 1], x[r + 2], x[r + 3]
                for c in range(columns):
                    part[c] += (x0[c] + x1[c]) + (x2[c] + x3[c])
                r += 4
            while r < end:
                row = x[r]
                for c in range(columns):
                    part[c] += row[c]
                r += 1
            for c in range(columns):
                total[c] += part[c]


_block_sums = loop(_blocks)


@njit(**_FLAGS)
def _rows(team, pieces, blocks, x, sums, out):
    divide(team, pieces, blocks, _block_sums((x, blocks, sums)))
    for c in range(out.size):
        total = 0.0
        for b in range(blocks):
            total += sums[b, c]
        out[c] = total


def over_rows(x: np.ndarray) -> np.ndarray:
    """Σ_r x[r], for a C-contiguous matrix."""
    rows, columns = x.shape
    side = max(1, WIDTH // max(columns, 1))  # short rows: several side by side, so that vectors are filled
    if 1 < side <= rows:
        whole = rows - rows % side
        parts = over_rows(x[:whole].reshape(-1, side * columns)).reshape(side, columns)
        return np.concatenate((parts, x[whole:])).sum(axis=0, dtype=np.float64).astype(x.dtype)
    blocks = max(1, min(BLOCKS, rows // RUN))
    sums, out = np.empty((blocks, columns)), np.empty(columns, x.dtype)
    run(_rows, blocks, x, sums, out, least=grain(blocks, x.size, PIECE))
    return out
