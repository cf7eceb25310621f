"""A set of images in memory, and the rules by which it is split into a training and a test part."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygen.errors import ConfigError, DtypeError, ShapeError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with what is known of them; everything is in memory and indexed alike.

    images: uint8, N, H, W, C with C = 1 (grey) or 3 (red, green, blue), values 0..255
    labels: int64 (N,), indices into `label_names`, or None
    captions: a list of N strings, or None
    label_names: the classes in the order of their indices (empty without labels)
    attributes: further int64 arrays of length N, by name
    Raises ShapeError or DtypeError if the parts do not fit each other.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    captions: list[str] | None = None
    label_names: list[str] = field(default_factory=list)
    name: str = ""
    licence: str = ""
    attributes: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8:
            raise DtypeError(f"Dataset.images must be uint8 with values 0..255; {self.images.dtype} arrived; "
                             "tinygen.data.to_uint8 converts images in [-1, 1]")
        if self.images.ndim != 4 or self.images.shape[3] not in (1, 3):
            raise ShapeError(f"Dataset.images must be N, H, W, C with C = 1 or 3; {self.images.shape} "
                             "arrived")
        n = len(self.images)
        for what, values in {"labels": self.labels, "captions": self.captions, **self.attributes}.items():
            if values is not None and len(values) != n:
                raise ShapeError(f"Dataset has {n} images but {len(values)} {what}; give one for each image")
        if self.labels is not None:
            if self.labels.dtype != np.int64 or self.labels.ndim != 1:
                raise DtypeError(f"Dataset.labels must be int64 (N,); {self.labels.dtype} "
                                 f"{self.labels.shape} arrived")
            if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.label_names):
                raise ShapeError(f"Dataset.labels run from {self.labels.min()} to {self.labels.max()} but "
                                 f"there are {len(self.label_names)} label_names; give one name for each "
                                 "class")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        parts = [f"{len(self)} images {'×'.join(map(str, self.shape))}"]
        parts += [f"{self.classes} classes"] if self.classes else []
        parts += ["captions"] if self.captions is not None else []
        return f"Dataset({self.name}: {', '.join(parts)})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        h, w, c = self.images.shape[1:]
        return h, w, c

    @property
    def classes(self) -> int:
        """The number of classes; 0 where there are no labels."""
        return len(self.label_names) if self.labels is not None else 0

    def subset(self, indices: np.ndarray | Sequence[int]) -> Dataset:
        """The images at `indices` (integers, or a boolean mask of length N), in that order."""
        pick = np.asarray(indices)
        pick = np.flatnonzero(pick) if pick.dtype == bool else pick.astype(np.int64)
        return Dataset(
            images=self.images[pick],
            labels=None if self.labels is None else self.labels[pick],
            captions=None if self.captions is None else [self.captions[i] for i in pick],
            label_names=self.label_names, name=self.name, licence=self.licence,
            attributes={key: values[pick] for key, values in self.attributes.items()})

    def split(self, part: str | None, test: float = 0.1) -> Dataset:
        """The 'train' or the 'test' part; None is the whole set.

        An image belongs to the test part if the hash of its pixels falls below `test`. The rule is stable:
        adding, removing or reordering images moves no other image across, and exact copies stay on one side.
        """
        check_split(part)
        if part is None:
            return self
        held_out = hash_fraction(image.tobytes() for image in self.images) < test
        return self.subset(held_out if part == "test" else ~held_out)


def hash_fraction(keys: Iterable[bytes]) -> np.ndarray:
    """A number in [0, 1) for each key: the first 53 bits of its SHA-256, the same on every machine."""
    heads = [int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 11 for key in keys]
    return np.array(heads, np.float64) / 2.0**53


def nearest(word: str, choices: Iterable[str]) -> str:
    """'; did you mean 'x'?' for the choice nearest to `word`, or an empty string if none is near."""
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{what} must be one of {', '.join(map(repr, choices))}, not {value!r}"
                          f"{nearest(str(value), choices)}")


def check_split(part: str | None, choices: Sequence[str] = ("train", "test")) -> None:
    """Raise ConfigError unless `part` is None or one of `choices`."""
    if part is not None:
        check_choice("split", part, choices)
