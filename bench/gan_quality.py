"""How well the GANs learn, against a known truth: writes
bench/results/{gan_ring8,gan_digits,dcgan_digits}.json.

    python bench/gan_quality.py ring8          8,000 steps on eight Gaussians, without and with R1: modes
    found python bench/gan_quality.py gan            the small preset on digits: Fréchet distance, labels,
    memorisation python bench/gan_quality.py dcgan          the same; and what interpolation and arithmetic of
    z do … --seed S  --out FOLDER (sample grids as PNG)  --dry (print, do not record)

The slow tests of tests/test_model_gan.py and test_model_dcgan.py call the same functions.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinygen as tg  # noqa: E402
from bench import record  # noqa: E402
from tinygen import config, data, metrics, models, run  # noqa: E402

SAMPLES = 4096


def ring_batch(n: int, rng: tg.Rng, step: int, radius: float = 2.0, sigma: float = 0.05) -> data.Batch:
    """n points of the ring of eight Gaussians, as images of one pixel with two channels: N,1,1,2."""
    mode = rng.integers("ring.mode", step, (n,), 0, 8).numpy()
    noise = rng.normal("ring.noise", step, (n, 2)).numpy()
    points = metrics.ring_centres(8, radius)[mode] + sigma * noise
    return data.Batch(tg.Tensor(points.astype(np.float32).reshape(n, 1, 1, 2)), mode, None, np.arange(n))


def ring8(seed: int = 0, r1: float = 0.1, steps: int = 8000) -> dict[str, Any]:
    """Modes of the ring that a perceptron GAN finds with this γ of R1."""
    GAN = models.load("gan")
    c = config.build(GAN.Config, None, {
        "image_size": 1, "channels": 2, "latent": 16, "g_widths": (128, 128, 128), "d_widths": (128, 128, 128),
        "output": "linear", "r1": r1, "lr": 1e-3, "decay_steps": steps, "batch_size": 256, "ema": 0.0,
    })  # fmt: skip
    rng = tg.Rng(seed)
    model, start = GAN(c, rng), time.perf_counter()
    for i in range(steps):
        model.step(ring_batch(c.batch_size, rng, i), rng)
    seconds = time.perf_counter() - start
    points = model.sample(SAMPLES, tg.Rng(seed + 1)).numpy().reshape(-1, 2)
    return {"r1": r1, "seed": seed, "steps": steps, "seconds": round(seconds, 1),
            "config": config.to_dict(c), **asdict(metrics.ring_modes(points))}


def trained(name: str, seed: int, steps: int | None = None, **overrides) -> tuple[Any, dict[str, Any]]:
    """The small preset of a model after its training on the digits, and what that took."""
    Model = models.load(name)
    c = config.build(Model.Config, Model.PRESETS["small"], overrides)
    rng, steps = tg.Rng(seed), steps or Model.steps
    model = Model(c, rng)
    loader = data.Loader(data.load("digits", "train"), c.batch_size, rng)
    start = time.perf_counter()
    for i in range(steps):
        model.step(loader.batch(i), rng)
    seconds = time.perf_counter() - start
    return model, {"seed": seed, "steps": steps, "seconds": round(seconds, 1), "config": config.to_dict(c)}


def digits(name: str, seed: int = 0, out: Path | None = None, **overrides) -> tuple[Any, dict[str, Any]]:
    """The scores of the small preset on held-out digits."""
    model, result = trained(name, seed, **overrides)
    drawn = data.to_uint8(run.draw(model, SAMPLES, seed))
    score = metrics.score_digits(drawn, data.load("digits", "train"), data.load("digits", "test"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        data.save_png(out / f"{name}_digits.png", data.grid(drawn[:100], scale=4))
        for figure, picture in model.figures(tg.Rng(seed)).items() if hasattr(model, "figures") else ():
            data.save_png(out / f"{name}_{figure}.png", picture.repeat(4, 0).repeat(4, 1))
    return model, {**result, "score": score}


def latent_tools(model, seed: int = 0, trials: int = 200) -> dict[str, Any]:
    """What walks and sums in the latent space of a DCGAN of digits do.

    midpoint: the judge's confidence (margin) halfway between two z, over that at the ends. arithmetic: attribute
    "heavy", ink above the 75th percentile of samples; exemplars of light are below the 25th. Of heavy − light +
    light', with one exemplar of each and with three: the share that is heavy, the ink gained over light' in
    standard deviations of ink, and how much like digits the results are (confidence over that of samples). turn:
    mean change of slant along the turn vector, in standard deviations of slant.
    """
    from tinygen.models.dcgan import ink, slant

    held = data.load("digits", "test")
    judge = metrics.KernelJudge(held.images, held.labels)

    def confidence(x) -> float:
        return float(np.median(judge.margins(data.to_uint8(np.asarray(x)))))

    rng = tg.Rng(seed)
    z = model.noise(2048, rng, "tools.z").numpy()
    x = model.images(z).numpy()
    amount, lean = ink(x), slant(x)
    ends, middle = confidence(x[:512]), confidence(model.images(model.interpolate(z[:256], z[256:512], 3)[:, 1]))

    threshold = np.quantile(amount, 0.75)
    heavy, light = np.flatnonzero(amount > threshold), np.flatnonzero(amount < np.quantile(amount, 0.25))
    arithmetic: dict[str, Any] = {"base_rate": 0.25}
    for k in (1, 3):
        pick = np.random.default_rng(seed)
        zs = []
        for _ in range(trials):
            a = pick.choice(heavy, k, replace=False)
            b, c = pick.choice(light, 2 * k, replace=False).reshape(2, k)
            zs.append(model.arithmetic(z[a], z[b], z[c]))
        found = model.images(np.stack(zs)).numpy()
        arithmetic[f"heavy_with_{k}"] = float((ink(found) > threshold).mean())
        arithmetic[f"ink_gained_in_sd_with_{k}"] = float((ink(found).mean() - amount[light].mean()) / amount.std())
        arithmetic[f"confidence_with_{k}"] = confidence(found) / ends
    order = np.argsort(lean)
    turn = model.turn(z[order[-4:]], z[order[:4]])
    sides = [slant(model.images(z[:256] + t * turn).numpy()).mean() for t in (-0.5, 0.5)]
    return {"midpoint_confidence": middle / ends, "arithmetic": arithmetic,
            "turn_in_sd": float((sides[1] - sides[0]) / lean.std())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ring8", "gan", "dcgan"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    if args.what == "ring8":
        name, steps = "gan_ring8", args.steps or 8000
        result: dict[str, Any] = {"plain": ring8(args.seed, 0.0, steps), "r1": ring8(args.seed, 0.1, steps)}
        for k, v in result.items():
            print(f"{k}: {v['found']}/8 modes, {v['high_quality']:.2f} within 3σ, KL {v['kl']:.3f}, {v['seconds']} s")
    else:
        name = f"{args.what}_digits"
        model, result = digits(args.what, args.seed, args.out, steps=args.steps)
        print(*metrics.score_lines(result["score"]), f"trained in {result['seconds']} s", sep="\n")
        if args.what == "dcgan":
            result["latent_tools"] = latent_tools(model, args.seed)
            print(result["latent_tools"])
    if not args.dry:
        command = f"python bench/gan_quality.py {args.what} --seed {args.seed}"  # wherever the pictures went
        print("wrote", record.write(name, {"command": command, **result}))


if __name__ == "__main__":
    main()
