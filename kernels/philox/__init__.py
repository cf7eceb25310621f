"""Philox4x32-10 draws: an array of numbers from a 64-bit key, each a function of the key and its own index.

Every function takes `key`, an int in [0, 2**64), and `device`: "cpu" gives a numpy array, "cuda:i" an array on that
device, of the same bits. There the key may also lie in device memory, an array of one uint64, which is read when the
kernel runs: a captured CUDA graph draws anew for each key that is put there.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels import cuda as gpu

_cpu: ModuleType | None = None


def _draw(device: str, kind: str, *args) -> Any:
    global _cpu
    if device != "cpu":
        if gpu.library is None:
            raise RuntimeError(f"philox: no device {device!r} is in use; ask for it first, tinygen.device({device!r}).")
        from . import cuda

        with gpu.library.cuda.Device(int(device.partition(":")[2] or 0)):
            return getattr(cuda, kind)(*args)
    if _cpu is None:
        from . import cpu as _cpu  # compiles with Numba: not before it is needed
    return getattr(_cpu, kind)(*args)


def _float_dtype(dtype) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"philox draws float32 or float64, not {dtype}; draw one of these and cast.")
    return dtype


def uniform(
    key: Any, shape: tuple[int, ...], low=0.0, high=1.0, dtype=np.float32, *, device="cpu"
) -> Any:
    """Uniform numbers in [low, high), never equal to `high`; the bounds are first rounded to dtype.

    24 random bits for float32, 53 for float64, of which the first 24 are the same.
    ValueError unless low < high, a finite distance apart.
    """
    dtype = _float_dtype(dtype)
    a, b = float(dtype.type(low)), float(dtype.type(high))
    if not (a < b and math.isfinite(b - a)):
        raise ValueError(f"uniform needs finite low < high in {dtype}, but got low={low}, high={high}.")
    return _draw(device, "uniform", key, math.prod(shape), a, b, dtype).reshape(shape)


def normal(key: Any, shape: tuple[int, ...], dtype=np.float32, *, device="cpu") -> Any:
    """Standard normal numbers: Box-Muller in float64, then rounded to dtype; |x| < 8.6."""
    dtype = _float_dtype(dtype)
    return _draw(device, "normal", key, math.prod(shape), dtype).reshape(shape)


def integers(key: Any, shape: tuple[int, ...], low: int, high: int, *, device="cpu") -> Any:
    """int64 numbers in [low, high), exactly uniform. ValueError unless low < high, at most 2**63 apart."""
    if not (-(2**63) <= low < high <= 2**63 and high - low <= 2**63):
        raise ValueError(
            f"integers needs low < high within int64 and at most 2**63 apart, but got low={low}, high={high}."
        )
    return _draw(device, "integers", key, math.prod(shape), low, high).reshape(shape)


def permutation(key: Any, n: int, *, device="cpu") -> Any:
    """A uniformly random order of 0, ..., n - 1 as int64."""
    return _draw(device, "permutation", key, n)
