"""Philox4x32-10 and the draws made of it, in plain Python: the definition.

Everything is exact integer arithmetic up to the last lines of each draw, and those are float64 operations that IEEE 754
fixes one by one (elementary.py). The fast paths are held to it, bit for bit.

Sources: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (the generator);
Box and Muller, Ann. Math. Stat. 29 (1958) 610 (normals); Lemire, ACM TOMACS 29 (2019) 3 (integers).
"""

import math

import numpy as np

from .elementary import log, sincos

MASK = 0xFFFFFFFF
M0, M1 = 0xD2511F53, 0xCD9E8D57  # round multipliers (Salmon et al., table 2)
W0, W1 = 0x9E3779B9, 0xBB67AE85  # Weyl increments of the key: golden ratio and sqrt(3) - 1
ROUNDS = 10


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Encrypt one counter: four 32-bit words from four 32-bit words under two 32-bit key words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c0, c1, c2, c3


def block(key: int, index: int, lane: int = 0) -> tuple[int, int, int, int]:
    """Block `index` of `lane`: the counter is (index low, index high, lane low, lane high)."""
    return philox4x32((index & MASK, index >> 32, lane & MASK, lane >> 32), (key & MASK, key >> 32))


def word32(key: int, i: int, lane: int = 0) -> int:
    """The 32 bits that belong to element i: word i mod 4 of block i div 4."""
    return block(key, i // 4, lane)[i % 4]


def word64(key: int, i: int, lane: int = 0) -> int:
    """The 64 bits that belong to element i: half i mod 2 of block i div 2, high word first."""
    w = block(key, i // 2, lane)
    return w[2 * (i % 2)] << 32 | w[2 * (i % 2) + 1]


def uniform(key: int, n: int, low: float, high: float, dtype) -> np.ndarray:
    """n numbers in [low, high), bounds rounded to dtype first; see README.md for why never `high`."""
    low, high, top = dtype(low), dtype(high), float(np.nextafter(dtype(high), dtype(low)))
    span = float(high) - float(low)
    out = np.empty(n, dtype)
    for i in range(n):
        if dtype is np.float32:
            u = (word32(key, i) >> 8) * 2.0**-24
        else:  # the float32 draw's word supplies the leading bits, lane 1 the rest
            u = (word32(key, i) << 21 | word32(key, i, lane=1) >> 11) * 2.0**-53
        out[i] = min(float(low) + span * u, top)
    return out


def normal(key: int, n: int, dtype) -> np.ndarray:
    """n standard normals: elements 2j and 2j + 1 are the Box-Muller pair of block j, rounded to dtype."""
    out = np.empty(n, dtype)
    for i in range(n):
        j = i // 2
        u = ((word64(key, 2 * j) >> 11) + 1) * 2.0**-53  # (0, 1]: its logarithm is finite
        sine, cosine = sincos(np.int64(word64(key, 2 * j + 1) >> 11))  # of 2π times this · 2⁻⁵³
        out[i] = math.sqrt(-2.0 * log(u)) * (cosine if i % 2 == 0 else sine)
    return out


def integers(key: int, n: int, low: int, high: int) -> np.ndarray:
    """n integers in [low, high), exactly uniform: multiply-shift, if rejected again from the next lane."""
    span = high - low
    reject = 2**64 % span
    out = np.empty(n, np.int64)
    for i in range(n):
        lane = 0
        product = word64(key, i) * span
        while product % 2**64 < reject:
            lane += 1
            product = word64(key, i, lane) * span
        out[i] = low + (product >> 64)
    return out


def permutation(key: int, n: int) -> np.ndarray:
    """The order that sorts n random 64-bit numbers, earlier index first on a tie."""
    return np.array(sorted(range(n), key=lambda i: word64(key, i)), np.int64)
