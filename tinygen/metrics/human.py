"""What people chose: the win rate of a pair with its interval, and the Bradley–Terry scores of more than two.

Bradley & Terry (1952): i is preferred to j with probability pᵢ / (pᵢ + pⱼ). The strengths are found by Hunter's MM
algorithm (2004, "MM algorithms for generalized Bradley–Terry models", eq. 3),

    pᵢ ← Wᵢ / Σⱼ nᵢⱼ / (pᵢ + pⱼ),        Wᵢ the wins of i, nᵢⱼ the comparisons of i and j

which climbs the likelihood at every step. Scores are ln pᵢ, centred; their standard errors come from the inverse of the
Fisher information on the plane where scores sum to zero. A tie counts half a win for each.

All of it takes answers to be independent. Several answers by one person, or of several people to one pair of pictures,
are less than that, and the intervals then promise too much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, DataError, NonFiniteError, ShapeError

from ._arrays import Array, as_array, require_finite

STEPS = 100_000  # of the MM algorithm
AGREES = 1e-11  # wins that the strengths predict, relative to those counted


@dataclass(frozen=True)
class WinRate:
    """How often one of two was chosen."""

    rate: float  # (wins + ties / 2) / n
    interval: tuple[float, float]  # Wilson's
    wins: int
    losses: int
    ties: int
    n: int
    level: float

    def __str__(self) -> str:
        low, high = self.interval
        ties = f", {self.ties} ties" if self.ties else ""
        return f"{100 * self.rate:.1f} % of {self.n}{ties} ({100 * self.level:g} %: {100 * low:.1f}–{100 * high:.1f} %)"


@dataclass(frozen=True)
class BradleyTerry:
    """Scores of K contestants; a difference of ln 3 = 1.1 means being chosen three times in four."""

    names: tuple[str, ...]
    scores: Array  # K, ln p, of mean 0 where finite; ±inf where no answer bounds it, NaN where none tells
    standard_errors: Array  # K, of the centred scores; NaN where a score is not finite
    covariance: Array  # K, K: the variance of a difference is c_ii + c_jj - 2 c_ij
    wins: Array  # K, K: how often row beat column, ties as halves
    log_likelihood: float  # of the finite ones, nats
    steps: int
    notes: tuple[str, ...] = ()

    def probability(self, i: int, j: int) -> float:
        """The probability that i is chosen rather than j."""
        a, b = self.scores[i], self.scores[j]
        if a == b and not np.isfinite(a):
            return float("nan")
        with np.errstate(over="ignore"):
            return float(1 / (1 + np.exp(b - a)))

    @property
    def order(self) -> list[int]:
        """The contestants, best first; those of unknown score last."""
        return sorted(range(len(self.names)), key=lambda k: -np.inf if np.isnan(self.scores[k]) else self.scores[k],
                      reverse=True)  # fmt: skip


def wilson_interval(wins: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share wins / n: inside [0, 1], and of use down to n = 1, wins = 0.

    wins may be a half number, for ties. Raises ConfigError.
    """
    if not (n >= 1 and 0 <= wins <= n):
        raise ConfigError(f"a win rate needs 0 <= wins <= n and n >= 1; got {wins} of {n}.")
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval lies between 0 and 1; got {level}.")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    p = wins / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # at 0 and n the formula is exact and the arithmetic is not
    low, high = max(0.0, centre - half) if wins else 0.0, min(1.0, centre + half) if wins < n else 1.0
    return float(low), float(high)


def win_rate(wins: int, losses: int, ties: int = 0, *, level: float = 0.95) -> WinRate:
    """How often one of two was chosen, a tie being half a win, with Wilson's interval. Raises ConfigError."""
    if min(wins, losses, ties) < 0:
        raise ConfigError(f"wins, losses and ties are counts; got {wins}, {losses}, {ties}.")
    n = wins + losses + ties
    interval = wilson_interval(wins + ties / 2, n, level=level)
    return WinRate((wins + ties / 2) / n, interval, wins, losses, ties, n, level)


def bradley_terry(wins: npt.ArrayLike, names: Sequence[str] | None = None) -> BradleyTerry:
    """The Bradley–Terry scores of K contestants from wins K,K: how often row beat column, a tie half a win for each.

    A likelihood has a maximum only if nobody stands apart: whenever the contestants are divided in two, each side has
    beaten the other at least once (Ford 1957). Where that fails, those who are above all that bounds them get +inf,
    those below -inf, and a note says so; the others are scored among themselves.
    Raises ShapeError, DtypeError, NonFiniteError, ConfigError (negative counts), DataError (two groups never compared).
    """
    w = as_array(wins, "wins").astype(np.float64)
    k = len(w)
    if w.shape != (k, k) or k < 2:
        raise ShapeError(f"wins has shape {w.shape}; K,K with K >= 2 is needed: how often row beat column.")
    require_finite(w, "wins")
    if (w < 0).any() or np.diagonal(w).any():
        raise ConfigError("wins are counts from 0 on, with zeros on the diagonal: nobody is compared with itself.")
    named = tuple(names) if names is not None else tuple(str(i) for i in range(k))
    if len(named) != k:
        raise ShapeError(f"there are {len(named)} names for {k} contestants.")
    reach = _reach(w > 0)
    apart = ~_reach((w + w.T) > 0)[0]
    if apart.any():
        raise DataError(f"{named[int(np.argmax(apart))]} was never compared with {named[0]}, not even by way of "
                        "others; their scores have no common scale.")  # fmt: skip
    both = reach & reach.T
    core = np.flatnonzero(both[np.argmax(both.sum(1))])
    scores, covariance, steps = np.full(k, np.nan), np.full((k, k), np.nan), 0
    beats, loses = np.any(reach[:, core], axis=1), np.any(reach[core], axis=0)
    above, below = np.asarray(beats & ~loses), np.asarray(loses & ~beats)
    scores[above], scores[below] = np.inf, -np.inf
    inner = w[np.ix_(core, core)]
    scores[core], steps = _maximise(inner)
    information = _information(inner, scores[core])
    covariance[np.ix_(core, core)] = np.linalg.pinv(information, hermitian=True) if len(core) > 1 else 0.0
    errors = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    difference = scores[core][:, None] - scores[core]
    likelihood = -float((inner * np.logaddexp(0, -difference)).sum())
    return BradleyTerry(named, scores, errors, covariance, w, likelihood, steps, _notes(named, w, core, above, below))


def _reach(edges: np.ndarray) -> np.ndarray:
    """Which contestants lead to which along edges, themselves included (Warshall 1962)."""
    reach = edges | np.eye(len(edges), dtype=bool)
    for j in range(len(edges)):
        reach |= reach[:, j : j + 1] & reach[j]
    return reach


def _maximise(w: Array) -> tuple[Array, int]:
    """(ln p, mean 0; the steps it took) of strongly connected wins."""
    if len(w) == 1:
        return np.zeros(1), 0
    met, won = w + w.T, w.sum(1)
    p = np.ones(len(w))
    for step in range(1, STEPS + 1):
        share = met / (p[:, None] + p)
        predicted = p * share.sum(1)
        if np.abs(predicted - won).max() <= AGREES * won.max():
            return np.log(p) - np.log(p).mean(), step
        p = won / share.sum(1)
        p /= np.exp(np.log(p).mean())
    raise NonFiniteError(
        f"the Bradley–Terry scores did not settle in {STEPS:,} steps: hardly any answer bounds one contestant against "
        "the others; gather more."
    )


def _information(w: Array, scores: Array) -> Array:
    """Fisher's information of the scores, K,K; its rows sum to zero."""
    p = 1 / (1 + np.exp(scores[None] - scores[:, None]))
    weight = (w + w.T) * p * (1 - p)
    return np.diag(weight.sum(1)) - weight


def _notes(names: tuple[str, ...], w: Array, core: np.ndarray, above: np.ndarray, below: np.ndarray) -> tuple[str, ...]:
    out = []
    others = ", ".join(names[i] for i in core)
    for mask, did, sign in ((above, "never lost", "+inf"), (below, "never won", "-inf")):
        group = [names[i] for i in np.flatnonzero(mask)]
        if group:
            out.append(f"{', '.join(group)} {did} against {others}, directly or by way of others: no finite score is "
                       f"the likeliest, so {sign} is reported; more answers would bound it.")  # fmt: skip
    unknown = [names[i] for i in range(len(names)) if i not in core and not above[i] and not below[i]]
    if unknown:
        out.append(f"no answer orders {', '.join(unknown)} and {others}.")
    return tuple(out)
