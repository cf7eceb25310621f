"""Train the embedded attribute network: writes tinygen/metrics/nets/attributes.safetensors and
bench/results/train_extractor.json.

    python bench/train_extractor.py [--steps 5000] [--seed 0] [--out FILE] [--dry]

Of the 128 images of a batch 32 are digits, 64 are shapes, and 32 are shapes in colours that the set does not have, so
that the network learns to see a shape whatever its colour; all are augmented, all from the training parts. The loss is
the sum of the attributes' cross entropies, those of colours on the true colours alone. Every random number comes from
the seed, so the same machine makes the same file; elsewhere, sums are rounded differently, and the file is another one
of the same quality: its digest, in every label, says which. Three minutes on two cores.

--dry: write neither file. --out: leave the weights elsewhere, and do not record.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import write
from safetensors.numpy import save_file

import tinygen as tg
from tinygen import data, losses
from tinygen.metrics.nets import attributes as net
from tinygen.metrics.nets.attributes import FILE, HEADS, SIDE, Attributes

DIGITS, SHAPES, RECOLOURED = 32, 64, 32  # images in a batch
LR, WARM_UP = 3e-3, 100
TURN, ZOOM, SHIFT = 0.17, 0.12, 0.5  # of digits: radians, share, pixels of 8×8; each uniform, either way
GAIN, NOISE = 0.15, 0.04  # of all: contrast, uniform either way; the largest σ of Gaussian noise


def initial(rng: tg.Rng) -> dict[str, tg.Tensor]:
    """He-normal weights for leaky ReLU, biases of zero."""
    found = {}
    for k, (name, shape) in enumerate(net.shapes().items()):
        fan_in = int(np.prod(shape[:-1]))
        std = np.sqrt(2 / (1 + net.SLOPE**2) / fan_in) if name.endswith("w") else 0.0
        found[name] = tg.Tensor(rng.normal("init", k, shape).data * np.float32(std), requires_grad=True)
    return found


def warped(images: np.ndarray, rng: tg.Rng, step: int) -> np.ndarray:
    """Digits N,8,8 float32, each turned, zoomed and shifted a little, on a grid of 32×32: N,32,32.

    Bilinear between the pixels of 8×8, as the extractor's own enlargement; outside, the border goes on."""
    n, side = len(images), images.shape[1]
    turn, zoom, down, right = (rng.uniform("warp", step, (4, n), -1, 1).data.T * (TURN, ZOOM, SHIFT, SHIFT)).T
    at = (np.arange(SIDE) + 0.5) * side / SIDE - side / 2
    y, x = at[None, :, None], at[None, None, :]
    c, s = (np.cos(turn) * (1 + zoom))[:, None, None], (np.sin(turn) * (1 + zoom))[:, None, None]
    middle = (side - 1) / 2
    rows = np.clip(c * y - s * x + down[:, None, None] + middle, 0, side - 1)
    columns = np.clip(s * y + c * x + right[:, None, None] + middle, 0, side - 1)
    top, left = np.minimum(rows.astype(int), side - 2), np.minimum(columns.astype(int), side - 2)
    v, h = rows - top, columns - left
    i = np.arange(n)[:, None, None]
    above = images[i, top, left] * (1 - h) + images[i, top, left + 1] * h
    below = images[i, top + 1, left] * (1 - h) + images[i, top + 1, left + 1] * h
    return (above * (1 - v) + below * v).astype(np.float32)


def recoloured(x: np.ndarray, rng: tg.Rng, step: int) -> np.ndarray:
    """Images N,H,W,3 in [0, 1], each with its channels in a random order, each channel perhaps inverted."""
    order = rng.uniform("order", step, (len(x), 1, 1, 3)).data.argsort(axis=3)
    turned = rng.integers("inverted", step, (len(x), 1, 1, 3), 0, 2).data.astype(np.float32)
    return np.abs(turned - np.take_along_axis(x, order, axis=3))


def batch(digits: data.Dataset, shapes: data.Dataset, rng: tg.Rng, step: int) -> tuple[np.ndarray, dict]:
    """(images N,32,32,3 in [0, 1]; for each attribute the images that it is learned from, and its labels of them)"""
    assert shapes.attributes is not None and digits.labels is not None
    d = rng.integers("digits", step, (DIGITS,), 0, len(digits)).data
    s = rng.integers("shapes", step, (SHAPES + RECOLOURED,), 0, len(shapes)).data
    grey = warped(digits.images[d, :, :, 0].astype(np.float32) / 255, rng, step)
    drawn = shapes.images[s].astype(np.float32) / 255
    drawn[SHAPES:] = recoloured(drawn[SHAPES:], rng, step)
    x = np.concatenate([np.repeat(grey[..., None], 3, 3), drawn])
    gain = 1 + GAIN * rng.uniform("gain", step, (len(x), 1, 1, 1), -1, 1).data
    sigma = NOISE * rng.uniform("sigma", step, (len(x), 1, 1, 1)).data
    x = np.clip(gain * (x - 0.5) + 0.5 + sigma * rng.normal("noise", step, x.shape).data, 0, 1)
    learned = {"digit": (slice(0, DIGITS), digits.labels[d])}
    for name in HEADS:
        if name != "digit":
            end = len(s) if name in ("shape", "size", "cell") else SHAPES
            learned[name] = (slice(DIGITS, DIGITS + end), shapes.attributes[name][s[:end]])
    return x.astype(np.float32), learned


def train(steps: int, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """(weights, mean loss of the last tenth of the steps)"""
    rng = tg.Rng(seed)
    digits, shapes = data.load("digits", "train"), data.load("shapes", "train")
    w = initial(rng)
    optimiser = tg.optim.Adam(w, lr=tg.optim.cosine(LR, steps=steps, warm_up=WARM_UP))
    recent: list[float] = []
    for step in range(steps):
        x, learned = batch(digits, shapes, rng, step)
        f = net.features(tg.Tensor(x), w)
        loss = tg.Tensor(0.0)
        for name, (rows, labels) in learned.items():
            loss = loss + losses.cross_entropy(net.head(f[rows], w, name), labels)
        optimiser.step(tg.grad(loss, w))
        recent = [*recent[-(steps // 10) :], float(loss.data)]
        if step % 100 == 0:
            print(f"step {step}: {recent[-1]:.4f}", flush=True)
    return {k: t.numpy() for k, t in w.items()}, float(np.mean(recent))


def accuracy() -> dict[str, Any]:
    """What the network in FILE reads correctly of images that it has not been trained on."""
    read = Attributes()
    found: dict[str, Any] = {}
    test = data.load("digits", "test")
    found["digits test"] = {"n": len(test), "digit": float((read.logits(test.images, "digit").argmax(1)
                                                            == test.labels).mean())}
    for part in ("test", "compositional"):
        test = data.load("shapes", part)
        assert test.attributes is not None
        right = {k: read.logits(test.images, k).argmax(1) == test.attributes[k] for k in HEADS if k != "digit"}
        joint = np.logical_and.reduce(list(right.values()))
        found[f"shapes {part}"] = {"n": len(test), **{k: float(v.mean()) for k, v in right.items()},
                                   "joint": float(joint.mean())}
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--steps", type=int, default=5000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=FILE)
    options.add_argument("--dry", action="store_true")
    chosen = options.parse_args()
    begin = time.perf_counter()
    weights, loss = train(chosen.steps, chosen.seed)
    seconds = time.perf_counter() - begin
    print(f"{seconds:.0f} s, loss {loss:.4f}")
    if chosen.dry:
        return
    save_file(weights, chosen.out)
    chosen.out.chmod(0o644)
    if chosen.out != FILE:
        return
    result = {"seed": chosen.seed, "steps": chosen.steps, "batch": [DIGITS, SHAPES, RECOLOURED],
              "seconds": round(seconds, 1), "loss": loss,
              "weights": int(sum(a.size for a in weights.values())), "bytes": FILE.stat().st_size,
              "digest": Attributes().digest, "held_out_accuracy": accuracy()}
    print(result["held_out_accuracy"])
    write("train_extractor", result)


if __name__ == "__main__":
    main()
