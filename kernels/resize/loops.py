"""Nearest-neighbour enlargement and its adjoint as plain loops: the definition. numba.njit takes these unchanged."""

import numpy as np


def nearest(x, sh, sw):
    """x N,H,W,C -> y N,H·sh,W·sw,C"""
    N, H, W, C = x.shape
    y = np.empty((N, H * sh, W * sw, C), x.dtype)
    for n in range(N):
        for i in range(H * sh):
            for j in range(W * sw):
                for c in range(C):
                    y[n, i, j, c] = x[n, i // sh, j // sw, c]
    return y


def block_sum(g, sh, sw):
    """g N,H·sh,W·sw,C -> x N,H,W,C; each sum in float64"""
    N, H, W, C = g.shape
    x = np.empty((N, H // sh, W // sw, C), g.dtype)
    for n in range(N):
        for i in range(H // sh):
            for j in range(W // sw):
                for c in range(C):
                    total = 0.0
                    for k in range(sh):
                        for m in range(sw):
                            total += g[n, i * sh + k, j * sw + m, c]
                    x[n, i, j, c] = total
    return x
