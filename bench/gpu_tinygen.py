"""How tinygen does the work of the suite "gpu": in_tinygen.KINDS on a GPU and in a precision, each as one CUDA graph;
as the family tinygen.plain, operation by operation."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from typing import Any

import tinygen as tg
from bench import events, in_tinygen
from bench.cases import Run
from tinygen import backend
from tinygen.cudagraph import CaptureWarning

WATCHED = 2  # calls that tg.capture looks at before those that launch a graph
ALONE = ("ddim",)  # kinds that nothing captures, as nothing does in `tinygen sample`
VARIANTS: dict[str, tuple[str, ...]] = {}
COPIED = 1 << 28  # numbers of a copy: more than any cache holds


def use(device: str, family: str = "tinygen") -> None:
    """Do everything on this device. A step that does not become a graph is an error. Raises DeviceError."""
    in_tinygen.DEVICE, in_tinygen.CAPTURED = tg.device(device), family == "tinygen"
    warnings.simplefilter("error", CaptureWarning)
    VARIANTS.clear()
    if not in_tinygen.CAPTURED:
        VARIANTS.update(dict.fromkeys(ALONE, ()))


def _placed(kind: str):
    def make(variant: str, *, precision: str = "float32", **args: Any) -> Run:
        tg.precision(precision)
        run = in_tinygen.KINDS[kind](variant, **args)
        if in_tinygen.CAPTURED and kind not in ALONE:
            for _ in range(WATCHED):
                run()
        return run

    return make


KINDS = {kind: _placed(kind) for kind in in_tinygen.KINDS}


def mark() -> Any:
    event = backend.cupy.cuda.Event()
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    end.synchronize()
    return backend.cupy.cuda.get_elapsed_time(start, end)


def timed(run: Run, seconds: float, least: int = 1) -> dict[str, Any]:
    """Milliseconds a run, by the GPU's clock."""
    return events.timed(run, seconds, least, mark, between)


def ceilings() -> dict[str, float]:
    """GB/s of a copy, read and written."""
    source = backend.cupy.zeros(COPIED, "float32")
    target = backend.cupy.empty_like(source)

    def copy() -> None:
        target[...] = source

    return {"gbytes": 2 * source.nbytes / timed(copy, 0.1)["best"] / 1e6}


def count(run: Run) -> dict[str, float]:
    """Nothing: a graph has no operations to count."""
    return {}


def wait() -> None:
    """Until all is done that was asked for; raises what went wrong in it."""
    backend.cupy.cuda.Device(0).synchronize()


def give_back() -> None:
    """Let the other side have the memory."""
    backend.cupy.get_default_memory_pool().free_all_blocks()


def about() -> dict[str, Any]:
    """The GPU, and what drives it."""
    runtime = backend.cupy.cuda.runtime
    found = runtime.getDeviceProperties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader", "--id=0"]
    said = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else ""
    return {"gpu": found["name"].decode(), "compute capability": f"{found['major']}.{found['minor']}",
            "multiprocessors": found["multiProcessorCount"], "memory GiB": round(found["totalGlobalMem"] / 2**30, 1),
            "driver, clock, power": said or "unknown", "CUDA of the driver": runtime.driverGetVersion(),
            "CUDA of CuPy": runtime.runtimeGetVersion(), "cupy": backend.cupy.__version__}
