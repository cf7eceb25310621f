"""Sums into places, one number at a time: the definition. numba.njit takes these functions unchanged."""

import numpy as np


def add_rows(n, ids, rows):
    """y (n, F) = 0, then y[ids[k]] += rows[k] for k = 0, 1, …; ids (m,) in [0, n), rows (m, F)."""
    m, F = rows.shape
    y = np.zeros((n, F))
    for k in range(m):
        for f in range(F):
            y[ids[k], f] += rows[k, f]
    return y.astype(rows.dtype)


def put_last(y, places, values):
    """y[places[k]] = values[k], k = 0, 1, …, in place; y (n,)."""
    for k in range(places.size):
        y[places[k]] = values[k]


def over_middle(x):
    """Σ_r x[a, r, c]"""
    A, R, C = x.shape
    y = np.zeros((A, C))
    for a in range(A):
        for r in range(R):
            for c in range(C):
                y[a, c] += x[a, r, c]
    return y.astype(x.dtype)
