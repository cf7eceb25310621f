"""What a thread has switched on: recording, replaying, the precision of products, a watch on what a step draws."""

from __future__ import annotations

import contextlib
import threading
from typing import Any


class _Mode(threading.local):
    """Each thread's own: is what it computes recorded, and is `recompute` running a function again? precision: of the
    products of matrices. watch: told of random draws on a device and of updates, while cudagraph.py watches a step."""

    recording = True
    replaying = False
    precision = "float32"
    watch: Any = None


mode = _Mode()


@contextlib.contextmanager
def recording(on: bool):
    """Context manager: record, or do not, what this thread computes inside."""
    before, mode.recording = mode.recording, on
    try:
        yield
    finally:
        mode.recording = before


def no_grad():
    """Context manager: nothing is recorded inside, so nothing is kept and no gradient flows."""
    return recording(False)


def replaying() -> bool:
    """True while `recompute` runs a function again: what must happen once (running statistics) has happened."""
    return mode.replaying
