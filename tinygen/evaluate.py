"""Scores of a run: its samples against held-out images, and what the model says of its own likelihood."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from . import checkpoint, config, data, metrics, run
from .errors import ConfigError
from .rng import Rng
from .run import Run
from .tape import no_grad

# name -> what the number means, for people who read a report
METRICS = {
    "frechet": "Fréchet distance between the features of samples and of held-out images, divided by the "
    "distance "
    "between two sets of real images of the same size: 1 is as good as real, and smaller is better. The "
    "label names "
    "the extractor; numbers with different labels, or different N, do not compare.",
    "labels": "Which digit each sample is, by a judge fitted on held-out images: a model that draws all "
    "digits alike "
    "has about 10 % of each.",
    "memorisation": "How far samples lie from their nearest training image, relative to held-out images: "
    "about 1 is "
    "as new as new images are; well below 1 are copies.",
    "model": "What the model computes of itself, such as a bound on the likelihood in bits per dimension "
    "(smaller is "
    "better).",
}
LIMIT = 1000  # samples, and held-out images, unless more are asked for
REAL_LIMIT = 5000  # training images that a floor or a nearest neighbour is taken from


def evaluate(
    folder: Run,
    chosen: Iterable[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score a run: {run, model, data, step, seed, n, scores: {…}, lines: [text, …]}, also written to
    scores.json.

    chosen: names of METRICS; all that apply by default. n: samples to draw, by default as many as there are
    held-out images, at most 1000. Raises ConfigError for an unknown metric or one that this run cannot have.
    """
    model, settings, step = folder.model(device)
    train, heldout = run.load_data(settings, "train"), run.load_data(settings, "test")
    can = _applicable(model, settings)
    wanted = list(dict.fromkeys(chosen)) if chosen else can
    for name in wanted:
        if name not in METRICS:
            raise ConfigError(config.unknown("metric", name, METRICS))
        if name not in can:
            why = "the model has no evaluate()" if name == "model" else f"it is for digits, and this is {settings.data}"
            raise ConfigError(f"the metric {name!r} does not apply to {folder}: {why}.")
    if len(heldout) < 2:
        raise ConfigError(f"{settings.data} has {len(heldout)} held-out images; scores need at least two.")
    n = n or min(len(heldout), LIMIT)
    result: dict[str, Any] = {"run": str(folder), "model": settings.model, "data": settings.data, "step":
    step,
                              "seed": seed, "n": n, "scores": {}, "lines": []}  # fmt: skip
    if set(wanted) - {"model"}:
        say(f"drawing {n} samples")
        samples = data.to_uint8(run.draw(model, n, seed))
        judge = _digits if "labels" in can else _any_images
        scores, lines = judge(samples, train, heldout, wanted)
        result["scores"] |= scores
        result["lines"] += lines
    if "model" in wanted:
        say("asking the model for its own numbers (other --metric flags leave this out)")
        with no_grad():
            own = {k: _plain(v) for k, v in model.evaluate(heldout, Rng(run.sample_stream(seed).key("own", 0))).items()}
        result["scores"]["model"] = own
        result["lines"] += [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in own.items()]
    checkpoint.write_text(folder.scores, json.dumps(result, indent=1) + "\n")
    return result


def _applicable(model: Any, settings: run.Settings) -> list[str]:
    digits = settings.data == "digits"
    return [
        "frechet",
        *(["labels"] if digits else []),
        "memorisation",
        *(["model"] if hasattr(model, "evaluate") else []),
    ]


def _digits(samples, train, heldout, wanted) -> tuple[dict, list[str]]:
    score = metrics.score_digits(samples, train, heldout)
    parts = {"frechet": "fd", "labels": "judge", "memorisation": "memorisation"}
    *frechet, labels, memory = metrics.score_lines(score)
    lines = {"frechet": frechet, "labels": [labels], "memorisation": [memory]}
    scores = {name: score[part] for name, part in parts.items() if name in wanted}
    return {**scores, "n": score["n"], "card": score["card"]}, [
        t for name in parts if name in wanted for t in lines[name]
    ]


def _any_images(samples, train, heldout, wanted) -> tuple[dict, list[str]]:
    scores: dict[str, Any] = {}
    lines = []
    real = train.images[Rng(0).permutation("evaluate", 0, len(train)).numpy()[:REAL_LIMIT]]
    held = heldout.images[Rng(0).permutation("evaluate", 1, len(heldout)).numpy()[:REAL_LIMIT]]
    if "frechet" in wanted:
        scores["frechet"] = {}
        for name in ("randconv-v1", "pixels"):
            e = metrics.extractor(name)
            features = e(real), e(held), e(samples)
            r = metrics.relative_frechet(features[2], features[1], real=np.concatenate(features[:2]))
            label = metrics.frechet_label(name, samples.shape[1:3], r.details)
            scores["frechet"][name] = {
                "label": label, "value": r.value, "se": r.value_se, "ratio": r.ratio, "ratio_se": r.ratio_se,
                "floor": r.floor.mean, "floor_sd": r.floor.sd, "n": r.n,
            }  # fmt: skip
            lines.append(
                f"{label} = {r.value:.3g} ± {r.value_se:.1g}, {r.ratio:.2f} ± {r.ratio_se:.2f} times the "
                "floor "
                f"of real against real ({r.floor.mean:.3g} ± {r.floor.sd:.1g})"
            )
    if "memorisation" in wanted:
        m = metrics.memorisation_ratio(samples=samples, train=real, heldout=held)
        scores["memorisation"] = asdict(m)
        lines.append(
            f"nearest training image: {m.ratio:.2f} times as far as from held-out images (95 %: "
            f"{m.interval[0]:.2f}-{m.interval[1]:.2f}; N={m.n_samples}/{m.n_heldout})"
        )
    return scores, lines


def _plain(v: Any) -> Any:
    """A value as JSON knows it."""
    if hasattr(v, "shape"):
        v = np.asarray(v)
        return v.item() if v.size == 1 else v.tolist()
    if isinstance(v, dict):
        return {str(k): _plain(x) for k, x in v.items()}
    return [_plain(x) for x in v] if isinstance(v, (list, tuple)) else v
