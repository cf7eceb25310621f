"""Does the text find its picture, and the picture its text? Ranks among all the others, duplicates taken into account.

Picture i and text i of N pairs belong together. A picture also belongs to any text that some equal picture is paired
with, and a text to any picture of an equal text: of 46,656 shapes nine share each caption, and to call eight of them
wrong would cap R@1 at 1/9. Equal candidates count as one, and a query's rank is that of the first right one,

    rank = 1 + the number of different wrong candidates with a larger cosine + its share of those with an equal one

R@k is the share of queries with rank ≤ k. Ties: "pessimistic" ranks every wrong candidate of an equal cosine first, so
that an encoder that answers everything alike finds nothing; "expected" averages over all orders of the tied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, as_array, require_count
from ._embeddings import unit_pair
from .bootstrap import RESAMPLES, Interval, bootstrap_interval

TIES = ("pessimistic", "expected")
EQUAL = 1e-9  # cosines that differ by less are tied: rounding alone parts them
CELLS = 2**24  # cosines held at once


@dataclass(frozen=True)
class RetrievalRanks:
    """One direction. The intervals resample the queries and take the candidates as given."""

    recall: dict[int, float]  # R@k, a share of the queries
    recall_intervals: dict[int, Interval]
    median_rank: float
    median_interval: Interval
    mean_rank: float
    candidates: int  # different ones
    chance: dict[int, float]  # R@k of a random order


@dataclass(frozen=True)
class Retrieval:
    """Both directions, and what is needed to read them."""

    image_to_text: RetrievalRanks
    text_to_image: RetrievalRanks
    n: int  # pairs
    ties: str
    encoder: str
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """retrieval[encoder | N pairs | images | texts | ties]"""
        return (f"retrieval[{self.encoder} | N={self.n} | {self.text_to_image.candidates} images | "
                f"{self.image_to_text.candidates} texts | {self.ties} ties]")


def retrieval(
    image_embeddings: npt.ArrayLike,
    text_embeddings: npt.ArrayLike,
    *,
    captions: Sequence[str] | None = None,
    images: npt.ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    ties: str = "pessimistic",
    encoder: str = "unnamed encoder",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Retrieval:
    """R@k and ranks by cosine, of paired embeddings N,D (row i of both belongs together), in both directions.

    captions: the N texts, images: the N pictures N,H,W,C, so that equal ones are known; without them, equal embeddings
    are taken for equal items. encoder: its name, for the label. All N² cosines are taken, in
    float64. Raises
    ShapeError (N or D differs, N < 2, nothing to choose from), NonFiniteError (a zero vector too), DtypeError,
    ConfigError.
    """
    if ties not in TIES:
        raise ConfigError(f"unknown ties {ties!r}; choose {' or '.join(TIES)}.")
    if not ks or any(not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise ConfigError(f"ks are ranks, whole numbers from 1 on; got {tuple(ks)}.")
    x, y = unit_pair(image_embeddings, text_embeddings)
    require_count("image_embeddings", len(x), 2, "retrieval")
    gx = _groups(as_array(image_embeddings, "images") if images is None else as_array(images, "images"), len(x),
                 "images")
    gy = _groups(as_array(text_embeddings, "captions") if captions is None else _texts(captions), len(x), "captions")
    for name, g in (("image", gx), ("caption", gy)):
        if g.max() == 0:
            raise ShapeError(f"all {len(g)} {name}s are equal, so there is nothing to choose from.")
    found = []
    for query, target, group, own in ((x, y, gy, gx), (y, x, gx, gy)):
        ranks, hits = _ranks(query, target, group, own, tuple(ks), ties)
        found.append(_summary(ranks, hits, tuple(ks), group, own, resamples, seed))
    notes = []
    if (most := max(ks)) >= min(f.candidates for f in found):
        notes.append(f"R@{most} says little: one direction has {min(f.candidates for f in found)} candidates.")
    return Retrieval(found[0], found[1], len(x), ties, encoder, tuple(notes))


def _texts(captions: Sequence[str]) -> np.ndarray:
    if isinstance(captions, str) or not all(isinstance(text, str) for text in captions):
        raise ConfigError("captions are a list of texts, one for each pair.")
    return np.unique(np.asarray(captions, dtype=str), return_inverse=True)[1]


def _groups(items: np.ndarray, n: int, name: str) -> npt.NDArray[np.int64]:
    """The number 0, 1, … of each item; equal items have equal numbers."""
    if len(items) != n:
        raise ShapeError(f"{name} has {len(items)} items for {n} pairs of embeddings; one each is needed.")
    rows = np.ascontiguousarray(items.reshape(n, -1) + 0)  # -0.0 equals 0.0
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), len(seen)) for row in rows])


def _ranks(query: Array, target: Array, group: np.ndarray, own: np.ndarray, ks: tuple[int, ...], ties: str):
    """(rank of each query's first right candidate, N; whether it is among the first k, len(ks),N: 0, 1 or between)"""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    right: dict[int, set[int]] = {}
    for mine, theirs in zip(own.tolist(), group.tolist()):
        right.setdefault(mine, set()).add(theirs)
    ranks, hits = np.empty(len(query)), np.empty((len(ks), len(query)))
    columns = target[order].T
    rows = max(1, CELLS // len(target))
    for i in range(0, len(query), rows):
        # equal items may be embedded a little differently: the best of them speaks for all
        scores = np.maximum.reduceat(query[i : i + rows] @ columns, starts, axis=1)
        for j, row in enumerate(scores, i):
            mine = list(right[int(own[j])])
            best = row[mine].max()
            level = np.abs(row - best) <= EQUAL
            right_level = int(level[mine].sum())
            ahead, tied = int((row > best + EQUAL).sum()), int(level.sum()) - right_level
            if ties == "pessimistic":
                ranks[j] = 1 + ahead + tied
                hits[:, j] = [ranks[j] <= k for k in ks]
            else:  # the first of r right ones in a random order of r + t stands at place (r + t + 1) / (r + 1)
                ranks[j] = ahead + (right_level + tied + 1) / (right_level + 1)
                hits[:, j] = [_chance(right_level, tied, k - ahead) for k in ks]
    return ranks, hits


def _chance(right: int, wrong: int, k: int) -> float:
    """The probability that the first k of a random order hold a right one."""
    if k <= 0:
        return 0.0
    return 1 - comb(wrong, k) / comb(right + wrong, k) if k <= wrong else 1.0


def _summary(ranks: Array, hits: Array, ks: tuple[int, ...], group: np.ndarray, own: np.ndarray, resamples: int,
             seed: int) -> RetrievalRanks:
    recall = {k: float(h.mean()) for k, h in zip(ks, hits)}
    m = int(group.max()) + 1
    pairs = np.unique(np.stack([own, group], 1), axis=0)
    right = np.bincount(pairs[:, 0])[own]  # right candidates of each query
    counts = [(int(r), int(c)) for r, c in zip(*np.unique(right, return_counts=True))]
    rng = np.random.default_rng(seed)
    medians = np.array([np.median(ranks[rng.integers(len(ranks), size=len(ranks))]) for _ in range(resamples)])
    low, high = np.quantile(medians, (0.025, 0.975))
    return RetrievalRanks(
        recall=recall,
        recall_intervals={k: bootstrap_interval(recall[k], h, resamples=resamples, seed=seed)
                          for k, h in zip(ks, hits)},
        median_rank=float(np.median(ranks)),
        median_interval=Interval(float(low), float(high), float(medians.std(ddof=1)), resamples=resamples, seed=seed),
        mean_rank=float(ranks.mean()),
        candidates=m,
        chance={k: sum(c * _chance(r, m - r, min(k, m)) for r, c in counts) / len(own) for k in ks},
    )
