"""What became slower between two results, beyond what the rounds of each vary by themselves.

    python -m bench compare OLD.json NEW.json

Where both have PyTorch's time of the same version, ratios to it are compared: then a machine that is slower today
convicts nobody. Otherwise the times. A change counts if it is larger than 3 % and the ranges over the rounds do not
overlap, the one round furthest out on each side left aside if there are five or more.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.table import OURS, Row, layout, number, side_of

SMALLEST = 0.03


def load(path: str | Path) -> dict[str, Any]:
    """A result of `python -m bench`. Raises ValueError with a sentence if it is none."""
    try:
        result = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(result, dict) or not isinstance(result.get("rows"), list):
        raise ValueError(f"{path} is no result of python -m bench: it has no rows.")
    return result


def spread(values: Sequence[float]) -> tuple[float, float]:
    """(low, high) of the rounds, without the lowest and the highest if there are five or more."""
    inner = sorted(values)[1:-1] if len(values) >= 5 else values
    return min(inner), max(inner)


def costs(row: Row, by_ratio: bool) -> list[float]:
    """A number a round that is larger where we are slower: our time, or our time over PyTorch's."""
    ours = side_of(row, OURS)
    if ours is None:
        return []
    mine = row["sides"][ours]["rounds"]
    if not by_ratio:
        return list(mine)
    theirs = side_of(row, "torch")
    return [a / b for a, b in zip(mine, row["sides"][theirs]["rounds"])] if theirs else []


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """For each row of both: {"name", "old", "new", "change", "by", "verdict"}. change: of the cost, 0.1 for a tenth
    slower; verdict: slower, faster or same."""
    versions = [r.get("machine", {}).get("torch") for r in (old, new)]
    before, found = {(r["name"], r["unit"]): r for r in old["rows"]}, []
    for row in new["rows"]:
        was = before.get((row["name"], row["unit"]))
        if was is None:
            continue
        by_ratio = versions[0] == versions[1] and bool(costs(was, True)) and bool(costs(row, True))
        a, b = costs(was, by_ratio), costs(row, by_ratio)
        if not a or not b:
            continue
        change = statistics.median(b) / statistics.median(a) - 1
        (a_low, a_high), (b_low, b_high) = spread(a), spread(b)
        verdict = "same"
        if change > SMALLEST and b_low > a_high:
            verdict = "slower"
        elif change < -SMALLEST and b_high < a_low:
            verdict = "faster"
        times = [statistics.median(costs(r, False)) for r in (was, row)]
        found.append({"name": row["name"], "unit": row["unit"], "old": times[0], "new": times[1], "change": change,
                      "by": "ratio to PyTorch" if by_ratio else "time", "verdict": verdict})
    return found


def report(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, bool]:
    """(what to print, is anything slower)."""
    found = compare(old, new)
    lines = []
    for key in ("cpu", "threads"):
        values = [r.get("machine", {}).get(key) for r in (old, new)]
        if values[0] != values[1]:
            lines.append(f"The two were measured with different {key}: {values[0]} and {values[1]}.")
    if not found:
        return "\n".join([*lines, "The two have no row in common."]), False
    order = sorted(found, key=lambda f: -f["change"])
    changed = [f for f in order if f["verdict"] != "same"]
    if changed:
        lines.append(layout(["work", "old", "new", "change", "judged by", "verdict"], [
            [f["name"], f"{number(f['old'])} {f['unit']}", f"{number(f['new'])} {f['unit']}", f"{f['change']:+.1%}",
             f["by"], f["verdict"]] for f in changed]))
    slower = [f for f in changed if f["verdict"] == "slower"]
    lines.append(f"{len(found)} compared: {len(slower)} slower, {len(changed) - len(slower)} faster, "
                 f"{len(found) - len(changed)} the same within noise.")
    return "\n".join(lines), bool(slower)
