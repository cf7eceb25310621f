"""How the embedded extractors answer to images that get worse: writes bench/results/extractors.json and
docs/images/extractors.png.

    python bench/extractors.py [--seed 0] [--dry]

One half of the real images is compared with the other half made worse, five ways, in steps:

    noise            Gaussian, σ of the range 0..1; clipped
    blur             Gaussian, σ in pixels
    dropped classes  so many of the classes left out, their places filled with images of the others
    duplicates       this share of the images replaced by copies of others of the set
    shuffled blocks  this share of the images cut into 2×2 blocks, which change places

Each is a Fréchet distance, averaged over ten random halvings, and given as z: how many deviations of the clean
halvings above their mean, the floor. A response is monotone if every step raises the mean distance, the first above
that of the same halvings left clean. 1,796 images of each set: digits of both halves, shapes of the test part, which
the network has not seen. Pixels are asked of digits only: those of shapes have 3,072 dimensions.

Of the shapes, also the share of the features' variance that goes with each attribute: what counts in a distance.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from record import ROOT, write
from scipy.ndimage import gaussian_filter

from tinygen import data, metrics

STEPS: dict[str, dict[str, tuple[float, ...]]] = {
    "digits": {"noise": (0.025, 0.05, 0.1, 0.2, 0.4), "blur": (0.4, 0.5, 0.6, 0.8, 1.2),
               "dropped classes": (1, 2, 4, 6, 8), "duplicates": (0.1, 0.2, 0.4, 0.6, 0.8),
               "shuffled blocks": (0.05, 0.1, 0.2, 0.4, 0.8)},
    "shapes": {"noise": (0.025, 0.05, 0.1, 0.2, 0.4), "blur": (0.4, 0.6, 0.8, 1.2, 2.0),
               "dropped classes": (1, 2, 3, 4, 5), "duplicates": (0.1, 0.2, 0.4, 0.6, 0.8),
               "shuffled blocks": (0.05, 0.1, 0.2, 0.4, 0.8)},
}  # fmt: skip
HALVINGS, CLEAN = 10, 40
N = 1796
EXTRACTORS = {"digits": (*metrics.EMBEDDED, "pixels"), "shapes": metrics.EMBEDDED}


def worse(images: np.ndarray, how: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """images N,H,W,C in [0, 1], every one made worse; amount is of no account to shuffled blocks."""
    n, h, w, c = images.shape
    if how == "noise":
        return np.clip(images + amount * rng.standard_normal(images.shape), 0, 1)
    if how == "blur":
        return np.clip(gaussian_filter(images, (0, amount, amount, 0), mode="nearest"), 0, 1)
    blocks = images.reshape(n, 2, h // 2, 2, w // 2, c).swapaxes(2, 3).reshape(n, 4, h // 2, w // 2, c)
    orders = np.array([p for p in itertools.permutations(range(4)) if p != (0, 1, 2, 3)])
    blocks = blocks[np.arange(n)[:, None], orders[rng.integers(len(orders), size=n)]]
    return blocks.reshape(n, 2, 2, h // 2, w // 2, c).swapaxes(2, 3).reshape(images.shape)


def made_of(how: str, amount: float, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of a set of images with these labels: (the ones that a worse set of as many consists of; which of them are
    themselves made worse, bool)."""
    n, order = len(labels), rng.permutation(len(labels))
    if how in ("noise", "blur"):
        return np.arange(n), np.ones(n, bool)
    if how == "shuffled blocks":
        return np.arange(n), order < round(amount * n)
    gone = order < round(amount * n) if how == "duplicates" else np.isin(
        labels, rng.permutation(np.unique(labels))[: int(amount)])  # fmt: skip
    rest = rng.permutation(np.flatnonzero(~gone))
    return rest[np.arange(n) % len(rest)], np.zeros(n, bool)  # each used as evenly as can be


def responses(name: str, images: np.ndarray, labels: np.ndarray, steps: dict[str, tuple[float, ...]], *,
              halvings: int = HALVINGS, clean: int = CLEAN, seed: int = 0) -> dict[str, Any]:
    """The floor of one extractor on images N,H,W,C in [0, 1], and its answer to each step: the distances, z, and
    whether they only rise."""
    extract, half = metrics.extractor(name), len(images) // 2
    features = extract(images)
    floor = metrics.real_floor(features, half, splits=clean, seed=seed)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(images)) for _ in range(halvings)]  # the same for every step: they compare as pairs
    start = [metrics.frechet_distance(features[o[:half]], features[o[half : 2 * half]]) for o in orders]
    answers: dict[str, Any] = {}
    for how, amounts in steps.items():
        table, bad = [start], features
        for k, amount in enumerate(amounts):
            if how in ("noise", "blur") or (how == "shuffled blocks" and k == 0):
                bad = extract(worse(images, how, amount, np.random.default_rng(seed)))
            table.append([])
            for n, order in enumerate(orders):
                real, other = order[:half], order[half : 2 * half]
                # one stream for all amounts: what goes first at a small one goes at a large one too
                which, spoilt = made_of(how, amount, labels[other], np.random.default_rng((seed, n)))
                fake = np.where(spoilt[:, None], bad[other[which]], features[other[which]])
                table[-1].append(metrics.frechet_distance(features[real], fake))
        means = [float(np.mean(v)) for v in table]
        answers[how] = {
            "amounts": list(amounts), "distance": means[1:], "sd": [float(np.std(v, ddof=1)) for v in table[1:]],
            "z": [(m - floor.mean) / floor.sd for m in means[1:]], "monotone": bool(np.all(np.diff(means) > 0)),
            "share_of_halvings_monotone": float(np.mean(np.all(np.diff(table, axis=0) > 0, axis=0))),
        }
    return {"digest": extract.digest, "n": half, "floor": floor.mean, "floor_sd": floor.sd, "responses": answers}


def images_of(name: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n images in [0, 1] and their classes: of all digits, or of the test part of the shapes."""
    found = data.load(name, "test" if name == "shapes" else None)
    pick = np.random.default_rng(seed).permutation(len(found))[:n]
    assert found.labels is not None
    return found.images[pick] / 255.0, found.labels[pick]


def variance_shares(name: str, n: int, seed: int) -> dict[str, float]:
    """Of the variance of all features, summed, the share between the classes of each attribute of the shapes."""
    found = data.load("shapes", "test")
    pick = np.random.default_rng(seed).permutation(len(found))[:n]
    features = metrics.extractor(name)(found.images[pick])
    assert found.attributes is not None
    shares = {}
    for attribute in ("shape", "colour", "size", "cell", "background"):
        labels = found.attributes[attribute][pick]
        between = np.stack([features[labels == c].mean(0) for c in range(labels.max() + 1)])[labels]
        shares[attribute] = float(between.var(0).sum() / features.var(0).sum())
    return shares


def picture(result: dict[str, Any], path: Path) -> None:
    """z + 1 against the step, on a logarithmic scale: one small chart for each data set and way to be worse."""
    from PIL import Image, ImageDraw, ImageFont

    big = 2  # drawn twice as large, then reduced, for smooth lines
    width, height, left, top = 196 * big, 168 * big, 44 * big, 40 * big
    colours = {"randconv-v1": (32, 96, 176), "attributes-v1": (208, 80, 32), "pixels": (150, 150, 150)}
    rows = list(result)
    hows = list(STEPS["digits"])
    image = Image.new("RGB", (width * len(hows) + left, top + height * len(rows)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11 * big)
    high = np.log10(1 + max(max(r["z"]) for s in result.values() for e in s.values() for r in e["responses"].values()))
    for i, (name, colour) in enumerate(colours.items()):
        draw.text((left + i * 120 * big, 6 * big), name, colour, font)
    title = "z + 1: deviations of the clean halvings above the floor, plus one"
    draw.text((left + 360 * big, 6 * big), title, (0, 0, 0), font)
    for r, data_name in enumerate(rows):
        for c, how in enumerate(hows):
            x0, y0 = left + c * width, top + r * height
            inner_w, inner_h = width - 40 * big, height - 56 * big
            draw.text((x0, y0), f"{data_name}: {how}", (0, 0, 0), font)
            y0 += 18 * big
            for decade in range(int(high) + 1):
                y = y0 + inner_h * (1 - decade / high)
                draw.line((x0, y, x0 + inner_w, y), (226, 226, 226), big)
                if c == 0:
                    draw.text((x0 - 36 * big, y - 7 * big), f"{10**decade}", (90, 90, 90), font)
            amounts = STEPS[data_name][how]
            for k, amount in enumerate(amounts):
                draw.text((x0 + inner_w * (k + 1) / len(amounts) - 10 * big, y0 + inner_h + 4 * big), f"{amount:g}",
                          (90, 90, 90), ImageFont.load_default(9 * big))
            for name, colour in reversed(colours.items()):
                if name not in result[data_name]:
                    continue
                z = [0.0, *result[data_name][name]["responses"][how]["z"]]
                points = [(x0 + inner_w * k / len(amounts), y0 + inner_h * (1 - np.log10(1 + max(v, 0)) / high))
                          for k, v in enumerate(z)]
                draw.line(points, colour, 2 * big, joint="curve")
    image = image.resize((image.width // big, image.height // big), Image.Resampling.LANCZOS)
    image.quantize(64).save(path, optimize=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--dry", action="store_true")
    chosen = options.parse_args()
    result: dict[str, Any] = {}
    for s, names in EXTRACTORS.items():
        images, labels = images_of(s, N, chosen.seed)
        result[s] = {n: responses(n, images, labels, STEPS[s], seed=chosen.seed) for n in names}
    for s, found in result.items():
        for n, e in found.items():
            print(f"{s} {n}: floor {e['floor']:.4g} ± {e['floor_sd']:.2g}")
            for how, r in e["responses"].items():
                verdict = "" if r["monotone"] else "  not monotone"
                print(f"    {how:16s} z {' '.join(f'{z:.3g}' for z in r['z'])}{verdict}"
                      f"  ({r['share_of_halvings_monotone']:.0%} of the halvings)")
    shares = {n: variance_shares(n, N, chosen.seed) for n in metrics.EMBEDDED}
    print(shares)
    if chosen.dry:
        return
    write("extractors", {"seed": chosen.seed, "halvings": HALVINGS, "clean_splits": CLEAN, "sets": result,
                         "variance_of_shapes_features": shares})
    picture(result, ROOT / "docs" / "images" / "extractors.png")


if __name__ == "__main__":
    main()
