"""The Vendi score: how many different samples there are, in effect (Friedman & Dieng 2023).

    Vendi = exp( -Σ λ ln λ ),    λ the eigenvalues of K / N,    K_ij = cos(x_i, x_j)

1 if all samples are alike, N if all are orthogonal. It knows nothing of the real data: noise scores high.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ShapeError

from ._arrays import as_features, gram, require_count
from ._blas import blas_threads, product
from .bootstrap import RESAMPLES, Interval, bootstrap_interval


@dataclass(frozen=True)
class VendiScore:
    """The effective number of samples, of n; it grows with n: compare only at equal ones."""

    value: float
    interval: Interval
    n: int
    dims: int


def vendi_score(features: npt.ArrayLike) -> float:
    """The Vendi score of features N,D under the cosine kernel, between 1 and N."""
    return _vendi(features, interval=False)[0]


def vendi_details(features: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> VendiScore:
    """The Vendi score with its bootstrap interval. Raises ShapeError (no sample, one of length 0), DtypeError,
    NonFiniteError."""
    value, influences, (n, dims) = _vendi(features, interval=True)
    return VendiScore(value, bootstrap_interval(value, influences, resamples=resamples, seed=seed), n, dims)


def _vendi(features: npt.ArrayLike, interval: bool):
    x = as_features(features, "features")
    require_count("features", len(x), 1, "a Vendi score")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ShapeError(f"sample {int(np.argmin(length))} is all zeros and has no direction to compare.")
    x = x / length
    n = len(x)
    tall = n > x.shape[1]  # K and ρ = XᵀX / N have the same eigenvalues but for zeros
    matrix = (gram(x) if tall else gram(np.ascontiguousarray(x.T))) / n
    with blas_threads(len(matrix)):
        lam, v = np.linalg.eigh(matrix) if interval else (np.linalg.eigvalsh(matrix), np.empty((0, 0)))
    keep = lam > 1e-15
    log = np.log(lam[keep])
    value = float(np.exp(-(lam[keep] * log).sum()))
    if not interval:
        return value, None, x.shape
    # the first variation of -tr ρ ln ρ is -xᵀ ln(ρ) x, and Xᵀv / √(nλ) are ρ's eigenvectors
    projected = product(x, v[:, keep]) ** 2 if tall else n * lam[keep] * v[:, keep] ** 2
    return value, value * -(projected @ log), x.shape
