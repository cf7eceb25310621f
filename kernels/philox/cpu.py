"""The draws of loops.py, compiled; the blocks of a large draw are shared among the threads.

Words are carried as uint64 holding 32 bits, so that each multiplication is the widening 32 x 32 -> 64 one. No
fastmath: a contracted or reassociated operation would change numbers that are promised for ever.
"""

import math

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run

from . import elementary

LEAST = 128  # blocks of a piece, some 5 to 20 µs

_u64 = np.uint64
MASK, S32 = _u64(0xFFFFFFFF), _u64(32)
M0, M1 = _u64(0xD2511F53), _u64(0xCD9E8D57)
W0, W1 = _u64(0x9E3779B9), _u64(0xBB67AE85)
ZERO, ONE, S8, S11, S21 = _u64(0), _u64(1), _u64(8), _u64(11), _u64(21)
_log, _sincos = njit(cache=True, nogil=True)(elementary.log), njit(cache=True, nogil=True)(elementary.sincos)


@njit(cache=True, nogil=True)
def block(key, index, lane):
    """Philox4x32-10 of counter (index, lane) under key, all uint64 -> four uint64 below 2**32."""
    c0, c1, c2, c3 = index & MASK, index >> S32, lane & MASK, lane >> S32
    k0, k1 = key & MASK, key >> S32
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> S32) ^ c1 ^ k0, p1 & MASK, (p0 >> S32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _u24(w, low, span, top):
    return np.float32(min(low + span * (np.float64(np.int32(w >> S8)) * 2.0**-24), top))


@njit(cache=True, nogil=True)
def _u53(hi, lo, low, span, top):
    return min(low + span * (np.float64(np.int64(hi << S21 | lo >> S11)) * 2.0**-53), top)


@njit(cache=True, nogil=True)
def _uniform32(out, key, low, span, top, first, last):
    for j in range(first, min(last, out.size // 4)):
        w0, w1, w2, w3 = block(key, _u64(j), ZERO)
        out[4 * j] = _u24(w0, low, span, top)
        out[4 * j + 1] = _u24(w1, low, span, top)
        out[4 * j + 2] = _u24(w2, low, span, top)
        out[4 * j + 3] = _u24(w3, low, span, top)
    if last * 4 > out.size:
        w = block(key, _u64(out.size // 4), ZERO)
        for i in range(out.size // 4 * 4, out.size):
            out[i] = _u24(w[i % 4], low, span, top)


@njit(cache=True, nogil=True)
def _uniform64(out, key, low, span, top, first, last):
    for j in range(first, last):
        hi, lo = block(key, _u64(j), ZERO), block(key, _u64(j), ONE)
        for i in range(4 * j, min(4 * j + 4, out.size)):
            out[i] = _u53(hi[i % 4], lo[i % 4], low, span, top)


@njit(cache=True, nogil=True)
def _pair(key, j):
    """The two normals of block j, in float64."""
    w0, w1, w2, w3 = block(key, _u64(j), ZERO)
    u = np.float64(np.int64((w0 << S21 | w1 >> S11) + ONE)) * 2.0**-53
    sine, cosine = _sincos(np.int64(w2 << S21 | w3 >> S11))
    radius = math.sqrt(-2.0 * _log(u))
    return radius * cosine, radius * sine


@njit(cache=True, nogil=True)
def _normal(out, key, first, last):
    for j in range(first, min(last, out.size // 2)):
        out[2 * j], out[2 * j + 1] = _pair(key, j)
    if last * 2 > out.size:
        out[out.size - 1] = _pair(key, out.size // 2)[0]


@njit(cache=True, nogil=True)
def _word64(key, i, lane):
    w0, w1, w2, w3 = block(key, _u64(i >> 1), lane)
    return (w2 << S32 | w3) if i & 1 else (w0 << S32 | w1)


@njit(cache=True, nogil=True)
def _multiply_shift(x, span):
    """(x * span) >> 64 and the low 64 bits, by schoolbook halves."""
    xl, xh, sl, sh = x & MASK, x >> S32, span & MASK, span >> S32
    mid = (xl * sl >> S32) + (xh * sl & MASK) + (xl * sh & MASK)
    return xh * sh + (xh * sl >> S32) + (xl * sh >> S32) + (mid >> S32), x * span


@njit(cache=True, nogil=True)
def _integers(out, key, low, span, first, last):
    reject = (ZERO - span) % span  # 2**64 mod span
    for i in range(2 * first, min(2 * last, out.size)):
        lane = ZERO
        high, rest = _multiply_shift(_word64(key, i, lane), span)
        while rest < reject:
            lane += ONE
            high, rest = _multiply_shift(_word64(key, i, lane), span)
        out[i] = low + np.int64(high)


@njit(cache=True, nogil=True)
def _bits(out, key, first, last):
    for i in range(2 * first, min(2 * last, out.size)):
        out[i] = _word64(key, i, ZERO)


_uniform32_pieces = loop(_uniform32)


@njit(cache=True, nogil=True)
def _uniform32_all(team, pieces, n, *args):
    divide(team, pieces, n, _uniform32_pieces(args))


_uniform64_pieces = loop(_uniform64)


@njit(cache=True, nogil=True)
def _uniform64_all(team, pieces, n, *args):
    divide(team, pieces, n, _uniform64_pieces(args))


_normal_pieces = loop(_normal)


@njit(cache=True, nogil=True)
def _normal_all(team, pieces, n, *args):
    divide(team, pieces, n, _normal_pieces(args))


_integers_pieces = loop(_integers)


@njit(cache=True, nogil=True)
def _integers_all(team, pieces, n, *args):
    divide(team, pieces, n, _integers_pieces(args))


_bits_pieces = loop(_bits)


@njit(cache=True, nogil=True)
def _bits_all(team, pieces, n, *args):
    divide(team, pieces, n, _bits_pieces(args))


def uniform(key: int, n: int, low: float, high: float, dtype: np.dtype) -> np.ndarray:
    """n numbers in [low, high), bounds rounded to dtype first; see README.md for why never `high`."""
    out = np.empty(n, dtype)
    low, high = dtype.type(low), dtype.type(high)
    bounds = float(low), float(high) - float(low), float(np.nextafter(high, low))
    blocks = (n + 3) // 4
    single = dtype == np.float32
    run(_uniform32_all if single else _uniform64_all, blocks, out, _u64(key), *bounds, least=LEAST)
    return out


def normal(key: int, n: int, dtype: np.dtype) -> np.ndarray:
    """n standard normals: float64 Box-Muller pairs, rounded to dtype."""
    out = np.empty(n, dtype)
    blocks = (n + 1) // 2
    run(_normal_all, blocks, out, _u64(key), least=LEAST)
    return out


def integers(key: int, n: int, low: int, high: int) -> np.ndarray:
    """n int64 in [low, high), exactly uniform."""
    out = np.empty(n, np.int64)
    blocks = (n + 1) // 2
    run(_integers_all, blocks, out, _u64(key), low, _u64(high - low), least=LEAST)
    return out


def permutation(key: int, n: int) -> np.ndarray:
    """A uniformly random order of 0..n-1, int64."""
    bits = np.empty(n, np.uint64)
    run(_bits_all, (n + 1) // 2, bits, _u64(key), least=LEAST)
    return np.argsort(bits, kind="stable")
