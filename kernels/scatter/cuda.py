"""Sums into places on a GPU, and sums over rows: the launches of cuda.cu, in one order; a CUDA graph can hold all of
them. README.md."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready, zeros
from tinygen.kernels.cuda.columns import divide

PATH = "scatter/cuda.cu"
BUILDS: tuple[dict, ...] = ({}, {"REAL": "double", "WIDE": 1}, {"REAL": "long long"})
_TILE, _CHUNK = 1024, 32
_SMALL = 1024  # elements
_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.int64): "long long"}


def _sorted(n: int, ids: Any) -> Any:
    """Keys place·2³² + number of the places `ids` (m,), ascending: equal places in the order of their numbers."""
    m = ids.size
    if not (m < 2**31 and n < 2**32):
        raise ValueError(f"scatter takes fewer than 2³¹ indices into fewer than 2³² places; got {m} into {n}.")
    size = _TILE
    while size < m:
        size *= 2
    keys = empty((size,), np.uint64)
    launch(PATH, "sort_begin", (size // _TILE,), 256, (ready(ids.astype(np.int64, copy=False)), keys, m, n))
    run = 2 * _TILE
    while run <= size:
        far = run // 2
        while far >= _TILE:
            launch(PATH, "sort_far", (ceildiv(size // 2, 256),), 256, (keys, size // 2, run, far))
            far //= 2
        launch(PATH, "sort_near", (size // _TILE,), 256, (keys, run))
        run *= 2
    return keys


def add_rows(n: int, ids: Any, rows: Any) -> Any:
    """y (n, F) = 0, then y[ids[k]] += rows[k] for k = 0, 1, …; ids (m,) integers, rows (m, F) floats or integers."""
    m, F = rows.shape
    kind = rows.dtype
    if kind not in _TYPES:
        return add_rows(n, ids, rows.astype(np.int64)).astype(kind)
    y = zeros((n, F), kind)
    if m and F and n:
        keys, chunks = _sorted(n, ids), ceildiv(m, _CHUNK)
        parts = empty((2 * chunks, F), np.float64)
        grid, real = (ceildiv(F, 32) * ceildiv(chunks, 8),), _TYPES[kind]
        launch(PATH, "add_runs", grid, (32, 8), (keys, ready(rows), y, parts, m, F), REAL=real)
        if chunks > 1:
            launch(PATH, "join_runs", grid, (32, 8), (keys, y, parts, m, F), REAL=real)
    return y


def put_last(y: Any, places: Any, values: Any) -> None:
    """y[places[k]] = values[k] in place for k = 0, 1, …: of several values for one place the last stays. y contiguous,
    seen as flat; places and values (m,), values of y's dtype."""
    m = places.size
    if not m:
        return
    as_real = {4: np.float32, 8: np.float64}.get(y.dtype.itemsize)
    if as_real is None:
        wide = y.astype(np.int64)
        put_last(wide, places, values.astype(np.int64))
        y[...] = wide.astype(y.dtype)
        return
    flat, values = y.reshape(-1).view(as_real), ready(values).view(as_real)
    launch(PATH, "keep_last", (ceildiv(m, 256),), 256, (_sorted(y.size, places), values, flat, None, m),
           REAL=_TYPES[np.dtype(as_real)])


def last_of_each(n: int, places: Any) -> Any:
    """(m,) bool: is places[k] named by no later k?"""
    m = places.size
    kept = empty((m,), np.bool_)
    if m:
        launch(PATH, "keep_last", (ceildiv(m, 256),), 256, (_sorted(n, places), None, None, kept, m))
    return kept


def over_middle(x: Any) -> Any:
    """Σ_r x[a, r, c]: (A, R, C) -> (A, C), float32."""
    A, R, C = x.shape
    if not x.size:
        return zeros((A, C), np.float32)
    y, d = empty((A, C), np.float32), divide(A, R, C)
    parts = empty((d.splits, A, C), np.float64) if d.splits > 1 else None
    args = (ready(x), parts, y, A, R, C, d.splits, d.rows)
    launch(PATH, "sum_strips", (d.blocks,), d.block, args, WIDE=d.wide)
    if parts is not None:
        launch(PATH, "sum_splits", (ceildiv(A * C, 32),), (32, 8), (parts, y, A * C, d.splits), WIDE=d.wide)
    return y


def total(x: Any, axis: tuple[int, ...]) -> Any:
    """Σ x over `axis`, ascending and counted from the front, keeping the axes with length 1: float32, contiguous."""
    shape = list(x.shape)
    while axis:
        stop = last = axis[-1] + 1
        while axis and axis[-1] == last - 1:  # the last run of neighbouring axes
            axis, last = axis[:-1], last - 1
        rows, columns = math.prod(shape[last:stop]), math.prod(shape[stop:])
        x = x.reshape(math.prod(shape[:last]), rows, columns)
        # of small matrices a block each would be a waste, and CuPy's sums are as good
        x = over_middle(x) if rows * columns >= _SMALL else x.sum(axis=1)
        shape[last:stop] = [1] * (stop - last)
    return x.reshape(shape)
