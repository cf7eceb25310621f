"""How kernels that go over rows share them among threads: the defines of rows.cuh, by the length of a row."""

from __future__ import annotations

from functools import cache

from . import ceildiv


def _power(n: int) -> int:
    """The smallest power of two that is not less than n."""
    return 1 << max(0, n - 1).bit_length()


@cache
def plan(K: int, least: int = 1) -> dict[str, int]:
    """LANES, VEC, HELD and THREADS for rows of K numbers, 16 or fewer of them a thread's: up to 512 a warp's part, of
    `least` threads or more, takes a row; up to 8192 a block; longer ones are read in every pass."""
    vec = 4 if K % 4 == 0 else 1
    if K <= 512:
        lanes, threads = max(least, min(32, _power(ceildiv(K, vec)))), 128
    elif K <= 8192:
        lanes = threads = _power(ceildiv(K, 16))
    else:
        return {"LANES": 512, "VEC": 1, "HELD": 0, "THREADS": 512}
    return {"LANES": lanes, "VEC": vec, "HELD": _power(ceildiv(K, lanes * vec)), "THREADS": threads}


# lengths whose plans bring out all the code: parts of a warp, a warp and a block, of vectors and of single numbers; the
# fullest registers; rows that are not held
LENGTHS = (10, 256, 509, 1024, 4093, 8192, 20000)
