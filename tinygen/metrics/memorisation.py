"""Does the model copy its training images? Compare how near its samples come with how near fresh real images
come.

With d(x) = min over training images t of ||x - t||₂ on pixels in [0, 1],

    ratio = median d(samples) / median d(held-out real images)

Both medians ask the *same* training set, and neither set of queries is part of it, so neither number depends
on how many queries there are, except for noise: no correction for N is needed. About 1: as near as new real
images are. Below 0.8: nearer than they ought to be (copies, or images too smooth to be real). Above 1.2: off
the manifold. A few copies among many samples hardly move a median; `near_share` shows them.

In a space of features, AuthPct asks the same of each sample without held-out images (Alaa et al. 2022, §3.3): a sample
is authentic if it is farther from its nearest training sample than that one is from its own nearest neighbour.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ShapeError

from ._arrays import Array, as_features, as_images, flat, require_count, require_same_dims
from ._neighbours import nearest
from .bootstrap import RESAMPLES, Interval, bootstrap_interval


@dataclass(frozen=True)
class Memorisation:
    """How near samples come to the training images, relative to held-out real images."""

    ratio: float  # of medians
    interval: tuple[float, float]  # 95 % percentile bootstrap of `ratio`, over both sets of queries
    mean_ratio: float  # of means
    near_share: float  # samples nearer to a training image than 99 % of held-out images are; 0.01 is expected
    median_samples: float  # L2 distance on pixels in [0, 1]
    median_heldout: float
    n_samples: int
    n_train: int
    n_heldout: int


def nearest_distances(
    queries: npt.ArrayLike, references: npt.ArrayLike
) -> tuple[Array, npt.NDArray[np.int64]]:
    """The L2 distance of each query image to its nearest reference, N float64, and that reference's index, N.

    Images N,H,W,C uint8 or float in [0, 1]. Exact, so that a copy is at 0: see _neighbours.py. Raises ShapeError,
    DtypeError.
    """
    q, r = as_images(queries, "queries"), as_images(references, "references")
    if q.shape[1:] != r.shape[1:]:
        raise ShapeError(f"queries are images {q.shape[1:]} and references {r.shape[1:]}; sizes must agree.")
    if not len(r):
        raise ShapeError("references holds no image; at least one is needed.")
    if not len(q):
        return np.empty(0), np.empty(0, dtype=np.int64)
    squared, near = nearest(flat(q), flat(r), 1)
    return np.sqrt(squared[:, 0]), near[:, 0]


@dataclass(frozen=True)
class Authenticity:
    """AuthPct and what is needed to read it; lower means more copies."""

    percent: float  # of the samples that are authentic
    interval: Interval  # of percent, the training set taken as given
    n_samples: int
    n_train: int


def authpct(
    *, train: npt.ArrayLike, samples: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Authenticity:
    """The percentage of authentic samples, from features N,D and M,D (dgm-eval's AuthPct).

    It depends on the number of training samples: the fewer, the farther their neighbours, the lower the score. Raises
    ShapeError (D differs, no sample, fewer than 2 training samples), DtypeError, NonFiniteError.
    """
    t, s = as_features(train, "train"), as_features(samples, "samples")
    require_same_dims(t.shape[1], s.shape[1], ("train", "samples"))
    require_count("train", len(t), 2, "a nearest neighbour")
    require_count("samples", len(s), 1, "AuthPct")
    squared, near = nearest(s, t, 1)
    own = nearest(t, None, 1)[0][:, 0]
    authentic = 100.0 * (own[near[:, 0]] < squared[:, 0])
    percent = float(authentic.mean())
    interval = bootstrap_interval(percent, authentic, resamples=resamples, seed=seed)
    return Authenticity(percent, interval, len(s), len(t))


def memorisation_ratio(
    *,
    samples: npt.ArrayLike,
    train: npt.ArrayLike,
    heldout: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
) -> Memorisation:
    """The nearest-training-neighbour ratio of `samples`, as defined at the top of this file, with its
    interval.

    samples, train, heldout: images N,H,W,C uint8 or float in [0, 1]; `heldout` must share nothing with
    `train`. Raises ShapeError (sizes differ, a set is empty, held-out images all lie in the training set),
    DtypeError.
    """
    d, _ = nearest_distances(samples, train)
    e, _ = nearest_distances(heldout, train)
    if not len(d) or not len(e):
        raise ShapeError(f"the ratio needs samples and held-out images; got {len(d)} and {len(e)}.")
    if np.median(e) == 0:
        raise ShapeError(
            "most held-out images are training images too; give images that training has not seen."
        )
    rng = np.random.default_rng(seed)
    top = np.median(d[rng.integers(len(d), size=(resamples, len(d)))], axis=1)
    bottom = np.median(e[rng.integers(len(e), size=(resamples, len(e)))], axis=1)
    low, high = np.quantile(top / bottom, (0.025, 0.975))
    return Memorisation(
        ratio=float(np.median(d) / np.median(e)),
        interval=(float(low), float(high)),
        mean_ratio=float(d.mean() / e.mean()),
        near_share=float((d < np.quantile(e, 0.01)).mean()),
        median_samples=float(np.median(d)),
        median_heldout=float(np.median(e)),
        n_samples=len(d),
        n_train=len(train),  # type: ignore[arg-type]
        n_heldout=len(e),
    )
