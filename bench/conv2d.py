"""The 3×3 convolution: beside PyTorch's, and its algorithms beside one another: bench/results/conv2d.json.

    python bench/conv2d.py [--dry] [--rounds N] [--seconds S] [--only race|algorithms]

race: forward and both gradients against PyTorch, two threads each, taking turns in processes of their own, and by the
processor's time of one thread each, which other programs disturb less. algorithms: gemm, F(2×2), F(4×4) for each of
the three forms on one thread, and how much slower than the best of them is the one that kernels/conv2d/choice.py takes.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinygen as tg  # noqa: E402
from bench import record, sides  # noqa: E402
from bench.cases import Case, conv_work  # noqa: E402
from tinygen.kernels import conv2d  # noqa: E402

NINE = [(16, side, c, c) for c in (64, 128, 256) for side in (32, 16, 8)]
SMALL_UNET = [(64, 8, 32, 32), (64, 8, 96, 32), (64, 4, 64, 64), (64, 4, 128, 64)]
SIZES = [(1, 4), (64, 2), (64, 3), (16, 4), (16, 6), (16, 7), (1, 8), (16, 8), (16, 14), (16, 16), (1, 32), (4, 32)]
CHANNELS = [(1, 32), (3, 64), (64, 3), (8, 8), (16, 16), (32, 32), (128, 32), (64, 64), (128, 128), (256, 256)]


def race(rounds: int, seconds: float) -> dict[str, Any]:
    """Rows of the shapes, by threads, and the geometric means of PyTorch's time over ours."""
    families, result = sides.available(["tinygen", "torch"]), {}
    for threads in (2, 1):
        rows = []
        with sides.Race(families, threads, rounds, seconds) as run:
            for group, shapes in (("nine", NINE), ("small U-Net", SMALL_UNET)):
                for n, side, cin, cout in shapes:
                    flops, moved = conv_work(n, side, cin, cout, 3, padding=1)
                    args = dict(n=n, side=side, cin=cin, cout=cout, k=3, padding=1)
                    row = run.run(Case(f"{n}×{side}² {cin}→{cout}", "conv2d", args, group, flops, moved))
                    rows.append(row | {"ratio": ratio(row, "rounds"), "cpu_ratio": ratio(row, "cpu")})
                    ms = statistics.median(row["sides"]["tinygen"]["rounds"])
                    print(f"{threads} threads  {row['name']:18}{ms:9.3f} ms {flops / ms / 1e6:7.0f} GFLOP/s"
                          f"  PyTorch/ours {rows[-1]['ratio']:6.2f}, by CPU {rows[-1]['cpu_ratio']:.2f}", flush=True)
        means = {f"{group}, by {key}": mean([r[key] for r in rows if r["group"] == group])
                 for group in ("nine", "small U-Net") for key in ("ratio", "cpu_ratio")}
        print({k: round(v, 2) for k, v in means.items()}, flush=True)
        result[f"{threads} threads"] = {"geometric means": means, "rows": rows}
    return result


def ratio(row: dict[str, Any], key: str) -> float:
    """PyTorch's time over ours, the better of PyTorch's layouts in each round; the median over the rounds."""
    ours = row["sides"]["tinygen"][key]
    theirs = [side[key] for name, side in row["sides"].items() if name != "tinygen" and side[key]]
    return statistics.median(min(t) / o for o, *t in zip(ours, *theirs)) if theirs else math.nan


def mean(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def algorithms() -> dict[str, Any]:
    """Microseconds of processor time of each algorithm and form, and what the rule loses."""
    tg.set_threads(1)
    names, rows, losses = ("gemm", "winograd2", "winograd4"), [], []
    rng = np.random.default_rng(0)
    geo: dict[str, Any] = dict(stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    for n, side in SIZES:
        for c, f in CHANNELS:
            if n * side * side * c * f > 2**26:
                continue
            shapes = (n, side, side, c), (3, 3, c, f), (n, side, side, f)
            x, w, g = (rng.standard_normal(s, np.float32) for s in shapes)
            forms = {
                "forward": (partial(conv2d.forward, x, w, **geo), (c, f)),
                "input_grad": (partial(conv2d.input_grad, g, w, x_shape=x.shape, **geo), (f, c)),
                "weight_grad": (partial(conv2d.weight_grad, x, g, w_shape=w.shape, **geo), (c, f)),
            }
            for form, (run, channels) in forms.items():
                times = {name: processor(run, name) for name in names}
                taken = conv2d.choose(None, (3, 3), (1, 1), (1, 1), 1, n, (side, side), *channels)
                losses.append(times[taken] / min(times.values()))
                rows.append({"n": n, "side": side, "C": c, "F": f, "form": form, "us": times, "taken": taken})
    alone = {name: mean([r["us"][name] / min(r["us"].values()) for r in rows]) for name in names}
    summary = {"rule over best": mean(losses), "worst": max(losses), "each alone over best": alone}
    print(f"{len(rows)} cases", summary)
    return {**summary, "rows": rows}


def processor(run, name: str) -> float:
    run(impl=name)
    times, begin = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - begin < 0.004:
        start = time.process_time()
        run(impl=name)
        times.append(time.process_time() - start)
    return round(1e6 * statistics.median(times), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="record nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn")
    parser.add_argument("--only", choices=("race", "algorithms"))
    args = parser.parse_args()
    result: dict[str, Any] = {}
    if args.only != "algorithms":
        result["race"] = race(args.rounds, args.seconds)
    if args.only != "race":
        result["algorithms"] = algorithms()
    if not args.dry:
        print("wrote", record.write("conv2d", result))


if __name__ == "__main__":
    main()
