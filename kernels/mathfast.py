"""exp for Numba kernels: in float32 a polynomial that LLVM turns into vector code, in float64 the C library's own.

np.exp and math.exp become one library call per element inside a jitted loop, which keeps the loop scalar.
`exp` here is straight-line arithmetic for float32 (no call, no branch), so the loop around it vectorises.
"""
import math

import numpy as np
from numba import types
from numba.extending import overload

_LOG2E = np.float32(1.4426950408889634)
# ln 2 in two parts: the first has its low bits clear, so k·_LN2_HI is exact for every k that occurs.
_LN2_HI = np.float32(0.693359375)
_LN2_LO = np.float32(-2.12194440e-4)
# Adding 1.5·2²³ rounds to an integer held in the low mantissa bits; the further 126 makes those bits the
# biased exponent of 2^(k-1).
_ROUND = np.float32(12582912.0 + 126.0)
_SMALLEST = np.float32(-86.98)
_LARGEST = np.float32(88.722839)
_INF = np.float32(np.inf)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
# exp(r) = 1 + r + r²·p(r) on |r| <= ln(2)/2: S. Moshier's minimax polynomial (Cephes, expf.c).
_P0 = np.float32(1.9875691500e-4)
_P1 = np.float32(1.3981999507e-3)
_P2 = np.float32(8.3334519073e-3)
_P3 = np.float32(4.1665795894e-2)
_P4 = np.float32(1.6666665459e-1)
_P5 = np.float32(5.0000001201e-1)


def exp(x: float) -> float:
    """e to the x, for use inside jitted functions (plain Python gets math.exp).

    float32: within 2 units in the last place (1.5 measured); results below 1.7e-38 become 0, above the
    largest float become inf; exp(-inf) = 0, exp(inf) = inf, NaN stays NaN. float64: math.exp.
    """
    return math.exp(x)


def _exp32(x):
    t = x * _LOG2E + _ROUND
    k = t - _ROUND
    r = x - k * _LN2_HI - k * _LN2_LO
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    p = p * (r * r) + r + _ONE
    # 2^k as 2^(k-1)·2: k = 128 occurs just below overflow and has no float of its own.
    y = p * np.int32(np.float32(t).view(np.int32) << np.int32(23)).view(np.float32) * _TWO
    # Comparisons written so that a NaN fails both and passes through.
    if x < _SMALLEST:
        y = _ZERO
    if x > _LARGEST:
        y = _INF
    return y


# Without "reassoc": (x·log2e + _ROUND) - _ROUND is the rounding step and must not be simplified away. Given
# explicitly because Numba lets a callee inherit its caller's flags.
@overload(exp, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _overload_exp(x):
    if x == types.float32:
        return _exp32
    if x == types.float64:
        return lambda x: math.exp(x)
    return None
