"""Handwritten digits, 8×8 grey: the test half of optdigits, as scikit-learn ships it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinygen.data.dataset import Dataset, check_split

SUMMARY = "1,797 handwritten digits, 8×8 grey, 10 classes"
LICENCE = "UCI Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998), CC BY 4.0"
LEVELS = 17


def load(split: str | None = None) -> Dataset:
    """The digits: images uint8 (1797, 8, 8, 1), labels 0..9.

    The source has 17 ink levels v = 0..16; they become (v·255 + 8) // 16 so that the range is 0..255, and
    `levels` brings them back exactly.

    split: 'train' or 'test', two disjoint halves (899 and 898) with the classes in equal shares; within a
    class the half is decided by a hash of the row. The file does not say who wrote which row, so the same 13
    writers appear in both halves: what is measured on the test half is new drawings, not new hands.
    """
    check_split(split)
    with np.load(Path(__file__).with_name("optdigits8.npz"), allow_pickle=False) as z:
        raw, labels = z["images"], z["labels"].astype(np.int64)
    images = ((raw.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)[..., None]
    data = Dataset(images, labels, label_names=[str(d) for d in range(10)], name="digits", licence=LICENCE)
    return data if split is None else data.subset(_train_half(labels) == (split == "train"))


def levels(images: np.ndarray) -> np.ndarray:
    """The ink levels 0..16 (uint8, same shape) nearest to uint8 images; exact on the set itself."""
    return ((images.astype(np.uint16) * 16 + 127) // 255).astype(np.uint8)


def _train_half(labels: np.ndarray) -> np.ndarray:
    """A mask of the training half: in each class, the rows with the smaller hashes."""
    train = np.zeros(len(labels), bool)
    # splitmix64's finaliser: a fixed shuffle of the row numbers, free of any generator's version
    h = np.arange(1, len(labels) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    spare = 1                               # an odd class gives its extra row to either half in turn
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(h[rows], kind="stable")]
        train[rows[:(len(rows) + spare) // 2]] = True
        spare ^= len(rows) & 1
    return train
