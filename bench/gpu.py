"""The suite "gpu": is there a GPU, and what the numbers measured on it say.

    python -m bench.gpu     names the GPU; where there is none says why, with exit status 2
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from bench import table
from bench.table import Row


def missing() -> str:
    """Why nothing can be measured on a GPU here, as a sentence; "" where it can."""
    from tinygen import backend
    from tinygen.errors import DeviceError

    if os.environ.get("TINYGEN_CUDA"):
        return "TINYGEN_CUDA is set, and an emulated device says nothing of speed."
    try:
        backend.device("cuda:0")
    except DeviceError as error:
        return str(error).replace(", or use --device cpu", "").replace("; use --device cpu", "")
    return ""


def shares(rows: list[Row], ceilings: dict[str, float], asked: dict[str, float]) -> list[dict[str, Any]]:
    """Of each group that must come near the copy bandwidth, its least share of it, and whether that is enough."""
    found = []
    for group, least in asked.items():
        some = [share for r in rows if r["group"] == group and (share := _of_copy(r, ceilings)) is not None]
        if some:
            found.append({"group": group, "least": round(min(some), 3), "asked": least, "met": min(some) >= least})
    return found


def _time(row: Row, family: str) -> float | None:
    side = table.side_of(row, family)
    return statistics.median(row["sides"][side]["rounds"]) if side else None


def _of_copy(row: Row, ceilings: dict[str, float]) -> float | None:
    ms = _time(row, table.OURS)
    return row["bytes"] / (ms * 1e6) / ceilings["gbytes"] if ms and row["bytes"] and "gbytes" in ceilings else None


def report(result: dict[str, Any], verdict: bool = True) -> Iterator[str]:
    """The table, the ceilings and, if asked for, the verdicts."""
    rows, ceilings = result["rows"], result["ceilings"]
    about = result["device"]
    yield "; ".join(f"{k} {v}" for k, v in about.items())
    yield table.layout(
        ["work", "tinygen ms", "PyTorch ms", "ratio", "range", "PyTorch's form", "plain ms", "its graph", "TFLOP/s",
         "of GEMM", "GB/s", "of copy"], [_line(r, ceilings) for r in rows])  # fmt: skip
    yield ("ratio: PyTorch's eager time over ours as one CUDA graph (DDIM: operation by operation), its range over the "
           "rounds; plain: ours operation by operation; its graph: the ratio with PyTorch's kernel as a graph, too.")
    rates = [f"GEMM {p} {ceilings[p] / 1e3:.0f} TFLOP/s" for p in ("float32", "tf32", "bf16") if p in ceilings]
    yield "ceilings, measured in this run: " + ", ".join([f"copy {ceilings['gbytes']:.0f} GB/s", *rates])
    yield from table.summary_lines(result["summary"], verdict)
    for s in result["copy"]:
        said = "no verdict" if not verdict else "met" if s["met"] else "NOT met"
        yield f"{s['group']}: {s['least']:.0%} of the copy bandwidth at least; asked {s['asked']:.0%}: {said}"


def _line(row: Row, ceilings: dict[str, float]) -> list[str]:
    ours, theirs, plain = (_time(row, f) for f in ("tinygen", "torch", "tinygen.plain"))
    found, graphed = table.ratio(row), table.ratio(row, "torch.graph")
    form = (table.side_of(row, "torch") or "").partition(": ")[2]
    ms = [table.number(t) if t is not None else "–" for t in (ours, theirs, plain)]
    flops = row["flops"] / (ours * 1e6) if ours and row["flops"] else None  # GFLOP/s
    peak, share = ceilings.get(row["precision"]), _of_copy(row, ceilings)
    return [row["name"], *ms[:2], *([f"{found[0]:.2f}", f"{found[1]:.2f}–{found[2]:.2f}"] if found else ["–", "–"]),
            form or "–", ms[2], f"{graphed[0]:.2f}" if graphed else "–",
            table.number(flops / 1e3) if flops else "–", f"{flops / peak:.0%}" if flops and peak else "–",
            table.number(row["bytes"] / (ours * 1e6)) if share and ours else "–", f"{share:.0%}" if share else "–"]


def main() -> int:
    why = missing()
    if why:
        print(f"There is no GPU to use: {why}", file=sys.stderr)
        return 2
    from tinygen import backend

    print(backend.cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
