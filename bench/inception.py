"""Features of FID's Inception-v3 per second, beside PyTorch's: bench/results/inception.json.

    python bench/inception.py [--dry] [--rounds N] [--seconds S] [--only race|layers]

race: images of 299×299 to 2048 features, random weights, two threads each, taking turns in processes of their own.
PyTorch runs the same network as it is written, and with its batch normalisations folded into the convolutions, each in
both memory layouts; the fastest of the four counts. tinygen takes what it is given in blocks of four images. layers:
where tinygen's time goes, by the shape of a convolution, and what rate each reaches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import record, sides  # noqa: E402
from bench.cases import Case  # noqa: E402
from bench.conv2d import ratio  # noqa: E402

MULTIPLY_ADDS = 5.711e9  # of an image
BATCHES = (1, 4, 16)


def race(rounds: int, seconds: float) -> dict[str, Any]:
    """Rows by the number of images, and PyTorch's time over ours."""
    rows = []
    with sides.Race(sides.available(["tinygen", "torch"]), 2, rounds, seconds) as run:
        for n in BATCHES:
            case = Case(f"{n} images", "inception", {"n": n}, "inception", 2 * n * MULTIPLY_ADDS, 1)
            row = run.run(case)
            row |= {"ratio": ratio(row, "rounds"), "cpu_ratio": ratio(row, "cpu"), "images a second": {
                name: round(1e3 * n / statistics.median(side["rounds"]), 2)
                for name, side in row["sides"].items() if side["rounds"]}}
            rows.append(row)
            print(f"{row['name']:10} PyTorch/ours {row['ratio']:.2f}, by CPU {row['cpu_ratio']:.2f}; images a second",
                  row["images a second"], flush=True)
    return {"rows": rows, "problems": run.problems}


def layers(n: int = 4, passes: int = 6) -> list[dict[str, Any]]:
    """Milliseconds of each kind of layer in a pass over n images, the fastest of some; the slowest kind first."""
    import tinygen as tg
    from bench.in_tinygen import inception
    from tinygen import ops

    tg.set_threads(2)
    conv2d, log = ops.conv2d, []

    def timed(x, w, b=None, **how):
        start = time.perf_counter()
        y = conv2d(x, w, b, **how)
        kh, kw, c, f = w.shape
        name = f"{n}×{x.shape[1]}² {c}→{f} {kh}×{kw}" + (" stride 2" if how.get("stride") == 2 else "")
        log.append((name, time.perf_counter() - start, 2 * kh * kw * c * y.size))
        return y

    run, best, kept = inception("", n=n), float("inf"), []
    run()
    ops.conv2d = timed  # type: ignore[assignment]
    try:
        for _ in range(passes):
            log.clear()
            start = time.perf_counter()
            run()
            whole = time.perf_counter() - start
            if whole < best:
                best, kept = whole, list(log)
    finally:
        ops.conv2d = conv2d  # type: ignore[assignment]
    found: dict[str, list[float]] = {}
    for name, seconds, flops in [*kept, ("all but convolutions", best - sum(t for _, t, _ in kept), 0)]:
        one = found.setdefault(name, [0, 0, 0])
        one[0], one[1], one[2] = one[0] + 1, one[1] + seconds, one[2] + flops
    rows = [{"layer": name, "times": int(k), "ms": round(1e3 * t, 3), "GFLOP/s": round(f / t / 1e9)}
            for name, (k, t, f) in sorted(found.items(), key=lambda item: -item[1][1])]
    for row in rows:
        print(f"{row['layer']:34}×{row['times']:3}{row['ms']:9.2f} ms{row['GFLOP/s']:6} GFLOP/s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="record nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of a turn")
    parser.add_argument("--only", choices=("race", "layers"))
    args = parser.parse_args()
    result: dict[str, Any] = {}
    if args.only != "layers":
        result["race"] = race(args.rounds, args.seconds)
    if args.only != "race":
        result["layers"] = layers()
    if not args.dry:
        print("wrote", record.write("inception", result))


if __name__ == "__main__":
    main()
