"""The Fréchet distance between two sets of features, each summarised by its mean and covariance.

    FD = |μ₁ - μ₂|² + tr Σ₁ + tr Σ₂ - 2 tr (Σ₁ Σ₂)^½        (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)

with Σ unbiased (ddof 1). This is the *squared* distance, as everybody reports it. Since Σ₁ Σ₂ is not
symmetric, its square root is never formed. For any factors A_i A_iᵀ = Σ_i

    tr (Σ₁ Σ₂)^½ = tr (A₁ᵀ Σ₂ A₁)^½ = ||A₁ᵀ A₂||_*          (the nuclear norm: the sum of the singular values)

which gives two routes, both real and free of regularisation:

- "symmetric": A₁ from the eigenvectors of Σ₁, then the eigenvalues of A₁ᵀ Σ₂ A₁. Needs only the statistics.
- "nuclear": A_i = X_iᵀ / √(n_i - 1) from the centred features themselves. It squares nothing, so it is exact
  where a covariance is singular (N <= D), where the symmetric route errs by about 1e-8 of the scale.

The estimate is biased upwards by about c/N: compare only at equal N, and against the real-against-real floor
of `tinygen.metrics.baseline`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, as_features


class FeatureStatistics:
    """Count, mean and scatter of features N,D that arrive in batches; float64 whatever arrives.

    Batches are merged pairwise (Chan, Golub & LeVeque 1983), so a common offset costs no digits, as it would
    in Σ x xᵀ - n μ μᵀ. State: `n` int, `mean` (D,), `scatter` (D, D) = Σ (x - μ)(x - μ)ᵀ. The order of
    batches and shards changes the result by rounding only.
    """

    def __init__(self, dims: int):
        if dims < 1:
            raise ShapeError(f"FeatureStatistics needs at least one feature; dims={dims}.")
        self.n = 0
        self.mean = np.zeros(dims)
        self.scatter = np.zeros((dims, dims))

    @classmethod
    def of(cls, batches: npt.ArrayLike | Iterable[npt.ArrayLike]) -> "FeatureStatistics":
        """Statistics of one array N,D, or of an iterable (not an array) of such batches."""
        parts = [batches] if isinstance(batches, np.ndarray) else batches
        out = None
        for part in parts:  # type: ignore[union-attr]
            x = as_features(part, "batch")
            out = (out or cls(x.shape[1])).add(x)
        if out is None:
            raise ShapeError("FeatureStatistics.of received no batch; at least one array N,D is needed.")
        return out

    @property
    def dims(self) -> int:
        return self.mean.size

    def add(self, batch: npt.ArrayLike) -> "FeatureStatistics":
        """Take in features N,D (N may be 0); returns self. Raises ShapeError, NonFiniteError."""
        x = as_features(batch, "batch")
        self._require_dims(x.shape[1])
        if len(x):
            mean = x.mean(0)
            x = x - mean
            self._merge(len(x), mean, x.T @ x)
        return self

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Take in another shard's statistics; returns self, leaves `other` as it is. Raises ShapeError."""
        self._require_dims(other.dims)
        self._merge(other.n, other.mean, other.scatter)
        return self

    def covariance(self) -> Array:
        """The unbiased covariance (ddof 1), D,D. Raises ShapeError below two samples."""
        if self.n < 2:
            raise ShapeError(f"a covariance needs at least 2 samples; {self.n} arrived.")
        return self.scatter / (self.n - 1)

    def _merge(self, n: int, mean: Array, scatter: Array) -> None:
        total = self.n + n
        if n == 0:
            return
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.scatter = self.scatter + scatter + np.outer(delta, delta) * (self.n * n / total)
        self.n = total

    def _require_dims(self, dims: int) -> None:
        if dims != self.dims:
            raise ShapeError(f"these statistics hold {self.dims} features per sample; {dims} arrived.")

    def __repr__(self) -> str:
        return f"FeatureStatistics(n={self.n}, dims={self.dims})"


Features = npt.ArrayLike | FeatureStatistics


@dataclass(frozen=True)
class FrechetDetails:
    """A Fréchet distance and what is needed to read it."""

    value: float  # squared units of the features
    n_real: int
    n_fake: int
    dims: int
    route: str  # "symmetric" | "nuclear": the one that ran
    mean_term: float  # |μ₁ - μ₂|², the part due to the means


def frechet_distance(real: Features, fake: Features, *, route: str = "auto") -> float:
    """The Fréchet distance of `real` and `fake`, as `frechet_distance_details` computes it."""
    return frechet_distance_details(real, fake, route=route).value


def frechet_distance_details(real: Features, fake: Features, *, route: str = "auto") -> FrechetDetails:
    """The Fréchet distance with both N and the route that ran.

    real, fake: features N,D of any float or integer dtype, computed in float64, or `FeatureStatistics`.
    route: "symmetric", "nuclear" (needs the features), or "auto": nuclear where features are at hand and
    either set has N <= D, so that its covariance is singular; symmetric otherwise. Nothing is ever added to a
    diagonal. A result below zero by rounding is returned as 0.
    Raises ShapeError (D differs, fewer than 2 samples, not N,D), NonFiniteError, ConfigError (unknown route).
    """
    r, f = _take(real, "real"), _take(fake, "fake")
    (n, d), (m, e) = _size(r), _size(f)
    if d != e:
        raise ShapeError(f"real has {d} features per sample and fake has {e}; use one extractor for both.")
    for name, count in (("real", n), ("fake", m)):
        if count < 2:
            raise ShapeError(f"{name} has {count} sample(s); a covariance needs at least 2.")
    if route not in ("auto", "symmetric", "nuclear"):
        raise ConfigError(f"unknown route {route!r}; choose auto, symmetric or nuclear.")
    at_hand = not isinstance(r, FeatureStatistics) and not isinstance(f, FeatureStatistics)
    if route == "auto":
        route = "nuclear" if at_hand and min(n, m) <= d else "symmetric"
    if route == "nuclear":
        if isinstance(r, FeatureStatistics) or isinstance(f, FeatureStatistics):
            raise ConfigError(
                "the nuclear route needs both sets of features; FeatureStatistics keep only moments."
            )
        mean_term, rest = _nuclear(r, f)
    else:
        mean_term, rest = _symmetric(_moments(r), _moments(f))
    return FrechetDetails(max(mean_term + rest, 0.0), n, m, d, route, mean_term)


def _symmetric(real: FeatureStatistics, fake: FeatureStatistics) -> tuple[float, float]:
    delta = real.mean - fake.mean
    s1, s2 = real.covariance(), fake.covariance()
    lam, v = np.linalg.eigh(s1)
    a = v * np.sqrt(np.maximum(lam, 0))  # a aᵀ = Σ₁
    m = a.T @ s2 @ a
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((m + m.T) / 2), 0)).sum()
    return float(delta @ delta), float(np.trace(s1) + np.trace(s2) - 2 * cross)


def _nuclear(real: Array, fake: Array) -> tuple[float, float]:
    delta = real.mean(0) - fake.mean(0)
    x, y = _factor(real), _factor(fake)
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(delta @ delta), float((x * x).sum() + (y * y).sum() - 2 * cross)


def _factor(features: Array) -> Array:
    """B with BᵀB = Σ: the scaled centred features, or their triangular factor where that is smaller."""
    x = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x


def _take(x: Features, name: str) -> Array | FeatureStatistics:
    return x if isinstance(x, FeatureStatistics) else as_features(x, name)


def _size(x: Array | FeatureStatistics) -> tuple[int, int]:
    return (x.n, x.dims) if isinstance(x, FeatureStatistics) else (x.shape[0], x.shape[1])


def _moments(x: Array | FeatureStatistics) -> FeatureStatistics:
    return x if isinstance(x, FeatureStatistics) else FeatureStatistics(x.shape[1]).add(x)
