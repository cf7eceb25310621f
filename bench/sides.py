"""The two sides of a comparison: a process each, which take turns.

A process waits, asleep, while the other works; a round is one turn of each, and the order is turned about from round to
round. What is compared is the median of a round with the median of the same round, so that a machine that is slower for
a while is slower for both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from bench.cases import Case

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# As the user set it: importing tinygen changes how OpenMP waits, and that must not reach PyTorch.
ENVIRONMENT = dict(os.environ)
NEEDS = {"tinygen": "numba", "tinygen.plain": "numba", "torch": "torch", "torch.compile": "torch",
         "torch.graph": "torch", "jax": "jax", "tinygrad": "tinygrad"}  # fmt: skip
PAUSE = 0.02  # seconds between turns, in which pools that wait by spinning go to sleep
LONG = 10_000  # ms of a first run after which no other is needed to warm up
HOPELESS = 1.25  # a variant so many times slower than its family's best after the first round is left out


class SideError(RuntimeError):
    """A side failed; the text is its own."""


def available(families: Iterable[str]) -> list[str]:
    """Those that are installed."""
    return [f for f in families if importlib.util.find_spec(NEEDS[f]) is not None]


def settings() -> dict[str, str]:
    """What the user's environment says about threads."""
    about = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TINYGEN_", "NUMBA_", "XLA_")
    return {k: v for k, v in ENVIRONMENT.items() if k.startswith(about)}


class Side:
    """A process that does the work of one family: side.ask("time", …)."""

    def __init__(self, family: str, threads: int = 2, device: str = "cpu", **environment: str):
        self.family, self.started = family, time.perf_counter()
        self._errors = tempfile.TemporaryFile("w+")
        env = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([ROOT, *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]),
               **environment}
        env.setdefault("TINYGEN_THREADS", str(threads))
        command = [sys.executable, "-m", "bench.worker", family, str(threads), device]
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._errors, text=True)

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Its answer. Raises SideError if it reports a failure or ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise SideError(f"the process of {self.family} ended: {' '.join(last) or 'without a word'}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self.family}: {answer['error']}")
        return answer

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def label(family: str, variant: str) -> str:
    """ "torch: channels_last" """
    return f"{family}: {variant}" if variant else family


class Race:
    """Cases measured by several families, for a number of rounds, each family for `seconds` a round."""

    def __init__(self, families: list[str], threads: int = 2, rounds: int = 5, seconds: float = 0.5,
                 device: str = "cpu"):
        self.families, self.threads, self.rounds, self.seconds = families, threads, rounds, seconds
        self.device = device
        self.sides: dict[str, Side] = {}
        self.problems: list[tuple[str, str]] = []  # (case, what happened)
        self._failures: dict[str, int] = {}  # of a family, one after the other

    def side(self, family: str) -> Side:
        if family not in self.sides:
            self.sides[family] = Side(family, self.threads, self.device)
        return self.sides[family]

    def close(self) -> None:
        for side in self.sides.values():
            side.close()
        self.sides.clear()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def about(self) -> dict[str, Any]:
        """What the families say of their device; one that has none is left out."""
        found: dict[str, Any] = {}
        for family in list(self.families):
            try:
                found.update(self.side(family).ask("about"))
            except SideError as error:
                self.problems.append(("all", str(error)))
                self.families = [f for f in self.families if f != family]
                self.sides.pop(family).close()
        return found

    def ceilings(self) -> dict[str, float]:
        """The highest rates that any of the first two families reaches."""
        best: dict[str, float] = {}
        for family in [f for f in self.families if f in ("tinygen", "torch")]:
            for k, v in self.side(family).ask("ceilings").items():
                best[k] = max(v, best.get(k, 0.0))
        return best

    def run(self, case: Case) -> dict[str, Any]:
        """The row of a case: {"name", "group", "unit", "flops", "bytes", "sides": {label: {"rounds", "cpu", …}}}."""
        entries: list[tuple[str, str, str]] = []
        counted: dict[str, float] = {}
        first: dict[str, float] = {}
        for family in self.families:
            try:
                for variant in self.side(family).ask("variants", kind=case.kind)["variants"]:
                    made = self.side(family).ask("prepare", kind=case.kind, args=case.args, variant=variant)
                    entries.append((label(family, variant), family, variant))
                    first[label(family, variant)] = 1e3 * made["first"]
                self._failures[family] = 0
                if family == "tinygen" and not case.flops and not case.bytes:
                    counted = self.side(family).ask("count")
            except SideError as error:
                self._fail(case, family, error)
                entries = [e for e in entries if e[1] != family]
        found: dict[str, dict[str, Any]] = {}
        for k in range(min(self.rounds, case.rounds) + 1):
            for name, family, variant in entries if k % 2 else entries[::-1]:
                if family not in {e[1] for e in entries}:
                    continue
                try:
                    if k == 0:  # a round to warm up, and to see which variants are in the running
                        warm = first[name] if first[name] >= LONG else self._turn(family, variant, 0.25)["ms"]
                        found[name] = {"warm_up": warm, "rounds": [], "best": [], "cpu": [], "runs": 0}
                        continue
                    time.sleep(PAUSE)
                    once, one = self._turn(family, variant), found[name]
                except SideError as error:
                    self._fail(case, family, error)
                    entries = [e for e in entries if e[1] != family]
                    continue
                one["rounds"].append(round(once["ms"], 4))
                one["best"].append(round(once["best"], 4))
                one["cpu"].append(round(once["cpu_ms"], 4))
                one["runs"] += once["runs"]
            if k == 0:
                entries = [e for e in entries if found[e[0]]["warm_up"] <= HOPELESS * min(
                    found[o[0]]["warm_up"] for o in entries if o[1] == e[1])]
        for family in {e[1] for e in entries}:
            try:
                self.side(family).ask("drop")
            except SideError as error:
                self._fail(case, family, error)
        for one in found.values():
            one["warm_up"] = round(one["warm_up"], 4)
        return {"name": case.name, "group": case.group, "unit": "ms", "flops": case.flops or counted.get("flops", 0),
                "bytes": case.bytes or counted.get("bytes", 0), "sides": found}

    def _turn(self, family: str, variant: str, share: float = 1.0) -> dict[str, Any]:
        return self.side(family).ask("time", seconds=share * self.seconds, least=1, variant=variant)

    def _fail(self, case: Case, family: str, error: SideError) -> None:
        self.problems.append((case.name, str(error)))
        self._failures[family] = self._failures.get(family, 0) + 1
        if self._failures[family] == 3:
            self.families = [f for f in self.families if f != family]
        if family in self.sides:  # it may have ended, or hold half a case
            self.sides.pop(family).close()
