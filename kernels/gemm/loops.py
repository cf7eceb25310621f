"""A product of matrices in plain loops: the definition. numba.njit takes this function unchanged."""

import numpy as np


def product(a, b, bias):
    """y[m, n] = bias[n] + Σ_k a[m, k] b[k, n]; a (M, K), b (K, N), bias (N,), sums in float64 → (M, N) of a's dtype."""
    M, K = a.shape
    N = b.shape[1]
    y = np.empty((M, N), a.dtype)
    for m in range(M):
        for n in range(N):
            total = float(bias[n])
            for k in range(K):
                total += float(a[m, k]) * float(b[k, n])
            y[m, n] = total
    return y
