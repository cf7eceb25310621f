"""A process that does the work of one side and times it: python -m bench.worker FAMILY THREADS [DEVICE]

It reads requests, one JSON object a line, and answers each with one:

    {"do": "prepare", "kind": …, "variant": …, "args": …}    make it and run it once (compiling is done after that)
    {"do": "time", "variant": …, "seconds": s, "least": n}   run it for s seconds and at least n times
    {"do": "count", "variant": …}                            FLOPs and bytes of a run (tinygen)
    {"do": "roofline", "variant": …, "steps": n}             each operation of a run (tinygen)
    {"do": "ceilings"} {"do": "about"} {"do": "dispatch"} {"do": "memory"} {"do": "drop"}

Families: tinygen, torch, torch.compile, jax, tinygrad; on a GPU also those without and with CUDA graphs, tinygen.plain
and torch.graph. tinygen is not imported by the others.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

MODULES = {"tinygen": "in_tinygen", "torch": "in_torch", "torch.compile": "in_torch", "jax": "in_jax",
           "tinygrad": "in_tinygrad"}  # fmt: skip
ON_GPU = {"tinygen": "gpu_tinygen", "tinygen.plain": "gpu_tinygen", "torch": "gpu_torch", "torch.graph": "gpu_torch"}


def load(family: str, threads: int, device: str = "cpu"):
    """The module of a family, told how many threads it may use and where."""
    if device != "cpu":
        module = importlib.import_module(f"bench.{ON_GPU[family]}")
        module.use(device, family)
        return module
    if hasattr(os, "sched_getaffinity") and family in ("jax", "tinygrad"):  # these have no other setting that lasts
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    module = importlib.import_module(f"bench.{MODULES[family]}")
    if family == "tinygen":
        module.tg.set_threads(threads)
    elif family.startswith("torch"):
        module.torch.set_num_threads(threads)
        module.COMPILED = family == "torch.compile"
    return module


def timed(run, seconds: float, least: int) -> dict[str, Any]:
    """Milliseconds a run: the median and the smallest by the clock, and the mean of the processor's time, all threads
    together."""
    times: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()
    while len(times) < least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    return {"ms": 1e3 * statistics.median(times), "best": 1e3 * min(times), "cpu_ms": 1e3 * cpu / len(times),
            "runs": len(times)}


def memory() -> dict[str, float]:
    """Resident memory of this process in MiB: now, and the most there was. (ru_maxrss would include the parent's.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return {"now": peak, "peak": peak}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {"now": int(lines["VmRSS"].split()[0]) / 1024, "peak": int(lines["VmHWM"].split()[0]) / 1024}


class Worker:
    """Answers the requests; `made` holds what was prepared, by variant."""

    def __init__(self, family: str, threads: int, device: str = "cpu"):
        self.module, self.made = load(family, threads, device), {}
        self.timed = getattr(self.module, "timed", timed)  # a GPU has a clock of its own

    def prepare(self, kind: str, args: dict[str, Any], variant: str = "") -> dict[str, Any]:
        if kind not in self.module.KINDS:
            return {"skip": True}
        before = memory()["now"]
        self.made[variant] = self.module.KINDS[kind](variant, **args)
        start = time.perf_counter()
        self.made[variant]()
        if hasattr(self.module, "wait"):
            self.module.wait()
        return {"first": time.perf_counter() - start, "before": before}

    def variants(self, kind: str) -> dict[str, Any]:
        return {"variants": self.module.VARIANTS.get(kind, ("",)) if kind in self.module.KINDS else ()}

    def time(self, seconds: float, least: int = 3, variant: str = "") -> dict[str, Any]:
        gc.collect()
        return self.timed(self.made[variant], seconds, least)

    def count(self, variant: str = "") -> dict[str, Any]:
        return self.module.count(self.made[variant])

    def roofline(self, steps: int, variant: str = "") -> dict[str, Any]:
        from bench.roofline import watch

        return {"groups": watch(self.made[variant], steps)}

    def ceilings(self) -> dict[str, Any]:
        return self.module.ceilings()

    def about(self) -> dict[str, Any]:
        return self.module.about()

    def dispatch(self) -> dict[str, Any]:
        from bench.dispatch import measure

        return {"table": measure()}

    def memory(self) -> dict[str, Any]:
        return memory()

    def drop(self) -> dict[str, Any]:
        self.made.clear()
        gc.collect()
        if hasattr(self.module, "give_back"):
            self.module.give_back()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        request = dict(request)
        return getattr(self, request.pop("do"))(**request)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    family, threads, device = sys.argv[1], int(sys.argv[2]), (*sys.argv[3:], "cpu")[0]
    worker = None
    for line in sys.stdin:
        try:
            worker = worker or Worker(family, threads, device)
            answer = worker.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
