"""The suites: each measures its cases, prints its tables and returns the result that is written down."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import cases, gpu, roofline, table
from bench.cases import Case, Target
from bench.sides import ENVIRONMENT, ROOT, Race, Side, SideError, label

Result = dict[str, Any]
BUSY = 0.1  # share of the cores taken by other programs above which a comparison decides nothing


@dataclass
class Options:
    """How to measure. words: only cases that one of them occurs in; families: besides tinygen and PyTorch."""

    families: list[str] = field(default_factory=lambda: ["tinygen"])
    rounds: int = 5
    seconds: float = 0.5
    threads: int = 2
    quick: bool = False
    words: list[str] = field(default_factory=list)

    def chosen(self, table: list[Case]) -> list[Case]:
        """The cases that are asked for: by a word, else all, or the quick ones."""
        if self.words:
            return [c for c in table if any(w in f"{c.name}|{c.kind}|{c.group}".lower() for w in self.words)]
        return [c for c in table if c.quick or not self.quick]

    @property
    def both(self) -> list[str]:
        """tinygen, and PyTorch if it is there."""
        return [f for f in self.families if f in ("tinygen", "torch")]


class Others:
    """What else the machine does meanwhile: the share of its cores that other processes used, and the load."""

    def __init__(self):
        self.load, self.start = os.getloadavg()[0], self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """(seconds of all cores, busy ones, ours), from the system's counters."""
        try:
            fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except OSError:
            return None
        tick = os.sysconf("SC_CLK_TCK")
        t = os.times()
        return sum(fields) / tick, (sum(fields) - fields[3] - fields[4]) / tick, sum(t[:4])

    def report(self) -> dict[str, float]:
        """{"load_before", "load_after", "others": share of the cores}. To be called when our processes have ended."""
        found = {"load_before": round(self.load, 2), "load_after": round(os.getloadavg()[0], 2)}
        now = self._now()
        if now is not None and self.start is not None and now[0] > self.start[0]:
            total, busy, ours = (b - a for a, b in zip(self.start, now))
            found["others"] = round(max(0.0, busy - ours) / total, 3)
        return found


def _progress(case: Case) -> None:
    print(f"  {case.name}", file=sys.stderr, flush=True)


def _race(options: Options, chosen: list[Case], families: list[str] | None = None, seconds: float = 1.0,
          device: str = "cpu") -> Result:
    """Rows of all cases, and the ceilings, measured before and after."""
    with Race(families or options.families, options.threads, options.rounds, options.seconds * seconds, device) as race:
        about = {} if device == "cpu" else {"device": race.about()}
        before = race.ceilings()
        rows = []
        for case in chosen:
            _progress(case)
            rows.append(race.run(case))
        after = race.ceilings()
        return {"rows": [r for r in rows if r["sides"]], "problems": problems(race.problems), **about,
                "ceilings": {k: max(v, after.get(k, 0.0)) for k, v in before.items()}}


def problems(found: list[tuple[str, str]]) -> list[str]:
    """Each thing that happened, once, with the cases it happened to."""
    where: dict[str, list[str]] = {}
    for name, what in found:
        where.setdefault(what, []).append(name)
    return [f"{what} ({', '.join(names)})" for what, names in where.items()]


def _compared(options: Options, chosen: list[Case], targets: dict[str, Target], **more) -> Result:
    result = _race(options, chosen, **more)
    result["summary"] = table.summary(result["rows"], targets)
    return result


def kernels(options: Options) -> Result:
    return _compared(options, options.chosen(cases.kernels()), cases.KERNEL_TARGETS)


def steps(options: Options) -> Result:
    families = [f for f in options.families if f in ("tinygen", "torch", "torch.compile")]
    chosen = options.chosen(cases.steps(options.quick))
    result = _compared(options, chosen, cases.STEP_TARGETS, families=families, seconds=2)
    every = [r for r in result["rows"] if r["group"] in ("training steps", "ddpm paper")]
    found = table.summary([{**r, "group": "training steps"} for r in every],
                          {"training steps": cases.STEP_TARGETS["training steps"]})
    result["summary"] = found + [s for s in result["summary"] if s["group"] != "training steps"]
    return result


def growth(options: Options) -> Result:
    series = cases.growth()
    wanted = {name: (what, [(v, c) for v, c in points if c in options.chosen([c])])
              for name, (what, points) in series.items()}
    result = _race(options, [c for _, points in wanted.values() for _, c in points], options.both)
    rows, slopes = {r["name"]: r for r in result["rows"]}, []
    for name, (what, points) in wanted.items():
        for family in options.both:
            found = [(v, statistics.median(rows[c.name]["sides"][side]["rounds"])) for v, c in points
                     if c.name in rows and (side := table.side_of(rows[c.name], family))]
            if len(found) >= 2:
                slopes.append({"series": name, "varied": what, "side": family, **fit(found)})
    result["slopes"] = slopes
    return result


def fit(points: list[tuple[float, float]]) -> dict[str, Any]:
    """How y grows with x: the exponent of the best power law (least squares in logarithms), the exponent between the
    two largest points, and the best straight line y = constant + each·x."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    (a, b), (c, d) = logs[-2:]
    slope, _ = _line(logs)
    each, constant = _line(points)
    return {"exponent": round(slope, 3), "last": round((d - b) / (c - a), 3), "each": round(each, 5),
            "constant": round(constant, 4), "points": [[x, round(y, 4)] for x, y in points]}


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    x, y = (statistics.fmean(p[i] for p in points) for i in (0, 1))
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    return slope, y - slope * x


def memory(options: Options) -> Result:
    """Peak resident memory, each case in a process of its own that has run it three times."""
    rows: list[table.Row] = []
    failures: list[tuple[str, str]] = []
    for case in options.chosen(cases.memory()):
        _progress(case)
        sides: dict[str, dict[str, list[float]]] = {}
        for _ in range(1 if options.quick else min(3, options.rounds)):
            for family in options.both:
                try:
                    with Side(family, options.threads) as asked:
                        variants = asked.ask("variants", kind=case.kind)["variants"][:2]
                    for variant in variants:
                        with Side(family, options.threads) as side:
                            before = side.ask("prepare", kind=case.kind, args=case.args, variant=variant)["before"]
                            side.ask("time", seconds=0, least=2, variant=variant)
                            peak = side.ask("memory")["peak"]
                        one = sides.setdefault(label(family, variant), {"rounds": [], "before": []})
                        one["rounds"].append(round(peak, 1))
                        one["before"].append(round(before, 1))
                except SideError as error:
                    failures.append((case.name, str(error)))
        rows.append({"name": case.name, "group": case.group, "unit": "MiB", "flops": 0, "bytes": 0, "sides": sides})
    result: Result = {"rows": rows, "problems": problems(failures),
                      "summary": table.summary(rows, {"ddpm paper": Target(1.0)})}
    slopes = []
    for group in dict.fromkeys(r["group"] for r in rows if r["group"].startswith("recompute")):
        for family in options.both:
            found = []
            for r in (r for r in rows if r["group"] == group):
                side = table.side_of(r, family)
                if side:
                    found.append((float(r["name"].split()[0]), statistics.median(r["sides"][side]["rounds"])))
            if len(found) >= 2:
                slopes.append({"series": group, "varied": "blocks", "side": family, **fit(found)})
    result["slopes"] = slopes
    return result


def startup(options: Options) -> Result:
    """Seconds to import, and from the start of a process to the end of its first training step: with nothing compiled,
    and later. (PyTorch compiles nothing.)"""
    rows: list[table.Row] = []
    times = 2 if options.quick else options.rounds
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    found: dict[str, list[float]] = {f: [] for f in options.both}
    for _ in range(times + 1):
        for family in options.both:
            out = subprocess.run([sys.executable, "-c", code.format(family)], cwd=ROOT, env=ENVIRONMENT, text=True,
                                 capture_output=True, check=True).stdout
            found[family].append(round(float(out), 4))
    rows.append(_seconds("import", {f: v[1:] for f, v in found.items()}))  # the first one reads from the disk

    models = [("ddpm small", "ddpm_step", cases.settings("ddpm", "small"))]
    if not options.quick:
        models.append(("ddpm paper, batch 8", "ddpm_step", cases.settings("ddpm", "paper", batch_size=8)))
        models += [(f"{m} small", f"{m}_step", cases.settings(m, "small")) for m in ("dcgan", "conv_vae", "gan")]
    for name, kind, args in models:
        case = Case(name, kind, args)
        _progress(case)
        with tempfile.TemporaryDirectory() as cache:
            first = {f: [_first_step(f, case, options.threads, cache)] for f in options.both}
            later: dict[str, list[float]] = {f: [] for f in options.both}
            for _ in range(times):
                for f in options.both:
                    later[f].append(_first_step(f, case, options.threads, cache))
        rows += [_seconds(f"first step, nothing compiled: {name}", first),
                 _seconds(f"first step, later: {name}", later)]
    limits = [("import", 0.3), ("first step, nothing compiled: ddpm small", 25.0),
              ("first step, later: ddpm small", 2.0)]
    summary = []
    for r in rows:
        for name, most in limits:
            if r["name"] == name:
                seconds = statistics.median(r["sides"]["tinygen"]["rounds"])
                summary.append({"group": name, "seconds": seconds, "most": most, "met": seconds <= most})
    return {"rows": rows, "limits": summary}


def _seconds(name: str, found: dict[str, list[float]]) -> table.Row:
    return {"name": name, "group": "startup", "unit": "s", "flops": 0, "bytes": 0,
            "sides": {f: {"rounds": v} for f, v in found.items()}}


def _first_step(family: str, case: Case, threads: int, cache: str) -> float:
    import time

    with Side(family, threads, NUMBA_CACHE_DIR=cache) as side:
        side.ask("prepare", kind=case.kind, args=case.args, variant=side.ask("variants", kind=case.kind)["variants"][0])
        return round(time.perf_counter() - side.started, 3)


def dispatch(options: Options) -> Result:
    """What the tape costs: microseconds an operation over bare NumPy (bench/dispatch.py)."""
    found: dict[str, list[float]] = {}
    with Side("tinygen", options.threads) as side:
        for _ in range(2 if options.quick else options.rounds):
            for name, row in side.ask("dispatch")["table"].items():
                for what, value in row.items():
                    found.setdefault(f"{name}: {what}", []).append(value)
    rows = [{"name": name, "group": "dispatch", "unit": "µs", "flops": 0, "bytes": 0,
             "sides": {"tinygen": {"rounds": v}}} for name, v in found.items()]
    return {"rows": rows, "targets": {"forward, over bare": 2.0, "backward": 6.0}}


def rooflines(options: Options) -> Result:
    """Each operation of a training step, its time and its limit; the pictures go to docs/images."""
    rows, models = [], {}
    wanted = [(c.name, c) for c in options.chosen(cases.steps(options.quick)) if c.kind != "ddim"]
    with Side("tinygen", options.threads) as side:
        ceilings = side.ask("ceilings")
        for name, case in wanted:
            _progress(case)
            side.ask("prepare", kind=case.kind, args=case.args)
            side.ask("time", seconds=options.seconds / 2)
            groups = side.ask("roofline", steps=3 if options.quick else 9)["groups"]
            side.ask("drop")
            models[name] = groups
            rows.append({"name": f"{name}, watched", "group": "roofline", "unit": "ms", "flops": sum(
                g["flops"] for g in groups), "bytes": sum(g["bytes"] for g in groups),
                "sides": {"tinygen": {"rounds": [round(sum(g["ms"] for g in groups), 4)]}}})
        ceilings = {k: max(v, ceilings[k]) for k, v in side.ask("ceilings").items()}
    for name, groups in models.items():
        print(f"\n{name}\n{roofline.lines(groups, ceilings)}")
        if not options.quick:
            path = Path(ROOT) / "docs" / "images" / f"roofline_{name.split(',')[0].replace(' ', '_')}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(roofline.svg(groups, ceilings, f"{name}: one training step"))
            print("drew", os.path.relpath(path, ROOT))
    return {"rows": rows, "ceilings": ceilings, "models": {name: [
        {k: round(v, 5) if isinstance(v, float) else v for k, v in g.items()} for g in groups]
        for name, groups in models.items()}}


def on_gpu(options: Options) -> Result:
    """On cuda:0: tinygen as CUDA graphs and operation by operation, PyTorch eager, and its kernels as graphs."""
    families = [g for f in options.both for g in (f, {"tinygen": "tinygen.plain", "torch": "torch.graph"}[f])]
    chosen = options.chosen(cases.gpu())
    result = _race(options, chosen, families, seconds=0.5, device="cuda:0")
    precision = {c.name: c.args.get("precision", "float32") for c in chosen}
    for row in result["rows"]:
        row["precision"] = precision[row["name"]]
    result["summary"] = table.summary(result["rows"], cases.GPU_TARGETS)
    result["copy"] = gpu.shares(result["rows"], result["ceilings"], cases.COPY_SHARES)
    return result


SUITES: dict[str, Callable[[Options], Result]] = {
    "kernels": kernels, "steps": steps, "memory": memory, "startup": startup, "growth": growth, "dispatch": dispatch,
    "roofline": rooflines, "gpu": on_gpu,
}  # fmt: skip
USUAL = [suite for suite in SUITES if suite != "gpu"]  # what is measured where nothing is named
SEARCHED = ("kernels", "steps")  # for a word that is not the name of a suite


def names(suite: str, quick: bool = False) -> list[str]:
    """What a suite measures."""
    lists: dict[str, Callable[[], list[Case]]] = {
        "kernels": cases.kernels, "steps": lambda: cases.steps(quick), "memory": cases.memory, "gpu": cases.gpu,
        "growth": lambda: [c for _, points in cases.growth().values() for _, c in points]}
    return [c.name for c in lists[suite]()] if suite in lists else []


def report(result: Result) -> Iterator[str]:
    """The lines that say what was found."""
    busy = result.get("others", {}).get("others", 0.0) > BUSY
    if result.get("suite") == "gpu":
        yield from gpu.report(result, verdict=not busy)
    else:
        yield from _report(result, busy)
    yield from (f"left out: {p}" for p in result.get("problems", []))
    if busy:
        yield (f"Other programs used {result['others']['others']:.0%} of the cores meanwhile, and that does not slow "
               "both sides alike: these numbers say nothing about either.")


def _report(result: Result, busy: bool) -> Iterator[str]:
    for unit in dict.fromkeys(r["unit"] for r in result["rows"]):
        yield table.table([r for r in result["rows"] if r["unit"] == unit], result.get("ceilings"))
    if "ceilings" in result:
        c = result["ceilings"]
        yield f"ceilings, measured in this run: sgemm {c['gflops']:.0f} GFLOP/s, copy {c['gbytes']:.1f} GB/s, both ways"
    if result.get("slopes"):
        yield table.layout(["growth", "with", "side", "exponent", "of the last two", "constant", "each"], [
            [s["series"], s["varied"], s["side"], f"{s['exponent']:.2f}", f"{s['last']:.2f}",
             table.number(s["constant"]), table.number(s["each"])] for s in result["slopes"]])
    yield from table.summary_lines(result.get("summary", []), verdict=not busy)
    for s in result.get("limits", []):
        verdict = "no verdict" if busy else "met" if s["met"] else "NOT met"
        yield f"{s['group']}: {s['seconds']:.2f} s; asked ≤ {s['most']:g} s: {verdict}"
