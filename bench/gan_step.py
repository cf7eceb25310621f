"""One training step of the perceptron GAN at batch 64 against the same in PyTorch:
bench/results/gan_step.json.

    python bench/gan_step.py [--rounds 5] [--threads 2] [--dry]

The small preset on 8×8 images, with and without R1: noise, D's step, G's step, both Adams, the moving
average, the scalars of the log. Each measurement is a process of its own, and the two sides take turns; a
number is the median over its steps, and then over its rounds. PyTorch runs eagerly, once with its plain Adam
and once with the fused one; the faster counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import record  # noqa: E402

STEPS, WARM = 300, 100
SIDES = ("tinygen", "torch", "torch-fused")


def tinygen_step(r1: float) -> Callable[[int], Any]:
    import numpy as np

    import tinygen as tg
    from tinygen import config, data
    from tinygen.models.gan import GAN

    rng = tg.Rng(0)
    model = GAN(config.build(GAN.Config, GAN.PRESETS["small"], {"r1": r1}), rng)
    loader = data.Loader(data.load("digits", "train"), 64, rng)
    batches = [data.Batch(loader.batch(i).images, None, None, np.arange(64)) for i in range(14)]
    return lambda i: model.step(batches[i % 14], rng)


def torch_step(r1: float, fused: bool, threads: int) -> Callable[[int], Any]:
    import copy

    import torch
    from torch import nn
    from torch.nn import functional as F

    from tinygen import Rng, data

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loader = data.Loader(data.load("digits", "train"), 64, Rng(0))
    batches = [torch.tensor(loader.batch(i).images.data) for i in range(14)]
    G = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh(),
                      nn.Unflatten(1, (8, 8, 1)))
    D = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.LeakyReLU(0.2), nn.Linear(256, 256), nn.LeakyReLU(0.2),
                      nn.Linear(256, 1))
    average = copy.deepcopy(G)
    shadow, own = list(average.parameters()), list(G.parameters())
    d_opt, g_opt = (torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.99), fused=fused) for net in (D, G))

    def step(i: int) -> dict[str, float]:
        x = batches[i % 14]
        with torch.no_grad():
            fake = G(torch.randn(64, 16))
        if r1:
            leaf = x.detach().requires_grad_()
            on_real, on_fake = D(leaf), D(fake)
            (slope,) = torch.autograd.grad(on_real.sum(), leaf, create_graph=True)
            penalty = r1 / 2 * slope.square().sum((1, 2, 3)).mean()
        else:
            on_real, on_fake = D(torch.cat([x, fake])).split(64)
            penalty = 0.0
        d_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        objective = d_loss + penalty
        d_opt.zero_grad()
        objective.backward()
        d_opt.step()
        D.requires_grad_(False)
        g_loss = F.softplus(-D(G(torch.randn(64, 16)))).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(shadow, own, 0.002)
        return {"d_loss": d_loss.item(), "g_loss": g_loss.item(), "d_real": on_real.sigmoid().mean().item(),
                "d_fake": on_fake.sigmoid().mean().item()}

    return step


def measure(side: str, r1: float, threads: int) -> float:
    """Milliseconds of a step, the median of STEPS after WARM."""
    step = tinygen_step(r1) if side == "tinygen" else torch_step(r1, side == "torch-fused", threads)
    times = []
    for i in range(WARM + STEPS):
        begin = time.perf_counter()
        step(i)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[WARM:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "R1"), help="a single measurement, in this process")
    args = parser.parse_args()
    if args.one:
        print(measure(args.one[0], float(args.one[1]), args.threads))
        return

    threads = {k: str(args.threads) for k in ("TINYGEN_THREADS", "OMP_NUM_THREADS")}
    result: dict[str, Any] = {"batch": 64, "steps": STEPS, "threads": args.threads}
    for r1 in (0.0, 0.5):
        rounds: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                out = subprocess.run([sys.executable, __file__, "--one", side, str(r1), "--threads", str(args.threads)],
                                     env=os.environ | threads, capture_output=True, text=True, check=True)
                rounds[side].append(round(float(out.stdout), 3))
        medians = {side: statistics.median(v) for side, v in rounds.items()}
        best = min(medians["torch"], medians["torch-fused"])
        name = f"r1={r1}"
        result[name] = {"ms": medians, "rounds": rounds, "tinygen_over_torch": round(medians["tinygen"] / best, 3)}
        print(name, medians, f"tinygen takes {medians['tinygen'] / best:.2f} of PyTorch's time", flush=True)
    if not args.dry:
        print("wrote", record.write("gan_step", result))


if __name__ == "__main__":
    main()
