"""CLIP score: the cosine between a picture's embedding and its caption's, as two sources scale it.

    clipscore      2.5 · max(cos, 0) of each pair, averaged               (Hessel et al. 2021, eq. 1)
    torchmetrics   100 · cos averaged over the pairs, then max(·, 0)      (torchmetrics.multimodal.CLIPScore)
    cosine         cos, averaged

The scale of a cosine is the encoder's own, so a score is read beside that of the same embeddings wrongly paired, and
never beside another encoder's: CLIPScore[shapes-clip | …] is not OpenAI's.
"""

from dataclasses import dataclass

import numpy.typing as npt

from tinygen.errors import ConfigError

from ._arrays import Array
from ._embeddings import unit_pair
from .bootstrap import RESAMPLES, Interval, bootstrap_interval

CONVENTIONS = {"torchmetrics": "100·max(mean cos, 0)", "clipscore": "2.5·max(cos, 0)", "cosine": "cos"}
CELLS = 2**24  # cosines held at once


@dataclass(frozen=True)
class ClipScore:
    """A CLIP score and what is needed to read it. The interval resamples the pairs, and is that of the mean before
    torchmetrics' max."""

    value: float
    interval: Interval
    mispaired: float | None  # the same score of each picture with every text but its own; None for a single pair
    n: int
    convention: str
    encoder: str

    @property
    def label(self) -> str:
        """CLIPScore[encoder | convention | N pairs]"""
        return f"CLIPScore[{self.encoder} | {CONVENTIONS[self.convention]} | N={self.n}]"


def clip_score(image_embeddings: npt.ArrayLike, text_embeddings: npt.ArrayLike, *,
               convention: str = "torchmetrics") -> float:
    """The score of paired embeddings N,D, of any length; one of CONVENTIONS. Raises as clip_score_details."""
    _check(convention)
    x, y = unit_pair(image_embeddings, text_embeddings)
    return _above(float(_scaled((x * y).sum(1), convention).mean()), convention)


def clip_score_details(
    image_embeddings: npt.ArrayLike,
    text_embeddings: npt.ArrayLike,
    *,
    convention: str = "torchmetrics",
    encoder: str = "unnamed encoder",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ClipScore:
    """The same with its interval, the score of wrong pairs and a label. encoder: its name, for the label.

    Raises ShapeError (N or D differs, no pair), NonFiniteError (a row of zeros too), DtypeError, ConfigError.
    """
    _check(convention)
    x, y = unit_pair(image_embeddings, text_embeddings)
    each = _scaled((x * y).sum(1), convention)
    value = float(each.mean())
    interval = bootstrap_interval(value, each, resamples=resamples, seed=seed)
    wrong = None
    if len(x) > 1:
        rows = max(1, CELLS // len(x))
        total = sum(float(_scaled(x[i : i + rows] @ y.T, convention).sum()) for i in range(0, len(x), rows))
        wrong = (total - float(each.sum())) / (len(x) * (len(x) - 1))
    return ClipScore(_above(value, convention), interval, None if wrong is None else _above(wrong, convention), len(x),
                     convention, encoder)


def _check(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ConfigError(f"unknown convention {convention!r}; choose {', '.join(CONVENTIONS)}.")


def _scaled(cosine: Array, convention: str) -> Array:
    if convention == "clipscore":
        return 2.5 * cosine.clip(0)
    return 100 * cosine if convention == "torchmetrics" else cosine


def _above(mean: float, convention: str) -> float:
    return max(mean, 0.0) if convention == "torchmetrics" else mean
