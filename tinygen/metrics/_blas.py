"""Two threads for one LAPACK call.

tinygen keeps OpenBLAS to one thread and divides work itself (kernels/threads.py), but an eigen-decomposition cannot be
divided from outside: for its duration OpenBLAS gets the threads back.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator

from tinygen.kernels.threads import get_threads

LEAST = 256  # order of the matrix below which a second thread gains nothing


@contextlib.contextmanager
def blas_threads(order: int) -> Iterator[None]:
    """Let OpenBLAS use `get_threads()` threads inside the block, if the matrices are of at least LEAST rows."""
    threads = get_threads()
    setters = _setters() if threads > 1 and order >= LEAST else []
    try:
        for function in setters:
            function(ctypes.c_int(threads))
        yield
    finally:
        for function in setters:
            function(ctypes.c_int(1))


def _setters() -> list[Callable]:
    """The function that sets the number of threads, of each OpenBLAS in this process; none on another BLAS."""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split()[-1] for line in maps if "openblas" in line and ".so" in line}
    except OSError:
        return []
    names = [f"{p}openblas_set_num_threads{s}" for p in ("scipy_", "") for s in ("64_", "_64", "")]
    libraries = [ctypes.CDLL(path) for path in sorted(files)]
    return [next(getattr(x, name) for name in names if hasattr(x, name))
            for x in libraries if any(hasattr(x, name) for name in names)]
