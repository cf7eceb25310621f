"""The Fréchet distance between two sets of features, each summarised by its mean and covariance.

    FD = |μ₁ - μ₂|² + tr Σ₁ + tr Σ₂ - 2 tr (Σ₁ Σ₂)^½        (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)

with Σ unbiased (ddof 1). This is the *squared* distance, as everybody reports it. Since Σ₁ Σ₂ is not
symmetric, its square root is never formed. For any factors A_i A_iᵀ = Σ_i

    tr (Σ₁ Σ₂)^½ = tr (A₁ᵀ Σ₂ A₁)^½ = ||A₁ᵀ A₂||_*          (the nuclear norm: the sum of the singular values)

which gives three routes, all real and free of regularisation:

- "nuclear": A_i = X_iᵀ / √(n_i - 1) from the centred features themselves. It squares nothing, so it keeps all its
  digits where a covariance is singular (N <= D) or nearly so.
- "cholesky": A₁ from Cholesky's factorisation of Σ₁, then the eigenvalues of A₁ᵀ Σ₂ A₁. Needs only the statistics.
  Where Σ₁ is singular the factorisation takes pivots, so that no ridge is ever needed.
- "symmetric": the same with A₁ from the eigenvectors of Σ₁. Slower, and less exact: eigenvectors are exact relative to
  the largest eigenvalue, Cholesky's factor entry by entry, and the root of a small eigenvalue shows the difference
  (spectra of 10⁸ : 1 or more: 1e-8 against 1e-13).

A covariance of n samples has rank n - 1 at most. The last two keep no more eigenvalues than that: those beyond are
rounding, and their square roots are what costs other libraries half their digits.

The estimate is biased upwards by about c/N: compare only at equal N, against the real-against-real floor of
`tinygen.metrics.baseline`, or extrapolate with `frechet_infinity`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError

from ._arrays import Array, as_features, count_note, require_count, require_same_dims
from ._blas import blas_threads, product
from .bootstrap import RESAMPLES, Interval, bootstrap_interval
from .statistics import FeatureStatistics, require_same_label

Features = npt.ArrayLike | FeatureStatistics
ROUTES = ("auto", "symmetric", "nuclear", "cholesky")
BLOCKS = 8  # of columns of a triangular factor


@dataclass(frozen=True)
class FrechetDetails:
    """A Fréchet distance and what is needed to read it."""

    value: float  # squared units of the features
    n_real: int
    n_fake: int
    dims: int
    route: str  # "nuclear" | "cholesky" | "symmetric": the one that ran
    mean_term: float  # |μ₁ - μ₂|², the part due to the means
    interval: Interval | None = None  # noise of the draw of both sets; None without the features
    notes: tuple[str, ...] = ()


def frechet_distance(real: Features, fake: Features, *, route: str = "auto") -> float:
    """The Fréchet distance of `real` and `fake`, as `frechet_distance_details` computes it; symmetric in the two."""
    return frechet_distance_details(real, fake, route=route, interval=False).value


def frechet_distance_details(
    real: Features,
    fake: Features,
    *,
    route: str = "auto",
    interval: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FrechetDetails:
    """The Fréchet distance with both N, the route that ran, and its bootstrap interval.

    real, fake: features N,D of any float or integer dtype, computed in float64, or `FeatureStatistics`.
    route: "symmetric", "cholesky", "nuclear" (needs the features), or "auto": nuclear where features are at hand and
    either set has N <= D, so that its covariance is singular; cholesky otherwise. Nothing is ever added to a
    diagonal. A result below zero by rounding is returned as 0.
    interval: also bootstrap over both sets, from `resamples` draws of `seed`; needs the features, and takes about
    twice as long again.
    Raises ShapeError (D differs, fewer than 2 samples, not N,D), NonFiniteError, DtypeError, ConfigError (unknown
    route, statistics of two extractors).
    """
    r, f = _take(real, "real"), _take(fake, "fake")
    (n, d), (m, e) = _size(r), _size(f)
    require_same_dims(d, e)
    for name, count in (("real", n), ("fake", m)):
        require_count(name, count, 2, "a covariance")
    if route not in ROUTES:
        raise ConfigError(f"unknown route {route!r}; choose {', '.join(ROUTES[:-1])} or {ROUTES[-1]}.")
    notes = count_note(n, m)
    parts = None
    if isinstance(r, FeatureStatistics) or isinstance(f, FeatureStatistics):
        if route == "nuclear":
            raise ConfigError("the nuclear route needs both sets of features; FeatureStatistics keep only moments.")
        if isinstance(r, FeatureStatistics) and isinstance(f, FeatureStatistics):
            require_same_label(r.label, f.label)
    elif route == "nuclear" or (route == "auto" and min(n, m) <= d):
        route = "nuclear"
        mean_term, rest, parts = _nuclear(r, f, interval)
    if route != "nuclear":
        route = "cholesky" if route == "auto" else route
        mean_term, rest, parts = _by_moments(r, f, route, interval)
    value = max(mean_term + rest, 0.0)
    noise = bootstrap_interval(value, *parts, resamples=resamples, seed=seed) if parts else None
    return FrechetDetails(value, n, m, d, route, mean_term, noise, notes)


Parts = tuple[Array, Array] | None


def _by_moments(r: Array | FeatureStatistics, f: Array | FeatureStatistics, route: str, interval: bool):
    real, fake = _moments(r), _moments(f)
    delta = real.mean - fake.mean
    s1, s2 = real.covariance(), fake.covariance()
    if route == "symmetric":
        a = root(s1, real.n)
        m = product(a.T, product(s2, a))
    else:
        a, order = cholesky(s1, real.n)
        m = _congruence(a, s2 if order is None else s2[np.ix_(order, order)])
        if order is not None:
            a = a[np.argsort(order)]
    most = min(len(m), fake.n - 1)
    parts = None
    with blas_threads(len(m)):
        if interval and not isinstance(r, FeatureStatistics) and not isinstance(f, FeatureStatistics):
            theta, w = np.linalg.eigh(m)
            parts = _influence(r - real.mean, f - fake.mean, delta, a, theta[-most:], w[:, -most:])
        else:
            theta = np.linalg.eigvalsh(m)
    cross = np.sqrt(np.maximum(theta[-most:], 0)).sum()
    return float(delta @ delta), float(np.trace(s1) + np.trace(s2) - 2 * cross), parts


def _influence(x: Array, y: Array, delta: Array, a: Array, theta: Array, w: Array) -> tuple[Array, Array]:
    """What each centred sample of either set adds to the distance: by the first variation of the trace term, whose
    derivative in Σ₁ is I - T and in Σ₂ is I - T⁻¹, T = A₁⁻ᵀ M^½ A₁⁻¹ with M = A₁ᵀ Σ₂ A₁ = W Θ Wᵀ."""
    keep = theta > 1e-14 * theta[-1]
    theta, w = theta[keep], w[:, keep]
    to_x = np.linalg.solve(product(a.T, a), w) * theta**0.25
    towards_fake = (product(x, product(a, to_x)) ** 2).sum(1)
    towards_real = (product(y, product(a, w * theta**-0.25)) ** 2).sum(1)
    return 2 * x @ delta + (x * x).sum(1) - towards_fake, -2 * y @ delta + (y * y).sum(1) - towards_real


def root(covariance: Array, n: int) -> Array:
    """A with A Aᵀ = Σ, D,r: its eigenvectors times the roots of its r <= n - 1 eigenvalues above 0, ascending."""
    with blas_threads(len(covariance)):
        lam, v = np.linalg.eigh(covariance)
    keep = np.flatnonzero(lam > 0)[-min(n - 1, len(lam)) :]
    if not keep.size:  # every sample alike
        keep = np.array([len(lam) - 1])
    return v[:, keep] * np.sqrt(np.maximum(lam[keep], 0))


def cholesky(covariance: Array, n: int) -> tuple[Array, np.ndarray | None]:
    """(L, order) with L Lᵀ = Σ[order, order], L lower triangular, D,r, r < n; order None: as it is."""
    if n > len(covariance):
        try:
            with blas_threads(len(covariance)):
                return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64), None
        except np.linalg.LinAlgError:
            pass
    from scipy.linalg.lapack import dpstrf

    with blas_threads(len(covariance)):
        factor, pivots, rank, _ = dpstrf(covariance, lower=1)
    rank = max(1, min(rank, n - 1))
    return np.ascontiguousarray(np.tril(factor)[:, :rank]), pivots - 1


def _congruence(lower: Array, s: Array) -> Array:
    """Lᵀ S L of a lower triangular L D,r and a symmetric S D,D; only the lower triangle of the result is right.

    In blocks of columns, so that half of either product's zeros are never multiplied.
    """
    rank = lower.shape[1]
    edges = [rank * k // BLOCKS for k in range(BLOCKS + 1)] if rank >= 64 * BLOCKS else [0, rank]
    right, out = np.empty((len(s), rank)), np.zeros((rank, rank))
    with blas_threads(len(s)):
        for a, b in zip(edges, edges[1:]):
            np.matmul(s[:, a:], lower[a:, a:b], out=right[:, a:b])
            np.matmul(lower[a:, a:b].T, right[a:, :b], out=out[a:b, :b])
    return out


def _nuclear(real: Array, fake: Array, interval: bool) -> tuple[float, float, Parts]:
    mu, nu = real.mean(0), fake.mean(0)
    x, y = (real - mu) / np.sqrt(len(real) - 1), (fake - nu) / np.sqrt(len(fake) - 1)
    (p, a), (q, b) = _factor(x, interval), _factor(y, interval)
    g = product(a, b.T)
    parts = None
    with blas_threads(min(g.shape)):
        if not interval:
            cross = np.linalg.svd(g, compute_uv=False).sum()
        else:
            u, s, vt = np.linalg.svd(g, full_matrices=False)
            keep = s > 1e-14 * s[0]
            polar, cross = product(u[:, keep], vt[keep]), s.sum()
            along_x, along_y = product(polar, b), product(polar.T, a)
            along_x, along_y = (z if v is None else product(v, z) for v, z in ((p, along_x), (q, along_y)))
            parts = (
                (len(x) - 1) * ((x - along_x) * x).sum(1) + 2 * np.sqrt(len(x) - 1) * x @ (mu - nu),
                (len(y) - 1) * ((y - along_y) * y).sum(1) - 2 * np.sqrt(len(y) - 1) * y @ (mu - nu),
            )
    return float((mu - nu) @ (mu - nu)), float((x * x).sum() + (y * y).sum() - 2 * cross), parts


def _factor(x: Array, orthogonal: bool) -> tuple[Array | None, Array]:
    """(Q, B) with Q B = x, so that BᵀB = xᵀx: x itself, or its triangular factor where that is smaller. Q is None for
    the identity, and where it is not asked for."""
    if len(x) <= x.shape[1]:
        return None, x
    with blas_threads(x.shape[1]):
        if orthogonal:
            return np.linalg.qr(x)
        return None, np.asarray(np.linalg.qr(x, mode="r"))


def _take(x: Features, name: str) -> Array | FeatureStatistics:
    return x if isinstance(x, FeatureStatistics) else as_features(x, name)


def _size(x: Array | FeatureStatistics) -> tuple[int, int]:
    return (x.n, x.dims) if isinstance(x, FeatureStatistics) else (x.shape[0], x.shape[1])


def _moments(x: Array | FeatureStatistics) -> FeatureStatistics:
    return x if isinstance(x, FeatureStatistics) else FeatureStatistics(x.shape[1]).add(x)
