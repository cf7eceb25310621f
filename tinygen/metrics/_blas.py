"""All threads for one large LAPACK or BLAS call.

tinygen keeps OpenBLAS to one thread and divides work itself (kernels/threads.py). But an eigen-decomposition cannot be
divided from outside, and the threads of one product in float64 share what they load, which those of two products do not
(93 GFLOP/s against 75 on two cores): for the duration of such calls OpenBLAS gets the threads back.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from tinygen.kernels.threads import get_threads

LEAST = 256  # order of the matrix below which a second thread gains nothing
_depth = 0  # blocks inside one another: only the outermost takes the threads away


@contextlib.contextmanager
def blas_threads(order: int) -> Iterator[None]:
    """Let OpenBLAS use `get_threads()` threads inside the block, if the matrices are of at least LEAST rows."""
    global _depth
    threads = get_threads()
    setters = _setters("scipy.linalg" in sys.modules) if threads > 1 and order >= LEAST else []
    _depth += 1
    try:
        for function in setters:
            function(ctypes.c_int(threads))
        yield
    finally:
        _depth -= 1
        for function in setters if _depth == 0 else ():
            function(ctypes.c_int(1))


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of two matrices, with all threads."""
    with blas_threads(min(*a.shape, *b.shape)):
        return a @ b


@cache
def _setters(with_scipy: bool) -> list[Callable]:
    """The function that sets the number of threads, of each OpenBLAS in this process (NumPy's, and SciPy's once it is
    loaded); none on another BLAS."""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split()[-1] for line in maps if "openblas" in line and ".so" in line}
    except OSError:
        return []
    names = [f"{p}openblas_set_num_threads{s}" for p in ("scipy_", "") for s in ("64_", "_64", "")]
    libraries = [ctypes.CDLL(path) for path in sorted(files)]
    return [next(getattr(x, name) for name in names if hasattr(x, name))
            for x in libraries if any(hasattr(x, name) for name in names)]
