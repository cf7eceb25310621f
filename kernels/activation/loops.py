"""The activations, one number at a time: the definition the fast path is held to. numba.njit takes these unchanged.

x, g, by of one shape (n,); every intermediate is float64.
"""

import math

import numpy as np


def gated(x, linear, cubic):
    """y = x·σ(x·(linear + cubic·x²)): SiLU for (1, 0), the tanh form of GELU for the constants of README eq. 3."""
    y = np.empty_like(x)
    for i in range(x.size):
        a = float(x[i])
        y[i] = a / (1.0 + math.exp(-a * (linear + cubic * a * a)))
    return y


def gated_slope(g, x, linear, cubic):
    """README eq. 2."""
    y = np.empty_like(x)
    for i in range(x.size):
        a = float(x[i])
        s = 1.0 / (1.0 + math.exp(-a * (linear + cubic * a * a)))
        y[i] = g[i] * (s + a * s * (1.0 - s) * (linear + 3.0 * cubic * a * a))
    return y


def gelu(x):
    """y = x·Φ(x), Φ(x) = ½ erfc(−x/√2)."""
    y = np.empty_like(x)
    for i in range(x.size):
        a = float(x[i])
        y[i] = a * 0.5 * math.erfc(-a / math.sqrt(2.0))
    return y


def gelu_slope(g, x):
    """g·(Φ(x) + x·φ(x)), φ(x) = e^(−x²/2)/√(2π)."""
    y = np.empty_like(x)
    for i in range(x.size):
        a = float(x[i])
        density = math.exp(-0.5 * a * a) / math.sqrt(2.0 * math.pi)
        y[i] = g[i] * (0.5 * math.erfc(-a / math.sqrt(2.0)) + a * density)
    return y


def relu(x):
    """y = 0 where x <= 0, else x."""
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = 0.0 if x[i] <= 0 else x[i]
    return y


def gate(x, by, slope):
    """y = x where by > 0, else slope·x."""
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = x[i] if by[i] > 0 else slope * x[i]
    return y
