"""FD∞: the Fréchet distance that infinitely many samples would have (Chong & Forsyth 2020).

The bias of a Fréchet distance is b/N to first order, so a straight line through distances at several N, drawn against
1/N, meets the axis at the distance without bias.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, count_note, feature_pair
from ._blas import blas_threads, product
from .bootstrap import RESAMPLES, Interval
from .frechet import cholesky
from .statistics import FeatureStatistics


@dataclass(frozen=True)
class FrechetInfinity:
    """The intercept of FD = a + b/N and the points it was fitted to."""

    value: float  # a
    slope: float  # b
    sizes: tuple[int, ...]  # N of each fake subset
    distances: tuple[float, ...]
    interval: Interval  # of a, by resampling the residuals; the subsets share samples, so it understates
    n_real: int  # in every distance: the bias that is due to the real set stays
    n_fake: int
    dims: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"FD∞[D={self.dims} | N={self.n_real}/{self.sizes[0]}…{self.sizes[-1]} | {len(self.sizes)} sizes]"


def frechet_infinity(
    *, real: npt.ArrayLike, fake: npt.ArrayLike, points: int = 15, seed: int = 0, resamples: int = RESAMPLES
) -> FrechetInfinity:
    """Fit FD = a + b/N over random subsets of `fake`, at `points` sizes from min(5000, N/10) to N, against all of
    `real` (the sizes are dgm-eval's), by least squares; the value is a, and may be negative.

    real, fake: features N,D. Raises ShapeError (D differs, fewer than 2 real or 20 fake samples), DtypeError,
    NonFiniteError, ConfigError.
    """
    if points < 3:
        raise ConfigError(f"a line and its noise need at least 3 points; got {points}.")
    r, f = feature_pair(real, fake, 2, "a covariance")
    if len(f) < 20:
        raise ShapeError(f"fake has {len(f)} samples; to extrapolate in 1/N at least 20 are needed.")
    sizes = np.unique(np.linspace(min(5000, max(2, len(f) // 10)), len(f), points).astype(int))
    rng = np.random.default_rng(seed)
    moments = FeatureStatistics(r.shape[1]).add(r)
    mean, covariance = moments.mean, moments.covariance()
    a, order = cholesky(covariance, len(r))
    a, trace = a if order is None else a[np.argsort(order)], float(np.trace(covariance))
    distances = np.array([_distance(mean, a, trace, f[rng.permutation(len(f))[:n]]) for n in sizes])
    design = np.stack([np.ones(len(sizes)), 1 / sizes], 1)
    (value, slope), *_ = np.linalg.lstsq(design, distances, rcond=None)
    residuals = distances - design @ (value, slope)
    residuals *= np.sqrt(len(sizes) / max(1, len(sizes) - 2))
    draws = residuals[rng.integers(len(sizes), size=(resamples, len(sizes)))]
    spread = (np.linalg.pinv(design) @ draws.T)[0]
    low, high = value + np.quantile(spread, (0.025, 0.975))
    interval = Interval(float(low), float(high), float(spread.std(ddof=1)), 0.95, resamples, seed)
    return FrechetInfinity(
        float(value), float(slope), tuple(sizes.tolist()), tuple(distances.tolist()), interval, len(r), len(f),
        r.shape[1], seed, count_note(len(r), len(f)),
    )  # fmt: skip


def _distance(mean: Array, a: Array, trace: float, fake: Array) -> float:
    """Against a real set of known mean, factor A Aᵀ = Σ and trace: the nuclear norm of A₁ᵀA₂, from the features."""
    y = fake - fake.mean(0)
    delta = mean - fake.mean(0)
    y /= np.sqrt(len(y) - 1)
    if len(y) > y.shape[1]:
        with blas_threads(y.shape[1]):
            y = np.linalg.qr(y, mode="r")
    g = product(y, a)
    with blas_threads(min(g.shape)):
        cross = np.linalg.svd(g, compute_uv=False).sum()
    return float(delta @ delta + trace + (y * y).sum() - 2 * cross)
