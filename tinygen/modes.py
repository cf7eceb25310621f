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


PRECISIONS = ("float32", "tf32", "bf16")


class precision:
    """How exactly products of matrices are computed from now on: convolutions, matmul, linear, attention.

    "float32" exactly so; "tf32" and "bf16" round both operands, to 10 and 7 bits of mantissa, and add up in float32, as
    tensor cores do; on a CPU the rounding is done and the sum is the same. It is written on each operation (its
    attribute `precision`), and its gradients are computed alike. Tensors stay float32, and so do parameters, sums,
    normalisations and losses; float64 stays float64. bfloat16 has float32's range, so that no loss needs scaling.

        tg.precision("tf32")              for the rest of this thread
        with tg.precision("bf16"): …      inside, and for the gradients of what was computed inside

    Raises ValueError for another name.
    """

    def __init__(self, name: str):
        if name not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {name!r}.")
        self._before, mode.precision = mode.precision, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error) -> None:
        mode.precision = self._before


def precise(asked: str | None, dtype: Any) -> str:
    """The precision of an operation on this dtype, where `asked` was given to it: that, or the thread's."""
    return (mode.precision if asked is None else asked) if dtype == "float32" else "float32"


def no_grad():
    """Context manager: nothing is recorded inside, so nothing is kept and no gradient flows."""
    return recording(False)


def replaying() -> bool:
    """True while `recompute` runs a function again: what must happen once (running statistics) has happened."""
    return mode.replaying
