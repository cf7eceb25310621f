"""Does the model copy its training images? Compare how near its samples come with how near fresh real images
come.

With d(x) = min over training images t of ||x - t||₂ on pixels in [0, 1],

    ratio = median d(samples) / median d(held-out real images)

Both medians ask the *same* training set, and neither set of queries is part of it, so neither number depends
on how many queries there are, except for noise: no correction for N is needed. About 1: as near as new real
images are. Below 0.8: nearer than they ought to be (copies, or images too smooth to be real). Above 1.2: off
the manifold. A few copies among many samples hardly move a median; `near_share` shows them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ShapeError

from ._arrays import ROWS, Array, as_images, flat, squared_distances


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

    Images N,H,W,C uint8 or float in [0, 1]. Exact: the distance to the nearest is recomputed by subtraction,
    so a copy is at 0. Raises ShapeError, DtypeError.
    """
    q, r = as_images(queries, "queries"), as_images(references, "references")
    if q.shape[1:] != r.shape[1:]:
        raise ShapeError(f"queries are images {q.shape[1:]} and references {r.shape[1:]}; sizes must agree.")
    if not len(r):
        raise ShapeError("references holds no image; at least one is needed.")
    q, r = flat(q), flat(r)
    near = np.empty(len(q), dtype=np.int64)
    for i in range(0, len(q), ROWS):
        near[i : i + ROWS] = squared_distances(q[i : i + ROWS], r).argmin(1)
    return np.sqrt(((q - r[near]) ** 2).sum(1)), near


def memorisation_ratio(
    samples: npt.ArrayLike,
    train: npt.ArrayLike,
    heldout: npt.ArrayLike,
    *,
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
