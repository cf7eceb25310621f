"""One owner of the cores: a pool that sleeps while it waits, and a BLAS that never starts its own.

OpenBLAS, libgomp (Numba) and every other pool that waits by spinning take each other's time slices: on two cores, with
anything else running, one training step took 1.6 s with OpenBLAS's own threads and 0.2 s without them. So OpenBLAS is
told to compute on the thread that calls it, and work is divided here: `share(n, work)` calls work(start, stop) on
contiguous parts of range(n), one a thread, the caller's included. NumPy's products and Numba functions compiled with
nogil=True let go of the interpreter, so the parts run side by side. Waiting threads sleep in the kernel.

The parts depend on n and on the number of threads alone: results are the same from run to run.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

# Below this many multiply-adds a product is not worth waking a thread for (about 50 µs of one core).
WORTH = 2_000_000
# Below this many numbers read and written, neither is a pass over memory.
GRAIN = 32_768

_inside = threading.local()  # .busy is set on a thread that runs a part: what it shares, it does alone
_tasks: SimpleQueue = SimpleQueue()
_workers = 0


def _cores() -> int:
    asked = os.environ.get("TINYGEN_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_count = _cores()


def get_threads() -> int:
    """Number of threads that a kernel is shared among; TINYGEN_THREADS, or one for each core."""
    return _count


def set_threads(n: int) -> None:
    """Share kernels among n threads, in this library's pool and in Numba's. Results are bit-identical from run to run
    for one n, not between different n. Raises ValueError for n < 1."""
    global _count
    if n < 1:
        raise ValueError(f"set_threads: at least 1 thread is needed, not {n}.")
    _count = n
    numba = __import__("sys").modules.get("numba")
    if numba is not None:
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))


def share(n: int, work: Callable[[int, int], object], least: int = 1) -> None:
    """Call work(start, stop) for contiguous parts of range(n), of at least `least` each, one part a thread.

    Returns when all are done; the first exception of a part is raised here. Inside a part, and for a single part, the
    call is direct.
    """
    parts = min(_count, n // max(least, 1))
    if parts <= 1 or getattr(_inside, "busy", False):
        if n:
            work(0, n)
        return
    _grow(parts - 1)
    done: SimpleQueue = SimpleQueue()
    bounds = [n * k // parts for k in range(parts + 1)]
    for k in range(1, parts):
        _tasks.put((work, bounds[k], bounds[k + 1], done))
    errors = [_run(work, 0, bounds[1])]
    errors += [done.get() for _ in range(parts - 1)]
    for error in errors:
        if error is not None:
            raise error


def grain(n: int, elements: int) -> int:
    """`least` for n parts that hold `elements` numbers together: enough parts to be worth waking a thread."""
    return max(1, -(-n * GRAIN // max(elements, 1)))


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """np.matmul, with its rows (or, for stacks of matrices, the stack) shared among the threads."""
    if a.ndim == 2 and b.ndim == 2:
        (m, k), n = a.shape, b.shape[1]
        if m * n * k < 4 * WORTH or _count == 1:
            return np.matmul(a, b, out=out)
        y = np.empty((m, n), np.result_type(a, b)) if out is None else out
        if m >= n:
            share(m, lambda i, j: np.matmul(a[i:j], b, out=y[i:j]), least=32)
        else:
            share(n, lambda i, j: np.matmul(a, b[:, i:j], out=y[:, i:j]), least=32)
        return y
    if a.ndim == b.ndim > 2 and a.shape[:-2] == b.shape[:-2] and a.size * b.shape[-1] >= WORTH and _count > 1:
        stack = a.shape[:-2]
        if out is None:
            out = np.empty((*stack, a.shape[-2], b.shape[-1]), np.result_type(a, b))
        if out.flags.c_contiguous:
            axis = 0 if stack[0] >= _count or len(stack) == 1 else max(range(len(stack)), key=lambda i: stack[i])
            index = (slice(None),) * axis

            def part(i: int, j: int) -> None:
                s = (*index, slice(i, j))
                np.matmul(a[s], b[s], out=out[s])

            share(stack[axis], part)
            return out
    return np.matmul(a, b, out=out)


def _run(work: Callable, start: int, stop: int) -> BaseException | None:
    _inside.busy = True
    try:
        work(start, stop)
    except BaseException as error:  # handed to the caller of share
        return error
    finally:
        _inside.busy = False
    return None


def _serve() -> None:
    while True:
        work, start, stop, done = _tasks.get()
        done.put(_run(work, start, stop))
        del work, done  # a sleeping thread keeps no arrays alive


def _grow(n: int) -> None:
    global _workers
    while _workers < n:
        _workers += 1
        threading.Thread(target=_serve, name=f"tinygen-{_workers}", daemon=True).start()


def _after_fork() -> None:
    """A forked child has this module's state but none of its threads."""
    global _workers, _tasks
    _workers, _tasks = 0, SimpleQueue()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def single_threaded_blas() -> int:
    """Tell every OpenBLAS in this process to use one thread; returns how many were found. Called when tinygen is
    imported. (Linux: by the process's own memory map. A NumPy on another BLAS is left as it is.)"""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split()[-1] for line in maps if "openblas" in line}
    except OSError:
        return 0
    found = 0
    for path in files:
        if ".so" not in path:
            continue
        library = ctypes.CDLL(path)
        for prefix in ("scipy_", ""):
            for suffix in ("64_", "_64", ""):
                function = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                if function is not None:
                    function(ctypes.c_int(1))
                    found += 1
                    break
            else:
                continue
            break
    return found
