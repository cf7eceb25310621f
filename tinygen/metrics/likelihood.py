"""Likelihoods that are not given but bounded or estimated: the terms of a bound, and importance weighting.

    log p(x) >= E_q [ log p(x, z) - log q(z|x) ]                       the evidence bound (Kingma & Welling 2014, eq. 3)
    log p(x) >= E log (1/K) Σ_k p(x, z_k) / q(z_k|x)                   K samples (Burda et al. 2016, eq. 8)

Both are bounds: a model's true number of bits is at most what is printed here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import NonFiniteError, ShapeError

from ._arrays import Array, as_array
from .bits import bits_offset
from .bootstrap import RESAMPLES, Interval, bootstrap_interval


@dataclass(frozen=True)
class BoundReport:
    """A bound in bits per dimension, term by term; `total` is their sum and the offset."""

    total: float
    terms: dict[str, float]  # bits per dimension, means over the images
    offset: float  # bits per dimension that the change of scale adds: see `bits_offset`
    interval: Interval  # of total, by bootstrap over the images
    support: str
    levels: int
    dims: int
    n: int

    def __str__(self) -> str:
        parts = " + ".join(f"{name} {bits:.4f}" for name, bits in {**self.terms, "offset": self.offset}.items())
        return f"<= {self.total:.4f} bits/dim = {parts} ({self.support}, N={self.n})"


@dataclass(frozen=True)
class ImportanceWeighted:
    """log p(x) of each image, estimated from K weighted samples, and how far to trust it."""

    log_likelihood: Array  # N, nats: log mean of the weights; too low by about standard_error² / 2 where that is small
    standard_error: Array  # N, nats: by the delta method; NaN for K = 1, and itself optimistic when ess is near 1
    effective_samples: Array  # N, between 1 and K: (Σw)² / Σw²
    mean: float  # over the images, nats
    interval: Interval  # of mean, by bootstrap over the images
    k: int

    def bits_per_dim(self, dims: int, *, support: str = "discrete", levels: int = 256) -> float:
        """-mean in bits per dimension, with the offset of the convention: see `bits_offset`."""
        if dims < 1:
            raise ShapeError(f"dims counts the values of one image, at least 1; got {dims}.")
        return -self.mean / (dims * np.log(2)) + bits_offset(support, levels)


def bound_report(
    terms: Mapping[str, npt.ArrayLike],
    dims: int,
    *,
    support: str = "discrete",
    levels: int = 256,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BoundReport:
    """The terms of a bound on -log p(x), in nats per image, as bits per dimension.

    terms: by name, one value for each of N images, such as {"reconstruction": …, "kl": …}, or a diffusion model's L_T,
    the sum of its L_t and L_0: nats that add up to the bound. dims: values of one image, H·W·C. support, levels: on
    which scale the density of the data lives: see `bits_offset`; the offset is a term of its own, added once.
    Raises ShapeError (no terms, unequal N), NonFiniteError, ConfigError, DtypeError.
    """
    if dims < 1:
        raise ShapeError(f"dims counts the values of one image, at least 1; got {dims}.")
    if not terms:
        raise ShapeError("a bound has at least one term.")
    nats = {name: np.atleast_1d(as_array(v, f"the term {name!r}")).astype(np.float64) for name, v in terms.items()}
    shapes = {v.shape for v in nats.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1 or 0 in next(iter(shapes)):
        each = ", ".join(f"{name} {v.shape}" for name, v in nats.items())
        raise ShapeError(f"every term needs one value for each of the same images; got {each}.")
    for name, v in nats.items():
        if not np.isfinite(v).all():
            raise NonFiniteError(f"the term {name!r} has {int((~np.isfinite(v)).sum())} non-finite value(s).")
    unit = dims * np.log(2)
    offset = bits_offset(support, levels)
    every = sum(nats.values()) / unit + offset
    total = float(every.mean())
    interval = bootstrap_interval(total, every, resamples=resamples, seed=seed)
    means = {name: float(v.mean() / unit) for name, v in nats.items()}
    return BoundReport(total, means, offset, interval, support, levels, dims, every.size)


def importance_weighted(
    log_weights: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> ImportanceWeighted:
    """log p(x) of N images from K samples each of a proposal q(z|x).

    log_weights: N,K, log p(x, z_k) - log q(z_k|x) in nats; -inf is a sample of no weight. K = 1 is the evidence bound.
    Raises ShapeError (not N,K, or nothing in it), NonFiniteError (NaN, +inf, an image all of whose weights are 0),
    DtypeError.
    """
    w = as_array(log_weights, "log_weights").astype(np.float64)
    if w.ndim != 2 or not w.size:
        raise ShapeError(f"log_weights are N,K: a row for each image, a column for each sample; got {w.shape}.")
    if np.isnan(w).any() or np.isposinf(w).any():
        raise NonFiniteError("log_weights hold a NaN or +inf: a weight is a finite ratio of densities, or 0 (-inf).")
    top = w.max(1, keepdims=True)
    if np.isneginf(top).any():
        lost = int(np.isneginf(top).sum())
        raise NonFiniteError(f"all samples of {lost} image(s) have weight 0: the proposal misses where it should look.")
    u = np.exp(w - top)
    k = w.shape[1]
    mean = u.mean(1)
    log_likelihood = top[:, 0] + np.log(mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = u.std(1, ddof=1) / (np.sqrt(k) * mean) if k > 1 else np.full(len(w), np.nan)
    ess = u.sum(1) ** 2 / (u * u).sum(1)
    over = float(log_likelihood.mean())
    interval = bootstrap_interval(over, log_likelihood, resamples=resamples, seed=seed)
    return ImportanceWeighted(log_likelihood, error, ess, over, interval, k)
