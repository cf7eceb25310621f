"""Philox4x32-10 draws: an array of numbers from a 64-bit key, each a function of the key and its own index.

Every function takes `key`, an int in [0, 2**64), and `device`: "cpu" gives a numpy array. The CUDA launcher's
place is `_draws`; until it stands there, draw on the host and copy, which gives the same numbers.
"""

import math
from types import ModuleType

import numpy as np

_cpu: ModuleType | None = None


def _draws(device: str) -> ModuleType:
    global _cpu
    if device != "cpu":
        raise NotImplementedError(
            f'philox has no kernel for device {device!r} yet; draw with device="cpu" and copy: '
            "the numbers are the same."
        )
    if _cpu is None:
        from . import cpu as _cpu  # compiles with Numba: not before it is needed
    assert _cpu is not None
    return _cpu


def _float_dtype(dtype) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"philox draws float32 or float64, not {dtype}; draw one of these and cast.")
    return dtype


def uniform(
    key: int, shape: tuple[int, ...], low=0.0, high=1.0, dtype=np.float32, *, device="cpu"
) -> np.ndarray:
    """Uniform numbers in [low, high), never equal to `high`; the bounds are first rounded to dtype.

    24 random bits for float32, 53 for float64, of which the first 24 are the same.
    ValueError unless low < high, a finite distance apart.
    """
    dtype = _float_dtype(dtype)
    a, b = float(dtype.type(low)), float(dtype.type(high))
    if not (a < b and math.isfinite(b - a)):
        raise ValueError(f"uniform needs finite low < high in {dtype}, but got low={low}, high={high}.")
    return _draws(device).uniform(key, math.prod(shape), a, b, dtype).reshape(shape)


def normal(key: int, shape: tuple[int, ...], dtype=np.float32, *, device="cpu") -> np.ndarray:
    """Standard normal numbers: Box-Muller in float64, then rounded to dtype; |x| < 8.6."""
    dtype = _float_dtype(dtype)
    return _draws(device).normal(key, math.prod(shape), dtype).reshape(shape)


def integers(key: int, shape: tuple[int, ...], low: int, high: int, *, device="cpu") -> np.ndarray:
    """int64 numbers in [low, high), exactly uniform. ValueError unless low < high, at most 2**63 apart."""
    if not (-(2**63) <= low < high <= 2**63 and high - low <= 2**63):
        raise ValueError(
            f"integers needs low < high within int64 and at most 2**63 apart, but got low={low}, high={high}."
        )
    return _draws(device).integers(key, math.prod(shape), low, high).reshape(shape)


def permutation(key: int, n: int, *, device="cpu") -> np.ndarray:
    """A uniformly random order of 0, ..., n - 1 as int64."""
    return _draws(device).permutation(key, n)
