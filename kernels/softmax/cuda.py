"""Softmax, its logarithm and cross-entropy on a GPU: a row is one team of threads' (rows.py), read once, written once.

float32. See README.md; the functions are those of cpu.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready
from tinygen.kernels.cuda.rows import LENGTHS, plan

_SOURCE = "softmax/cuda.cu"
BUILDS: tuple[dict, ...] = tuple(plan(K) for K in LENGTHS)


def _over_rows(name: str, K: int, R: int, *args: Any) -> None:
    how = plan(K)
    launch(_SOURCE, name, (ceildiv(R, how["THREADS"] // how["LANES"]),), how["THREADS"], args, **how)


def _rows(x: Any) -> tuple[int, int]:
    """(R, K): how many rows, how long."""
    K = x.shape[-1]
    return (x.size // K if K else 0), K


def _forward(x: Any, log: int) -> Any:
    y = empty(x.shape, np.float32)
    if x.size:
        R, K = _rows(x)
        _over_rows("softmax", K, R, ready(x), y, R, K, log)
    return y


def softmax(x: Any) -> Any:
    """y = eˣ / Σ eˣ"""
    return _forward(x, 0)


def log_softmax(x: Any) -> Any:
    """y = x − log Σ eˣ"""
    return _forward(x, 1)


def _pull(name: str, g: Any, y: Any) -> Any:
    gx = empty(y.shape, np.float32)
    if y.size:
        R, K = _rows(y)
        _over_rows(name, K, R, ready(g), ready(y), gx, R, K)
    return gx


def softmax_pull(g: Any, y: Any) -> Any:
    """y·(g − Σ g·y)"""
    return _pull("softmax_pull", g, y)


def log_softmax_pull(g: Any, y: Any) -> Any:
    """g − e^y·Σ g"""
    return _pull("log_softmax_pull", g, y)


def _labels(labels: Any) -> Any:
    return ready(labels.astype(np.int64, copy=False))


def cross_entropy_forward(x: Any, labels: Any) -> tuple[Any, Any]:
    """log Σ eˣ − x[label], NaN where the label is no class; and the hint: each row's largest x, Σ e^(x − largest)."""
    R, K = _rows(x)
    y, tops, totals = empty(labels.shape, np.float32), empty((R,), np.float32), empty((R,), np.float32)
    if x.size:
        _over_rows("cross_entropy", K, R, ready(x), _labels(labels), y, tops, totals, R, K)
    return y, (tops, totals)


def cross_entropy_backward(g: Any, x: Any, labels: Any, *, hint: Any) -> Any:
    """g·(softmax(x) − onehot(label))"""
    R, K = _rows(x)
    gx = empty(x.shape, np.float32)
    if x.size:
        _over_rows("cross_entropy_pull", K, R, ready(g), ready(x), _labels(labels), *hint, gx, R, K)
    return gx
