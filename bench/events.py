"""A GPU's own clock: the time between two events that are put into its queue, before and after a number of runs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

SHORTEST = 20.0  # ms between two events: what they and the first launch cost must not count
SAMPLES, LONGEST = 3, 4.0  # samples at least in a turn, unless they take so many times as long as the turn should


def timed(run: Callable[[], Any], seconds: float, least: int, mark: Callable[[], Any],
          between: Callable[[Any, Any], float]) -> dict[str, Any]:
    """Milliseconds a run as bench.worker.timed gives them: the median and the smallest of the samples. A sample is as
    many runs as last SHORTEST, asked for without waiting for any of them. cpu_ms: the processor's time for asking.

    mark() -> an event in the queue; between(a, b) -> the milliseconds from one to the other, waiting for the second.
    """

    def sample(times: int) -> float:
        start = mark()
        for _ in range(times):
            run()
        return between(start, mark())

    times, took = 1, sample(1)
    while took < SHORTEST:
        times = min(10 * times, math.ceil(1.2 * times * SHORTEST / max(took, 1e-3)))
        took = sample(times)
    found: list[float] = []
    cpu, begin, spent = time.process_time(), time.perf_counter(), 0.0
    while len(found) * times < least or spent < seconds or (len(found) < SAMPLES and spent < LONGEST * seconds):
        found.append(sample(times) / times)
        spent = time.perf_counter() - begin
    runs = times * len(found)
    cpu = time.process_time() - cpu
    return {"ms": statistics.median(found), "best": min(found), "cpu_ms": 1e3 * cpu / runs, "runs": runs}
