"""The judge of text-to-image models on shapes32: a parser that reads every picture of the set without error.

No network stands between the picture and the score. Agreement is the share of pictures that show what their caption
says, attribute by attribute and in all five (joint); valid are the pictures that the set could contain, or nearly, by
the distance to the nearest of its 46,656 (data/shapes_parser.py). A picture that is no drawing is still read as the
nearest one, so `joint` is quoted with `valid`, or as `joint_valid`.

The ceiling is what the same parser makes of real held-out pictures on the same path: 1 for clean ones; give the real
pictures after your own decoder (an autoencoder's reconstructions, say) to learn what the path alone costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ShapeError

from ._arrays import Array, as_images, require_count
from .bootstrap import Interval, share_interval
from .judge import kl_to_uniform

ATTRIBUTES = ("shape", "colour", "size", "cell", "background")
SCORES = (*ATTRIBUTES, "joint", "valid", "valid_lenient", "joint_valid")
CEILING_IMAGES = 1000  # half a second of the parser's time


@dataclass(frozen=True)
class ShapesAgreement:
    """Shares of N pictures by name (SCORES), Wilson's intervals, and the parser's own on real pictures."""

    shares: dict[str, float]
    intervals: dict[str, Interval]
    ceiling: dict[str, float]
    ceiling_intervals: dict[str, Interval]
    chance: dict[str, float]  # of pictures that ignore their captions: one over the number of choices
    residual: float  # median distance to the nearest picture of the set, RMSE on the scale 0..255
    n: int
    n_ceiling: int
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """shapes agreement[parser | path | N]"""
        return f"shapes agreement[exact parser | native 32x32 | N={self.n}, ceiling {self.n_ceiling}]"


@dataclass(frozen=True)
class ShapesCoverage:
    """Which of the 5,184 captions N pictures show, whatever was asked for."""

    captions: int  # different ones, among the valid pictures
    expected: float  # of as many pictures with captions drawn evenly, all valid
    expected_sd: float
    of: int  # captions that there are
    valid: float  # share of the pictures
    valid_interval: Interval
    kl: dict[str, float]  # nats, of each attribute among the valid pictures to uniform; NaN if none is
    n: int

    @property
    def label(self) -> str:
        """shapes coverage[parser | path | N]"""
        return f"shapes coverage[exact parser | native 32x32 | N={self.n}]"


def shapes_agreement(
    images: npt.ArrayLike,
    captions: Sequence[str] | npt.ArrayLike,
    *,
    ceiling: tuple[npt.ArrayLike, Sequence[str]] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> ShapesAgreement:
    """How well pictures N,32,32,3 (uint8, or float in [0, 1]) follow their canonical captions.

    captions: N texts, or scenes N,5 as integers (data/shapes.py). ceiling: (real held-out pictures, their captions);
    None takes up to 1,000 of the set's test part, drawn by `seed`. Raises ShapeError, DtypeError, NonFiniteError, and
    ConfigError for a text that is no caption.
    """
    shares, right, residual = _judged(images, captions, "images")
    if ceiling is None:
        from tinygen.data import shapes

        held = shapes.load("test")
        pick = np.sort(np.random.default_rng(seed).permutation(len(held))[:CEILING_IMAGES])
        assert held.captions is not None
        ceiling = held.images[pick], [held.captions[i] for i in pick]
    top, top_right, _ = _judged(ceiling[0], ceiling[1], "ceiling")
    n, m = len(next(iter(right.values()))), len(next(iter(top_right.values())))
    notes = (f"{n - int(right['valid'].sum())} of {n} pictures are no drawing of the set (RMSE above 8); their "
             "attributes are those of the nearest.",) if shares["valid"] < 1 else ()
    choices = _choices()
    chance = {**{k: 1 / c for k, c in choices.items()}, "joint": 1 / int(np.prod(list(choices.values())))}
    return ShapesAgreement(
        shares, {k: share_interval(int(v.sum()), n, level=level) for k, v in right.items()}, top,
        {k: share_interval(int(v.sum()), m, level=level) for k, v in top_right.items()}, chance, residual, n, m, notes)


def shapes_coverage(images: npt.ArrayLike, *, level: float = 0.95) -> ShapesCoverage:
    """How many captions pictures N,32,32,3 show, beside what even draws would (the coupon collector's mean and sd).

    Raises ShapeError, DtypeError, NonFiniteError.
    """
    parsed = _parsed(images, "images")
    valid, scenes = parsed.strict, parsed.scenes[parsed.strict]
    choices = _choices()
    total, n = int(np.prod(list(choices.values()))), len(parsed.rmse)
    missed, both = (1 - 1 / total) ** n, (1 - 2 / total) ** n  # that one caption, or two, are not drawn in n
    variance = total * missed + total * (total - 1) * both - (total * missed) ** 2
    kl = {k: kl_to_uniform(np.bincount(scenes[:, j], minlength=c) / len(scenes)) if len(scenes) else float("nan")
          for j, (k, c) in enumerate(choices.items())}
    return ShapesCoverage(len(np.unique(scenes, axis=0)), total * (1 - missed), float(np.sqrt(max(variance, 0.0))),
                          total, float(valid.mean()), share_interval(int(valid.sum()), n, level=level), kl, n)


def _choices() -> dict[str, int]:
    from tinygen.data import shapes

    return {k: len(v) for k, v in shapes.LABELS.items()}


def _parsed(images: npt.ArrayLike, name: str):
    from tinygen.data.shapes_parser import parse_images

    x = as_images(images, name)
    if x.shape[1:] != (32, 32, 3):
        raise ShapeError(f"{name} are {'x'.join(map(str, x.shape[1:]))}; the parser of shapes reads 32x32x3.")
    require_count(name, len(x), 1, "the parser of shapes")
    return parse_images(np.asarray(images) if np.asarray(images).dtype == np.uint8 else 2 * x - 1)


def _judged(images: npt.ArrayLike, captions: Sequence[str] | npt.ArrayLike, name: str):
    """(shares by name, the same before averaging N bool, median residual)"""
    parsed = _parsed(images, name)
    scenes = _scenes(captions, len(parsed.rmse), name)
    agree = parsed.scenes == scenes
    joint = agree.all(1)
    right = {**dict(zip(ATTRIBUTES, agree.T)), "joint": joint, "valid": parsed.strict, "valid_lenient": parsed.lenient,
             "joint_valid": joint & parsed.strict}
    return {k: float(v.mean()) for k, v in right.items()}, right, float(np.median(parsed.rmse))


def _scenes(captions: Sequence[str] | npt.ArrayLike, n: int, name: str) -> Array:
    from tinygen.data.shapes import parse_caption

    a = np.asarray(captions)
    if len(a) != n:
        raise ShapeError(f"{name} holds {n} pictures and {len(a)} captions arrived; one each is needed.")
    if a.dtype.kind in "iu":
        if a.shape != (n, 5):
            raise ShapeError(f"scenes are integers N,5, one of data.shapes.Scene each; got {a.shape}.")
        return a
    return np.array([parse_caption(str(text)) for text in a])
