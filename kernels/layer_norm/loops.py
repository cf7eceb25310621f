"""Layer norm, one row at a time: the definition the fast path is held to. x (R, C) rows; w, b (C,)."""

import math

import numpy as np


def forward(x, w, b, eps):
    """y[r,c] = (x[r,c] − mean[r]) · rstd[r] · w[c] + b[c], rstd = 1/√(var + eps). Returns y, mean, rstd."""
    R, C = x.shape
    y = np.zeros((R, C), x.dtype)
    mean = np.zeros(R)
    rstd = np.zeros(R)
    for r in range(R):
        total = 0.0
        for c in range(C):
            total += x[r, c]
        mean[r] = total / C
        squares = 0.0
        for c in range(C):
            squares += (x[r, c] - mean[r]) ** 2
        rstd[r] = 1.0 / math.sqrt(squares / C + eps)
        for c in range(C):
            y[r, c] = (x[r, c] - mean[r]) * rstd[r] * w[c] + b[c]
    return y, mean, rstd


def backward(g, x, w, mean, rstd):
    """README eq. 2-4: returns gx (R, C), gw (C,), gb (C,)."""
    R, C = x.shape
    gx = np.zeros((R, C), x.dtype)
    gw = np.zeros(C)
    gb = np.zeros(C)
    for r in range(R):
        a1 = 0.0
        a2 = 0.0
        for c in range(C):
            u = (x[r, c] - mean[r]) * rstd[r]
            h = g[r, c] * w[c]
            gw[c] += g[r, c] * u
            gb[c] += g[r, c]
            a1 += h
            a2 += h * u
        for c in range(C):
            u = (x[r, c] - mean[r]) * rstd[r]
            gx[r, c] = rstd[r] * (g[r, c] * w[c] - a1 / C - u * a2 / C)
    return gx, gw, gb
