"""The activations on the CPU: one pass over memory each, shared among threads; exp and Φ are straight-line arithmetic
in float32, so that every loop becomes vector code. See README.md for the formulas and the error budget."""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from tinygen.kernels.jit import njit
from tinygen.kernels.mathfast import exp
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, run

# No "reassoc": sums of two terms have an order here that keeps them exact where one of them vanishes.
_FLAGS: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy", "cache": True, "nogil": True}

_SQRT_HALF = math.sqrt(0.5)
_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)
# e^(z²/2)·Φ(−z) = t·(T0 + T1·t + … + T8·t⁸), t = 1/(1 + P·z): README eq. 5, fitted to 2.2e-8 on 0 ≤ z ≤ 14.
_P = np.float32(0.344)
_T0 = np.float32(1.3721960040e-01)
_T1 = np.float32(1.3763791001e-01)
_T2 = np.float32(1.1684080020e-01)
_T3 = np.float32(1.1248399096e-01)
_T4 = np.float32(-3.8960152222e-02)
_T5 = np.float32(1.9017124934e-01)
_T6 = np.float32(-2.7160458414e-01)
_T7 = np.float32(1.4413409537e-01)
_T8 = np.float32(-2.7922904223e-02)
_ONE = np.float32(1.0)


def _tail(z: float, e: float) -> float:
    """Φ(−z), z ≥ 0, given e = e^(−z²/2)."""
    return 0.5 * math.erfc(z * _SQRT_HALF)


def _tail32(z, e):
    t = _ONE / (_ONE + _P * z)
    p = (((_T8 * t + _T7) * t + _T6) * t + _T5) * t + _T4
    return ((((p * t + _T3) * t + _T2) * t + _T1) * t + _T0) * (t * e)


@overload(_tail, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _overload_tail(z, e):
    return _tail32 if z == types.float32 else lambda z, e: 0.5 * math.erfc(z * _SQRT_HALF)


@njit(**_FLAGS)
def _square(x):
    """x², at most 10⁴: past |x| = 100 σ has long been 0 or 1, and 0·∞ or ∞·0 would be NaN."""
    limit = type(x)(1e4)
    return x * x if x * x < limit else limit


@njit(**_FLAGS)
def _gated(x, linear, cubic, y, first, last):
    x, y = x[first:last], y[first:last]
    one, a, b = x.dtype.type(1), x.dtype.type(linear), x.dtype.type(cubic)
    for i in range(x.size):
        y[i] = x[i] / (one + exp(-x[i] * (a + b * _square(x[i]))))


@njit(**_FLAGS)
def _gated_slope(g, x, linear, cubic, y, first, last):
    g, x, y = g[first:last], x[first:last], y[first:last]
    one, a, b = x.dtype.type(1), x.dtype.type(linear), x.dtype.type(cubic)
    b3 = x.dtype.type(3 * cubic)
    for i in range(x.size):
        square = _square(x[i])
        v = x[i] * (a + b * square)
        # σ(|v|) and σ(−|v|), neither as a difference from 1, which would cancel
        e = exp(-abs(v))
        high = one / (one + e)
        low = e * high
        y[i] = g[i] * ((high if v > 0 else low) + x[i] * (a + b3 * square) * (high * low))


@njit(**_FLAGS)
def _gelu(x, y, first, last):
    x, y = x[first:last], y[first:last]
    one, minus_half = x.dtype.type(1), x.dtype.type(-0.5)
    for i in range(x.size):
        q = _tail(abs(x[i]), exp(minus_half * (x[i] * x[i])))
        y[i] = x[i] * (one - q if x[i] > 0 else q)


@njit(**_FLAGS)
def _gelu_slope(g, x, y, first, last):
    g, x, y = g[first:last], x[first:last], y[first:last]
    one, minus_half, density = x.dtype.type(1), x.dtype.type(-0.5), x.dtype.type(_DENSITY)
    for i in range(x.size):
        e = exp(minus_half * (x[i] * x[i]))
        q = _tail(abs(x[i]), e)
        y[i] = g[i] * ((one - q if x[i] > 0 else q) + x[i] * (density * e))


@njit(**_FLAGS)
def _gate(x, by, slope, y, first, last):
    x, by, y = x[first:last], by[first:last], y[first:last]
    one, low = x.dtype.type(1), x.dtype.type(slope)
    for i in range(x.size):
        y[i] = x[i] * (one if by[i] > 0 else low)


@njit(**_FLAGS)
def _relu(x, y, first, last):
    x, y = x[first:last], y[first:last]
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] <= 0 else x[i]


_gated_pieces = loop(_gated)
_gated_slope_pieces = loop(_gated_slope)
_gelu_pieces = loop(_gelu)
_gelu_slope_pieces = loop(_gelu_slope)
_gate_pieces = loop(_gate)
_relu_pieces = loop(_relu)


@njit(**_FLAGS)
def _gated_all(team, pieces, n, *args):
    divide(team, pieces, n, _gated_pieces(args))


@njit(**_FLAGS)
def _gated_slope_all(team, pieces, n, *args):
    divide(team, pieces, n, _gated_slope_pieces(args))


@njit(**_FLAGS)
def _gelu_all(team, pieces, n, *args):
    divide(team, pieces, n, _gelu_pieces(args))


@njit(**_FLAGS)
def _gelu_slope_all(team, pieces, n, *args):
    divide(team, pieces, n, _gelu_slope_pieces(args))


@njit(**_FLAGS)
def _gate_all(team, pieces, n, *args):
    divide(team, pieces, n, _gate_pieces(args))


@njit(**_FLAGS)
def _relu_all(team, pieces, n, *args):
    divide(team, pieces, n, _relu_pieces(args))


def _flat(a):
    """a as a contiguous, aligned, writable row: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(-1)


def _each(whole, x, *args):
    """A new array like x, filled by the pieces of `whole`."""
    y = np.empty(x.shape, x.dtype)
    run(whole, x.size, *args, y.reshape(-1), least=PIECE)
    return y


def gated(x, linear, cubic):
    """y = x·σ(x·(linear + cubic·x²))"""
    return _each(_gated_all, x, _flat(x), linear, cubic)


def gated_slope(g, x, linear, cubic):
    """g·dy/dx of `gated`."""
    return _each(_gated_slope_all, x, _flat(g), _flat(x), linear, cubic)


def gelu(x):
    """y = x·Φ(x)"""
    return _each(_gelu_all, x, _flat(x))


def gelu_slope(g, x):
    """g·(Φ(x) + x·φ(x))"""
    return _each(_gelu_slope_all, x, _flat(g), _flat(x))


def gate(x, by, slope):
    """y = x where by > 0, else slope·x"""
    return _each(_gate_all, x, _flat(x), _flat(by), float(slope))


def relu(x):
    """y = max(x, 0)"""
    return _each(_relu_all, x, _flat(x))
