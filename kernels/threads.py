"""One owner of the cores: a pool that sleeps while it waits, and a BLAS that never starts its own.

OpenBLAS, libgomp (Numba) and every other pool that waits by spinning take each other's time slices: on two cores, with
anything else running, one training step took 1.6 s with OpenBLAS's own threads and 0.2 s without them. So OpenBLAS is
told to compute on the thread that calls it, and work is divided here:

    run(whole, n, …)    compiled loops: team.py's threads take pieces of range(n), at the price of 1 µs. They look for
                        more for SPIN seconds before they sleep, and yield their core while they look.
    share(n, work)      work in Python: work(start, stop) on contiguous parts of range(n), one a thread. NumPy's
                        products let go of the interpreter, so they run side by side. Waiting threads sleep in the
                        kernel, and waking one costs some 40 µs.

The parts depend on n and on the number of threads alone: results are the same from run to run.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

# Below this many multiply-adds it is not worth waking a thread for a product (50 µs of one core); nor, WORTH_A_PIECE,
# sharing it in the team (6 µs).
WORTH, WORTH_A_PIECE = 2_000_000, 500_000
# Below this many numbers read and written, a pass over memory is not worth waking a thread; nor a piece of its own.
GRAIN, PIECE = 32_768, 16_384
# Pieces a thread: several, so that one that is late, or slowed by another program, leaves some to the others.
PIECES = 4
# Seconds that a thread of the team looks for work before it sleeps.
SPIN = 300e-6

_inside = threading.local()  # .busy is set on a thread that runs a part: what it shares, it does alone
_tasks: SimpleQueue = SimpleQueue()
_workers = 0
_members = 0  # threads of the team beside the caller


def _cores() -> int:
    asked = os.environ.get("TINYGEN_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_count = _cores()
_LIMIT, _MOST, _WORDS = 17, 64, 1120  # see team.py: how many may help, and at most; the words of the team
_team = np.zeros(_WORDS, np.int64)
_team[_LIMIT] = min(_count, _MOST) - 1


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
    _team[_LIMIT] = min(n, _MOST) - 1
    numba = __import__("sys").modules.get("numba")
    if numba is not None:
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))


def run(whole: Callable, n: int, *args, least: int = 1) -> None:
    """whole(team, pieces, n, *args), a compiled function that ends in team.run: range(n) in pieces of at least `least`,
    each computed by whichever thread of the team is free. Inside a part of `share` there is one piece."""
    pieces = 1 if _count == 1 else min(PIECES * _count, n // max(least, 1))
    if pieces > 1:
        if getattr(_inside, "busy", False):
            pieces = 1
        elif _members < _team[_LIMIT]:
            _gather(int(_team[_LIMIT]))
    if n:
        whole(_team, max(pieces, 1), n, *args)


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


def grain(n: int, elements: int, size: int = GRAIN) -> int:
    """`least` for n parts that hold `elements` numbers together: enough to be worth waking a thread, or, with PIECE, a
    piece of their own."""
    return max(1, -(-n * size // max(elements, 1)))


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """np.matmul, shared among the team's threads where that is worth it."""
    if _count > 1 and a.ndim == b.ndim > 1 and a.size * b.shape[-1] >= WORTH_A_PIECE and a.shape[:-2] == b.shape[:-2]:
        if a.shape[-1] == b.shape[-2] and (out is None or out.flags.c_contiguous):
            from .product import product  # BLAS's own door for compiled code; loads SciPy's

            y = product(a, b, out)
            if y is not None:
                return y
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


def _gather(n: int) -> None:
    """Let the team have n threads beside the caller: they need not be there when the work begins."""
    global _members
    from . import team

    if not _members:
        team.found(_team)
        atexit.register(team.dismiss, _team)
    while _members < n:
        _members += 1
        threading.Thread(target=_help, name=f"tinygen-team-{_members}", daemon=True).start()


def _help() -> None:
    from .team import idle, serve

    idle(_team, 1)  # compiles it, or loads what was compiled
    begin, probe = time.thread_time(), 1000
    idle(_team, probe)
    serve(_team, int(probe * SPIN / max(time.thread_time() - begin, 1e-6)) + 1)


def _after_fork() -> None:
    """A forked child has this module's state but none of its threads."""
    global _workers, _tasks, _members
    _workers, _tasks, _members = 0, SimpleQueue(), 0
    _team[:] = 0
    _team[_LIMIT] = min(_count, _MOST) - 1


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
