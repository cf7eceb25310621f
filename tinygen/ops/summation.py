"""Sums of float32 arrays that are accurate and run at the speed of memory.

NumPy adds pairwise along the last axis only; along the others it adds row by row, and the error of a float32
sum then grows with the number of rows. Here rows are added in blocks by a product with ones, which BLAS does
from cache, or by kernels/sums.py, and the few results of the blocks are added in float64; on a GPU by kernels/scatter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_SHORT = 32768  # elements below which NumPy's own sum is as good
_LEADING = tuple(range(32))
_FEW = 8192  # the same for a sum over rows, which has a kernel
_BLOCK = 2048  # elements of a block: it stays in cache, and BLAS does not wake its threads for it
_WIDE = 256  # columns from which NumPy's row-by-row addition is as fast as BLAS
_ROW = 2048  # elements of a row up to which a product with ones is accurate, and faster than NumPy's sum


def total(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool = False) -> Any:
    """Σ x over `axis`, an ascending tuple counted from the front. Same dtype; int64 for integers."""
    if x.size >= _FEW and xp is np and x.dtype == np.float32 and x.flags.c_contiguous:
        k = len(axis)
        if axis == _LEADING[:k] and (columns := math.prod(x.shape[k:])) > 1:  # a bias's gradient
            from ..kernels.sums import over_rows  # compiles with Numba: not before it is needed

            y = over_rows(x.reshape(-1, columns))
            return y.reshape(*[1] * k, *x.shape[k:]) if keepdims else y.reshape(x.shape[k:])
    if xp is not np and axis and x.size >= _FEW and x.dtype == np.float32 and x.flags.c_contiguous:
        from ..kernels.scatter import cuda

        y = cuda.total(x, axis)
        return y if keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in axis])
    if x.size < _SHORT or xp is not np or x.dtype != np.float32 or not axis:
        return x.sum(axis=axis, keepdims=keepdims)
    shape, reduced = x.shape, axis
    if not x.flags.c_contiguous:
        return x.sum(axis=axis, keepdims=keepdims, dtype=np.float64).astype(np.float32)
    stop = last = axis[-1] + 1
    while axis and axis[-1] == last - 1:  # the last run of neighbouring axes
        axis, last = axis[:-1], last - 1
    rows, columns = math.prod(shape[last:stop]), math.prod(shape[stop:])
    y = _middle(x.reshape(-1, rows, columns)).reshape(*shape[:last], *[1] * (stop - last), *shape[stop:])
    if axis:
        y = total(xp, y, axis, True)
    return y if keepdims else y.reshape([n for i, n in enumerate(shape) if i not in reduced])


def _middle(x: np.ndarray) -> np.ndarray:
    """Σ x over the middle of three axes."""
    n, rows, columns = x.shape
    if columns == 1:
        return x[:, :, 0] @ np.ones(rows, np.float32) if rows <= _ROW else x.sum(axis=1)
    block = min(rows, max(16, _BLOCK // columns)) if columns < _WIDE else min(rows, _WIDE)
    blocks, rest = divmod(rows, block)
    parts = _add(x[:, : blocks * block].reshape(n, blocks, block, columns))
    if blocks == 1 and not rest:
        return parts[:, 0]
    y = parts.sum(axis=1, dtype=np.float64)
    if rest:
        y += _add(x[:, None, blocks * block :])[:, 0]
    return y.astype(np.float32)


def _add(x: np.ndarray) -> np.ndarray:
    """Σ x over the third of four axes."""
    if x.shape[3] >= _WIDE:
        return x.sum(axis=2)
    return np.matmul(np.ones((1, x.shape[2]), np.float32), x)[:, :, 0]
