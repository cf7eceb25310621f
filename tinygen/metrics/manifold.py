"""How much of the fake lies where the real is, and the other way round: balls around each sample's neighbours.

Every sample gets a ball that reaches its k-th nearest neighbour in its own set, itself not counted. Then

    precision  share of the fake samples that lie in some real ball          (Kynkäänniemi et al. 2019, eq. 2)
    recall     share of the real samples that lie in some fake ball
    density    (1/k) · mean, over the fake samples, of how many real balls hold each   (Naeem et al. 2020, eq. 4)
    coverage   share of the real balls that hold some fake sample                      (eq. 5)

One outlier's huge ball spoils precision and recall; density counts it as one of many, and coverage only asks of real
balls. Expected for equal distributions: density 1, coverage 1 - (N-1)…(N-k) / (2N-1)…(2N-k), about 1 - 2⁻ᵏ.

All four depend on N and on k: compare only at equal ones. Where samples are copies of each other, everything hangs on
whether a ball contains its surface: `ties` says so by the name of those who chose.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError

from ._arrays import count_note, feature_pair
from ._neighbours import inside, nearest
from .bootstrap import RESAMPLES, Interval, bootstrap_interval

# "closed": a ball holds its surface, as in ADM's evaluator and torch-fidelity; "open": it does not, as in prdc
TIES = ("closed", "open")


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall. The intervals take the balls as given, and resample the samples that lie in them."""

    precision: float
    recall: float
    precision_interval: Interval
    recall_interval: Interval
    k: int
    ties: str
    n_real: int
    n_fake: int
    notes: tuple[str, ...] = ()

    @property
    def f_score(self) -> float:
        """Their harmonic mean; 0 if both are."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-300)


@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage. The intervals take the balls as given; that of coverage, the fake samples too."""

    density: float
    coverage: float
    density_interval: Interval
    coverage_interval: Interval
    k: int
    ties: str
    n_real: int
    n_fake: int
    notes: tuple[str, ...] = ()


def precision_recall(
    *,
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    k: int = 3,
    ties: str = "closed",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PrecisionRecall:
    """Improved precision and recall of features N,D and M,D; k = 3 as published, and by ADM and torch-fidelity.

    Exact: see _neighbours.py. Raises ShapeError (D differs, k or fewer samples), DtypeError, NonFiniteError,
    ConfigError.
    """
    (in_real, _, recalled), n, m = _counts(real, fake, k, ties, both=True)
    precise = (in_real > 0).astype(np.float64)
    recalled = recalled.astype(np.float64)
    p, r = float(precise.mean()), float(recalled.mean())
    first = bootstrap_interval(p, precise, resamples=resamples, seed=seed)
    second = bootstrap_interval(r, recalled, resamples=resamples, seed=seed)
    return PrecisionRecall(p, r, first, second, k, ties, n, m, count_note(n, m))


def density_coverage(
    *,
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    k: int = 5,
    ties: str = "open",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DensityCoverage:
    """Density and coverage of features N,D and M,D; k = 5 and open balls as published, and by prdc.

    Exact: see _neighbours.py. Raises ShapeError (D differs, k or fewer samples), DtypeError, NonFiniteError,
    ConfigError.
    """
    (in_real, covered, _), n, m = _counts(real, fake, k, ties, both=False)
    dense = in_real / k
    covered = covered.astype(np.float64)
    d, c = float(dense.mean()), float(covered.mean())
    first = bootstrap_interval(d, dense, resamples=resamples, seed=seed)
    second = bootstrap_interval(c, covered, resamples=resamples, seed=seed)
    return DensityCoverage(d, c, first, second, k, ties, n, m, count_note(n, m))


def _counts(real: npt.ArrayLike, fake: npt.ArrayLike, k: int, ties: str, both: bool):
    if k < 1:
        raise ConfigError(f"k counts neighbours, at least 1; got {k}.")
    if ties not in TIES:
        raise ConfigError(f"unknown ties {ties!r}; choose {' or '.join(TIES)}.")
    r, f = feature_pair(real, fake, k + 1, f"the distance to the {k}-th neighbour")
    real_balls = nearest(r, None, k)[0][:, -1]
    # a ball of squared radius -1 holds nothing, on either convention
    fake_balls = nearest(f, None, k)[0][:, -1] if both else np.full(len(f), -1.0)
    return inside(r, f, real_balls, fake_balls, ties == "closed"), len(r), len(f)
