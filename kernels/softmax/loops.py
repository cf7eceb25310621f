"""Softmax and its relatives, one row at a time: the definition the fast path is held to. numba.njit takes these
unchanged.

x, g, y (R, K) rows; every intermediate is float64.
"""

import math

import numpy as np


def _log_sum(row):
    """(m, log Σ e^(x − m)), m the largest of the row or 0 where that is infinite; a sum of 0 counts as 1."""
    top = -math.inf
    for k in range(row.size):
        top = max(top, row[k])
    if math.isinf(top):
        top = 0.0
    total = 0.0
    for k in range(row.size):
        total += math.exp(row[k] - top)
    return top, math.log(total) if total != 0.0 else 0.0


def softmax(x):
    """y = e^(x − m) / Σ e^(x − m)"""
    y = np.empty_like(x)
    for r in range(x.shape[0]):
        top, log = _log_sum(x[r])
        for k in range(x.shape[1]):
            y[r, k] = math.exp(x[r, k] - top - log)
    return y


def softmax_pull(g, y):
    """README eq. 2: y·(g − Σ g·y)"""
    gx = np.empty_like(y)
    for r in range(y.shape[0]):
        dot = 0.0
        for k in range(y.shape[1]):
            dot += float(g[r, k]) * y[r, k]
        for k in range(y.shape[1]):
            gx[r, k] = y[r, k] * (g[r, k] - dot)
    return gx


def log_softmax(x):
    """y = x − m − log Σ e^(x − m)"""
    y = np.empty_like(x)
    for r in range(x.shape[0]):
        top, log = _log_sum(x[r])
        for k in range(x.shape[1]):
            y[r, k] = x[r, k] - top - log
    return y


def log_softmax_pull(g, y):
    """README eq. 3: g − e^y·Σ g"""
    gx = np.empty_like(y)
    for r in range(y.shape[0]):
        total = 0.0
        for k in range(y.shape[1]):
            total += g[r, k]
        for k in range(y.shape[1]):
            gx[r, k] = g[r, k] - math.exp(y[r, k]) * total
    return gx


def cross_entropy(x, labels):
    """y (R,) = log Σ eˣ − x[label]"""
    y = np.empty(x.shape[0], x.dtype)
    for r in range(x.shape[0]):
        top, log = _log_sum(x[r])
        y[r] = log + (top - x[r, labels[r]])
    return y


def cross_entropy_pull(g, x, labels):
    """README eq. 4: g·(softmax(x) − onehot(label)); g (R,)"""
    gx = np.empty_like(x)
    for r in range(x.shape[0]):
        top, log = _log_sum(x[r])
        for k in range(x.shape[1]):
            gx[r, k] = g[r] * (math.exp(x[r, k] - top - log) - (1.0 if k == labels[r] else 0.0))
    return gx
