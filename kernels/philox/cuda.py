"""The draws of loops.py on a GPU, with the CPU's bits; see README.md.

A key is an int, or a device array of one uint64, which is read when the kernel runs: a captured graph draws anew for
each key that is put there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch

FILE, THREADS, TILE = "philox/cuda.cu", 256, 1024

BUILDS: tuple[dict, ...] = ({},)


def _key(key: Any) -> tuple[int, Any]:
    """A key as the kernels take it: by value, or by its place."""
    if isinstance(key, int):
        return key, None
    if key.dtype != np.uint64 or key.size != 1:
        raise TypeError(f"a key in device memory is one uint64, not {key.shape} {key.dtype}.")
    return 0, key


def _draw(name: str, n: int, each: int, dtype: Any, key: Any, *args: Any) -> Any:
    """`each` numbers a thread."""
    out = empty((n,), dtype)
    launch(FILE, name, (ceildiv(n, each * THREADS),), THREADS, (out, n, *_key(key), *args))
    return out


def uniform(key: Any, n: int, low: float, high: float, dtype: np.dtype) -> Any:
    """n numbers in [low, high), bounds rounded to dtype first; see README.md for why never `high`."""
    low, high = dtype.type(low), dtype.type(high)
    bounds = float(low), float(high) - float(low), float(np.nextafter(high, low))
    return _draw("uniform_float" if dtype == np.float32 else "uniform_double", n, 4, dtype, key, *bounds)


def normal(key: Any, n: int, dtype: np.dtype) -> Any:
    """n standard normals: float64 Box-Muller pairs, rounded to dtype."""
    if dtype == np.float32:
        return _draw("normal_float", n, 4, dtype, key)
    return _draw("normal_double", n, 2, dtype, key)


def integers(key: Any, n: int, low: int, high: int) -> Any:
    """n int64 in [low, high), exactly uniform."""
    span = high - low
    return _draw("integers", n, 2, np.int64, key, low, span, 2**64 % span)


def permutation(key: Any, n: int) -> Any:
    """A uniformly random order of 0..n-1, int64."""
    size = TILE
    while size < n:
        size *= 2
    keys, order = empty((size,), np.uint64), empty((size,), np.int64)
    launch(FILE, "sort_begin", (size // TILE,), THREADS, (keys, order, n, *_key(key)))
    run = 2 * TILE
    while run <= size:
        far = run // 2
        while far >= TILE:
            launch(FILE, "sort_far", (ceildiv(size // 2, THREADS),), THREADS, (keys, order, size // 2, run, far))
            far //= 2
        launch(FILE, "sort_near", (size // TILE,), THREADS, (keys, order, run))
        run *= 2
    return order[:n].copy()
