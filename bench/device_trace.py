"""The same training on the CPU and on a GPU: how far the losses of the same seed part.

    python -m bench.device_trace [--model ddpm] [--steps 50] [--seed 0] [--out FILE]

The small preset in float32, on the CPU and on cuda:0 (as one CUDA graph from the third step on), step by step the same
images and the same draws. Writes bench/results/device_trace.json: both traces, the greatest relative difference of
the losses (asked: ≤ 1e-4), and whether a million normals are the same bits on both (asked: they are). Exit status 1
where either is not so, 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinygen as tg
from bench import gpu, record
from tinygen import data, run, train
from tinygen.cudagraph import Capture

NORMALS = 10**6
MOST = 1e-4  # relative difference of a loss


def losses(model: str, device: str, steps: int, seed: int = 0, **overrides: Any) -> tuple[list[dict[str, float]], int]:
    """(what each step reports, how many of the steps were launches of a CUDA graph)."""
    digits = data.load("digits")
    settings = run.settings_for(model, overrides=overrides, data="digits", images=digits, device=device)
    made = run.make_model(settings).train()
    rng = tg.Rng(seed)
    loader = data.Loader(digits, settings.config["batch_size"], rng)
    step: Callable = made.step if device == "cpu" else tg.capture(made.step)
    found = [train.one_step(step, loader, i, rng, device) for i in range(steps)]
    return found, step.replays if isinstance(step, Capture) else 0


def same_normals(device: str, count: int = NORMALS, seed: int = 0) -> dict[str, bool]:
    """Of each type, whether `count` normals are the same bits here and there."""
    found = {}
    for dtype, bits in ((np.float32, np.uint32), (np.float64, np.uint64)):
        here, there = (tg.Rng(seed).normal("device_trace", 0, (count,), dtype, device=d).numpy()
                       for d in ("cpu", device))
        found[np.dtype(dtype).name] = bool(np.array_equal(here.view(bits), there.view(bits)))
    return found


def compare(model: str, device: str, steps: int, seed: int = 0, normals: int = NORMALS,
            **overrides: Any) -> dict[str, Any]:
    """The traces of both devices and what they differ by."""
    (here, _), (there, replays) = (losses(model, d, steps, seed, **overrides) for d in ("cpu", device))
    names = [k for k in here[0] if "loss" in k]
    apart = {k: [abs(b[k] - a[k]) / abs(a[k]) for a, b in zip(here, there)] for k in names}
    worst, bits = max(max(v) for v in apart.values()), same_normals(device, normals, seed)
    return {"model": model, "preset": "small", "precision": "float32", "steps": steps, "seed": seed,
            "graph launches": replays, "difference": worst, "most": MOST, "normals": normals, "same bits": bits,
            "met": worst <= MOST and all(bits.values()),
            "relative differences": {k: [float(f"{x:.3g}") for x in v] for k, v in apart.items()},
            "cpu": {k: [a[k] for a in here] for k in names}, device: {k: [b[k] for b in there] for k in names}}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.device_trace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ddpm")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write there instead of bench/results")
    args = parser.parse_args(argv)
    if why := gpu.missing():
        print(f"There is no GPU to compare the CPU with: {why}", file=sys.stderr)
        return 2
    result = compare(args.model, tg.device("cuda:0"), args.steps, args.seed)
    from bench import gpu_tinygen

    result = {**result, "device": gpu_tinygen.about()}
    bits = ", ".join(f"{k}: {'the same' if same else 'OTHER'} bits" for k, same in result["same bits"].items())
    print(f"{args.model} small, {args.steps} steps: losses {result['difference']:.2e} apart at most; asked ≤ {MOST:g}: "
          f"{'met' if result['difference'] <= MOST else 'NOT met'}\n{NORMALS} normals, {bits}")
    if args.out is None:
        print("wrote", record.write("device_trace", result))
    else:
        args.out.write_text(json.dumps({**record.header(), **result}, indent=1, ensure_ascii=False) + "\n")
    return int(not result["met"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
