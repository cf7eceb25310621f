"""Confidence intervals: how far a score would move if the samples were drawn again.

Every metric here is, to first order, a mean of one number per sample, its influence (Hampel 1974; Efron & Tibshirani
1993, ch. 21): an image's own PSNR, one sample's share in a Fréchet distance. The bootstrap resamples those numbers, so
that it costs nothing beside the metric itself, and so that duplicates, which a naive bootstrap makes and which raise a
Fréchet distance and spoil nearest neighbours by themselves, never reach it.

An interval tells the noise of the draw, at this N. It does not tell the bias: see `frechet_infinity`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array
from .human import wilson_interval

RESAMPLES = 1000
CHUNK = 2**22  # indices drawn at once


@dataclass(frozen=True)
class Interval:
    """An interval and how it was made: by percentiles of the bootstrap, or, of a share, by Wilson's formula."""

    low: float
    high: float
    standard_error: float
    level: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0
    method: str = "bootstrap"

    def __str__(self) -> str:
        if self.method != "bootstrap":
            return f"{self.low:.4g}–{self.high:.4g} ({100 * self.level:g} %, {self.method})"
        return f"{self.low:.4g}–{self.high:.4g} ({100 * self.level:g} %, {self.resamples} resamples, seed {self.seed})"


def bootstrap_interval(
    value: float,
    *influences: npt.ArrayLike,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The interval of `value`, given one array of influences for each set of samples that was drawn independently.

    A score that is the mean of v has the influences v (their own mean is taken off). Deterministic in `seed`. With a
    single sample in a set, nothing is known of the noise: the interval is NaN. Raises ShapeError, ConfigError.
    """
    if not 0 < level < 1 or resamples < 2:
        raise ConfigError(f"an interval needs 0 < level < 1 and at least 2 resamples; got {level}, {resamples}.")
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for part in influences:
        v = np.asarray(part, dtype=np.float64)
        if v.ndim != 1 or not v.size:
            raise ShapeError(f"influences are one number per sample; got shape {v.shape}.")
        # an infinite score (the PSNR of equal images) has no finite deviation: NaN, and no warning
        with np.errstate(invalid="ignore"):
            total += _means(v - v.mean(), resamples, rng) if v.size > 1 else np.nan
    tail = (1 - level) / 2
    low, high = value + np.quantile(total, (tail, 1 - tail)) if np.isfinite(total).all() else (np.nan, np.nan)
    return Interval(float(low), float(high), float(total.std(ddof=1)), level, resamples, seed)


def share_interval(hits: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of the share hits / n. A bootstrap of 50 in 50 would say 1–1, as if nothing could ever miss;
    this one says 0.929–1. Raises ConfigError."""
    p = hits / n if n else 0.0
    return Interval(*wilson_interval(hits, n, level=level), (p * (1 - p) / max(n, 1)) ** 0.5, level, 0, method="Wilson")


def _means(v: Array, resamples: int, rng: np.random.Generator) -> Array:
    out = np.empty(resamples)
    rows = max(1, CHUNK // v.size)
    for i in range(0, resamples, rows):
        k = min(rows, resamples - i)
        out[i : i + k] = v[rng.integers(v.size, size=(k, v.size))].mean(1)
    return out
