"""Scores that ask a witness: a picture's partner, a held-out reader of digits, an exact parser of drawings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.errors import ConfigError

from .battery import Score, Sets, plain
from .bootstrap import bootstrap_interval
from .human import wilson_interval
from .image import psnr_details
from .judge import KernelJudge, label_histogram
from .nets.perceptual import LPIPS
from .shapes_judge import shapes_agreement, shapes_coverage
from .ssim import ssim_details

BLOCK = 16  # pairs between two ticks of the progress


def pairs(name: str, x: np.ndarray, y: np.ndarray, lpips: LPIPS | None, bar: Callable[[str, int], Any]) -> Score:
    """psnr, ssim or lpips of the pairs x[i], y[i], uint8 N,H,W,C. Raises ConfigError for lpips without a network."""
    details: dict[str, Any]
    if name == "lpips":
        if lpips is None:
            raise ConfigError("the metric 'lpips' needs --weights, the file of AlexNet, VGG-16 or SqueezeNet from "
                              "torchvision.")
        parts = []
        with bar("LPIPS", len(x)) as tick:
            for i in range(0, len(x), BLOCK):
                parts.append(lpips(x[i : i + BLOCK], y[i : i + BLOCK]))
                tick(len(parts[-1]))
        values = np.concatenate(parts)
        interval, label, better = bootstrap_interval(float(values.mean()), values), lpips.label, "lower"
        details, value = {"digests": lpips.digests}, float(values.mean())
    else:
        s = (psnr_details if name == "psnr" else ssim_details)(x, y, data_range=255)
        interval, label, value, better, values = s.interval, s.label, s.value, "higher", s.values
        details = {"pooled": s.pooled, "equal": int(np.isinf(values).sum())}
    notes = (f"{details['equal']} pairs are equal",) if details.get("equal") else ()
    finite = len(x) > 1 and bool(np.isfinite(values).all())
    return Score(
        name, f"{label[:-1]} | {len(x)} pairs]", value, better, len(x), len(x),
        (interval.low, interval.high), float(values.std(ddof=1)) if finite else None, notes=notes, details=details,
    )  # fmt: skip


def digits(
    sets: Sets, real: np.ndarray | None, train: np.ndarray | None, asked: np.ndarray | None
) -> Score:
    """Which digit each sample is, by a judge fitted on sets.real and its labels `real`, whose accuracy is measured on
    sets.train and its labels `train`; `asked`: what each sample was to be. Raises ConfigError."""
    if sets.fake is None or sets.real is None or real is None or sets.fake.shape[1:] != (8, 8, 1):
        raise ConfigError("the metric 'labels' reads 8×8 grey digits, by a judge fitted on real ones; give "
                          "--against digits:test.")
    judge = KernelJudge(sets.real, real)
    shares, n = label_histogram(judge, sets.fake), len(sets.fake)
    details: dict[str, Any] = {
        "shares": shares.tolist(), "counts": np.rint(shares * n).astype(int).tolist(), "fitted_on": judge.n
    }  # fmt: skip
    each = " ".join(f"{100 * p:.1f}" for p in shares)
    text = (f"digits 0-9: {each} % of {n} samples (smallest {100 * shares.min():.1f}, largest "
            f"{100 * shares.max():.1f}), by a held-out judge")
    if train is not None and sets.train is not None:
        details["accuracy"] = judge.accuracy(sets.train, train)
        text += f" that reads {100 * details['accuracy']:.1f} % of {len(train)} real digits correctly"
    if asked is not None:
        hits = int((judge.labels(sets.fake) == asked).sum())
        low, high = details["agreement_interval"] = wilson_interval(hits, n)
        details["agreement"] = hits / n
        text += f"; {100 * hits / n:.1f} % are what they were to be (95 %: {100 * low:.1f}–{100 * high:.1f} %)"
    label = f"smallest share of a digit[kernel ridge fitted on {judge.n} | N={n}]"
    return Score("labels", label, float(shares.min()), "higher", judge.n, n, details=details, sentence=text)


def drawings(sets: Sets, captions: list[str] | None) -> list[Score]:
    """How many captions of shapes32 the samples show, and how well they follow `captions`. Raises ConfigError."""
    if sets.fake is None or sets.fake.shape[1:] != (32, 32, 3):
        raise ConfigError("the metric 'attributes' reads 32×32 colour drawings of the set shapes.")
    c = shapes_coverage(sets.fake)
    low, high = 100 * c.valid_interval.low, 100 * c.valid_interval.high
    text = (f"{c.label} = {c.captions} of {c.of} captions shown (even draws would show {c.expected:.0f} ± "
            f"{c.expected_sd:.0f}); {100 * c.valid:.1f} % of the drawings are valid (95 %: {low:.1f}–{high:.1f} %)")
    out = [Score("attributes", c.label, c.captions, "higher", None, c.n, details=plain(c), sentence=text)]
    if captions is not None:
        a = shapes_agreement(sets.fake, captions)
        interval, value = a.intervals["joint_valid"], a.shares["joint_valid"]
        each = ", ".join(f"{k} {100 * v:.1f}" for k, v in a.shares.items())
        out.append(
            Score("attributes", a.label, value, "higher", a.n_ceiling, a.n, (interval.low, interval.high),
                  notes=a.notes, details=plain(a), sentence=f"{a.label}: {each} %")
        )  # fmt: skip
    return out
