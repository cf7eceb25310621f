"""Rows of results, what they say, and tables of them.

A row is {"name", "group", "unit", "flops", "bytes", "sides": {label: {"rounds": […], "cpu": […]}}}, as Race.run gives
it; `rounds` holds one number a round, the same round of all sides measured side by side. "cpu" is the processor's time,
of all threads together, which other programs on the machine disturb less.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from bench.cases import Target

Row = dict[str, Any]
OURS = "tinygen"


def side_of(row: Row, family: str) -> str | None:
    """The label of a family's fastest variant (smallest median), or None if it has no rounds."""
    labels = [k for k, v in row["sides"].items() if v["rounds"] and (k == family or k.startswith(family + ": "))]
    return min(labels, key=lambda k: statistics.median(row["sides"][k]["rounds"]), default=None)


def ratio(row: Row, family: str = "torch", what: str = "rounds") -> tuple[float, float, float] | None:
    """That family's time over ours, round by round: (median, smallest, largest); None where one of them is missing."""
    ours, theirs = side_of(row, OURS), side_of(row, family)
    if ours is None or theirs is None:
        return None
    a, b = row["sides"][theirs].get(what), row["sides"][ours].get(what)
    pairs = [x / y for x, y in zip(a or [], b or []) if y > 0]
    return (statistics.median(pairs), min(pairs), max(pairs)) if pairs else None


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def number(x: float) -> str:
    """Three digits that matter: 0.0123, 1.23, 123, 12345."""
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def layout(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns aligned, the first to the left and the others to the right."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
             for line in [head, *body]]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def table(rows: Sequence[Row], ceilings: dict[str, float] | None = None) -> str:
    """The rows of one unit: ours, PyTorch's, the ratio of the two with its range over the rounds; for work that was
    counted, its rate and the share of the measured ceiling; other columns for what else was measured."""
    ceilings = ceilings or {}
    unit = rows[0]["unit"]
    others = [f for f in ("torch.compile", "jax", "tinygrad") if any(side_of(r, f) for r in rows)]
    torch = any(side_of(r, "torch") for r in rows)
    cpu = any(r["sides"][k].get("cpu") for r in rows for k in r["sides"])
    flops, moved = (any(r.get(k) for r in rows) for k in ("flops", "bytes"))
    head = ["work", f"tinygen {unit}"]
    if torch:
        head += [f"PyTorch {unit}", "ratio", "range", *(["CPU time"] if cpu else []), "PyTorch's form"]
    head += ["GFLOP/s", "of sgemm"] if flops else []
    head += ["GB/s", "of copy"] if moved else []
    head += [f"{f} ratio" for f in others]
    body = []
    for r in rows:
        ours, theirs = side_of(r, OURS), side_of(r, "torch")
        ms = statistics.median(r["sides"][ours]["rounds"]) if ours else None
        line = [r["name"], number(ms) if ms is not None else "–"]
        if torch:
            line.append(number(statistics.median(r["sides"][theirs]["rounds"])) if theirs else "–")
            found, used = ratio(r), ratio(r, what="cpu")
            line += [f"{found[0]:.2f}", f"{found[1]:.2f}–{found[2]:.2f}"] if found else ["–", "–"]
            line += ([f"{used[0]:.2f}"] if used else ["–"]) if cpu else []
            line.append(theirs.partition(": ")[2] if theirs else "–")
        for shown, key, ceiling in ((flops, "flops", "gflops"), (moved, "bytes", "gbytes")):
            if shown:
                rate = r[key] / (ms * 1e6) if r.get(key) and ms and unit == "ms" else None
                line += ["–", "–"] if rate is None else [
                    number(rate), f"{rate / ceilings[ceiling]:.0%}" if ceiling in ceilings else "–"]
        for f in others:
            found = ratio(r, f)
            line.append(f"{found[0]:.2f}" if found else "–")
        body.append(line)
    return layout(head, body)


def summary(rows: Sequence[Row], targets: dict[str, Target]) -> list[dict[str, Any]]:
    """For each group of rows that has a target: the geometric mean of PyTorch's time over ours, the least, and whether
    both are what they have to be."""
    found = []
    for group, target in targets.items():
        values = [x[0] for x in (ratio(r) for r in rows if r["group"] == group) if x]
        if values:
            mean, least = geometric_mean(values), min(values)
            found.append({"group": group, "rows": len(values), "mean": round(mean, 3), "least": round(least, 3),
                          "target": target.mean, "target_least": target.least,
                          "met": mean >= target.mean and (target.least is None or least >= target.least)})
    return found


def summary_lines(found: Sequence[dict[str, Any]], verdict: bool = True) -> list[str]:
    """The groups against their targets; without a verdict where the machine was too busy for one."""
    lines = []
    for s in found:
        asked = f"{s['target']:g}" + (f", none below {s['target_least']:g}" if s["target_least"] is not None else "")
        least = f" (least {s['least']:.2f} of {s['rows']})" if s["rows"] > 1 else ""
        said = "no verdict" if not verdict else "met" if s["met"] else "NOT met"
        lines.append(f"{s['group']}: {s['mean']:.2f}{least}; asked {asked}: {said}")
    return lines
