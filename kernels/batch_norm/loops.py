"""Batch norm, one channel at a time: the definition the fast path is held to. x (M, C) rows; w, b (C,)."""

import math

import numpy as np


def forward(x, w, b, eps):
    """y[m,c] = (x[m,c] − mean[c]) / √(var[c] + eps) · w[c] + b[c]. Returns y, mean, var."""
    M, C = x.shape
    y = np.zeros((M, C), x.dtype)
    mean = np.zeros(C)
    var = np.zeros(C)
    for c in range(C):
        for m in range(M):
            mean[c] += x[m, c] / M
        for m in range(M):
            var[c] += (x[m, c] - mean[c]) ** 2 / M
        for m in range(M):
            y[m, c] = (x[m, c] - mean[c]) / math.sqrt(var[c] + eps) * w[c] + b[c]
    return y, mean, var


def backward(g, g_mean, g_var, x, w, mean, var, eps):
    """README eq. 2-4: returns gx (M, C), gw (C,), gb (C,)."""
    M, C = x.shape
    gx = np.zeros((M, C), x.dtype)
    gw = np.zeros(C)
    gb = np.zeros(C)
    for c in range(C):
        s = 1.0 / math.sqrt(var[c] + eps)
        for m in range(M):
            gw[c] += g[m, c] * (x[m, c] - mean[c]) * s
            gb[c] += g[m, c]
        for m in range(M):
            d = x[m, c] - mean[c]
            gx[m, c] = s * w[c] * (g[m, c] - gb[c] / M - d * s * gw[c] / M)
            gx[m, c] += g_mean[c] / M + 2 * g_var[c] * d / M
    return gx, gw, gb
