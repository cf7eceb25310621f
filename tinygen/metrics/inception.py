"""The Inception score: are the classes that a classifier sees in single samples sharp, and many in all?

    IS = exp( mean over x of KL( p(y|x) || p(y) ) )            (Salimans et al. 2016, §4)

over contiguous splits, and the mean and deviation over those. A file sorted by class makes every split one class and
destroys the score (3.96 becomes 1.66), so samples are shuffled first, by a seed that is reported. The number means what
its classifier means: published ones are of Inception-v3 on ImageNet's 1008 outputs, without bias.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, as_features, require_count
from .bootstrap import RESAMPLES, Interval, bootstrap_interval


@dataclass(frozen=True)
class InceptionScore:
    """The Inception score by splits and in one, between 1 and the number of classes."""

    mean: float  # over the splits: what papers print
    sd: float  # over the splits, ddof as asked
    one_split: float  # of all samples at once: higher, and without the bias of small splits
    interval: Interval  # of one_split
    splits: int
    seed: int | None  # of the shuffle, a legacy RandomState; None: not shuffled
    ddof: int
    n: int
    classes: int
    notes: tuple[str, ...] = ()


def inception_score(
    logits: npt.ArrayLike,
    *,
    splits: int = 10,
    seed: int | None = 2020,
    ddof: int = 0,
    probabilities: bool = False,
    resamples: int = RESAMPLES,
) -> InceptionScore:
    """The Inception score of samples from their logits N,K; softmax in float64.

    The defaults are torch-fidelity's: shuffled by RandomState(2020), 10 splits at i·N//10, population deviation.
    ddof 1 is torchmetrics' deviation. seed None keeps the order. probabilities: the rows are p(y|x) already, from 0 on
    and summing to 1. Raises ShapeError (fewer samples than splits, one class), DtypeError, NonFiniteError, ConfigError.
    """
    x = as_features(logits, "probabilities" if probabilities else "logits")
    n, classes = x.shape
    if splits < 1 or ddof not in (0, 1) or (ddof == 1 and splits == 1):
        raise ConfigError(f"splits counts from 1 and ddof is 0, or 1 for at least 2 splits; got {splits}, {ddof}.")
    require_count("logits", n, max(2, splits), f"an Inception score in {splits} split(s)")
    if classes < 2:
        raise ShapeError("an Inception score needs at least two classes; the logits have one.")
    p, log_p = _from_probabilities(x) if probabilities else _softmax(x)
    order = np.arange(n) if seed is None else np.random.RandomState(seed).permutation(n)
    bounds = [i * n // splits for i in range(splits + 1)]
    scores = [float(np.exp(_divergences(p[order[a:b]], log_p[order[a:b]]).mean())) for a, b in zip(bounds, bounds[1:])]
    divergences = _divergences(p, log_p)
    whole = float(np.exp(divergences.mean()))
    # to first order, the logarithm is a mean of the samples' own divergences
    interval = bootstrap_interval(whole, whole * divergences, resamples=resamples, seed=seed or 0)
    notes = () if seed is not None else ("not shuffled: samples sorted by class make every split poor.",)
    return InceptionScore(
        float(np.mean(scores)), float(np.std(scores, ddof=ddof)), whole, interval, splits, seed, ddof, n, classes, notes
    )


def _divergences(p: Array, log_p: Array) -> Array:
    """KL(p(y|x) || p(y)) of each sample in nats, N."""
    marginal = p.mean(0)
    log_marginal = np.log(np.where(marginal > 0, marginal, 1))
    return np.einsum("nk,nk->n", p, log_p - log_marginal)


def _softmax(x: Array) -> tuple[Array, Array]:
    x = x - x.max(1, keepdims=True)
    e = np.exp(x)
    total = e.sum(1, keepdims=True)
    return e / total, x - np.log(total)


def _from_probabilities(x: Array) -> tuple[Array, Array]:
    if x.min() < 0 or np.abs(x.sum(1) - 1).max() > 1e-4:
        raise ConfigError(
            "probabilities have rows from 0 on that sum to 1; these look like logits: leave out probabilities=True."
        )
    p = x / x.sum(1, keepdims=True)
    return p, np.log(np.where(p > 0, p, 1))
