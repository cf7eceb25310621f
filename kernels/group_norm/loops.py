"""Group norm (+ SiLU) as plain loops: the definition. numba.njit takes these functions unchanged.

Every intermediate is float64, so a float32 result here is the exact one rounded once.
"""
import math

import numpy as np


def forward(x, w, b, groups, eps, silu):
    """x N,P,C; w, b (C,); groups divides C. Returns y N,P,C, mean and rstd N,groups (float64)."""
    N, P, C = x.shape
    width = C // groups
    y = np.empty_like(x)
    mean = np.zeros((N, groups))
    rstd = np.zeros((N, groups))
    for n in range(N):
        for k in range(groups):
            total = 0.0
            for p in range(P):
                for c in range(k * width, (k + 1) * width):
                    total += x[n, p, c]
            m = total / (P * width)
            squares = 0.0
            for p in range(P):
                for c in range(k * width, (k + 1) * width):
                    squares += (x[n, p, c] - m) ** 2
            r = 1.0 / math.sqrt(squares / (P * width) + eps)
            mean[n, k] = m
            rstd[n, k] = r
            for p in range(P):
                for c in range(k * width, (k + 1) * width):
                    t = (x[n, p, c] - m) * r * w[c] + b[c]
                    if silu:
                        t = t / (1.0 + math.exp(-t))
                    y[n, p, c] = t
    return y, mean, rstd


def backward(g, x, w, b, mean, rstd, groups, silu):
    """g, x N,P,C; w, b (C,); mean, rstd N,groups from forward. Returns gx N,P,C, gw, gb (C,)."""
    N, P, C = x.shape
    width = C // groups
    gx = np.empty_like(x)
    gw = np.zeros(C)
    gb = np.zeros(C)
    h = np.empty((P, C))
    for n in range(N):
        for k in range(groups):
            m = mean[n, k]
            r = rstd[n, k]
            c1 = 0.0
            c2 = 0.0
            for p in range(P):
                for c in range(k * width, (k + 1) * width):
                    xhat = (x[n, p, c] - m) * r
                    d = 1.0
                    if silu:
                        t = xhat * w[c] + b[c]
                        s = 1.0 / (1.0 + math.exp(-t))
                        d = s * (1.0 + t * (1.0 - s))
                    h[p, c] = g[n, p, c] * d
                    gb[c] += h[p, c]
                    gw[c] += h[p, c] * xhat
                    c1 += h[p, c] * w[c]
                    c2 += h[p, c] * w[c] * xhat
            c1 /= P * width
            c2 /= P * width
            for p in range(P):
                for c in range(k * width, (k + 1) * width):
                    xhat = (x[n, p, c] - m) * r
                    gx[n, p, c] = r * (h[p, c] * w[c] - c1 - xhat * c2)
    return gx, gw.astype(x.dtype), gb.astype(x.dtype)
