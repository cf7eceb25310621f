"""Emoji at 32×32 in colour, each drawn by two hands (Noto and Twemoji), with names and categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinygen.data.dataset import Dataset, check_choice, check_split, hash_fraction

SUMMARY = "1,906 emoji by two hands, 32×32 colour on white, names as captions, 9 categories"
LICENCE = ("Noto Emoji (Google), Apache 2.0; Twemoji (Twitter, Inc. and other contributors), CC BY 4.0; "
           "names: Unicode, by way of emoji-datasource (MIT)")
HANDS = ("noto", "twemoji")
TEST_SHARE = 0.2


def load(split: str | None = None, hand: str = "noto") -> Dataset:
    """The emoji: images uint8 (1906, 32, 32, 3), labels the category 0..8, captions the Unicode names.

    hand: 'noto', 'twemoji', or 'both' (the first half Noto, the second half Twemoji, in the same order).
    split: 'train' or 'test' (a fifth), by a hash of the name; emoji that share a picture with another in
    either hand (some flags and families) go where the first of them goes. The two hands are split alike, so
    that image i of one is the same emoji as image i of the other for every split.
    """
    check_split(split)
    check_choice("hand", hand, (*HANDS, "both"))
    with np.load(Path(__file__).with_name("emoji32.npz"), allow_pickle=False) as z:
        drawn = {h: z[h] for h in HANDS}
        names = z["name"].tolist()
        category, subcategory = z["category"].astype(np.int64), z["subcategory"].astype(np.int64)
        category_names = z["category_names"].tolist()
    keep = np.ones(len(names), bool)
    if split is not None:
        test = hash_fraction(key.encode() for key in _families(names, drawn)) < TEST_SHARE
        keep = test if split == "test" else ~test
    chosen = HANDS if hand == "both" else (hand,)
    picked = [name for name, kept in zip(names, keep) if kept]
    return Dataset(
        images=np.concatenate([drawn[h][keep] for h in chosen]),
        labels=np.tile(category[keep], len(chosen)),
        captions=picked * len(chosen), label_names=category_names, name="emoji", licence=LICENCE,
        attributes={"subcategory": np.tile(subcategory[keep], len(chosen)),
                    "hand": np.repeat([HANDS.index(h) for h in chosen], len(picked)).astype(np.int64)})


def pairs(split: str | None = None) -> tuple[Dataset, Dataset]:
    """(Noto, Twemoji): two sets of equal length in which image i is the same emoji."""
    return load(split, "noto"), load(split, "twemoji")


def _families(names: list[str], drawn: dict[str, np.ndarray]) -> list[str]:
    """For each emoji the name of the first one that it is joined to by equal pictures, in whichever hand."""
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for images in drawn.values():
        first: dict[bytes, int] = {}
        for i, image in enumerate(images):
            a, b = root(first.setdefault(image.tobytes(), i)), root(i)
            parent[max(a, b)] = min(a, b)
    first_of_name: dict[str, int] = {}
    for i, name in enumerate(names):
        a, b = root(first_of_name.setdefault(name, i)), root(i)
        parent[max(a, b)] = min(a, b)
    return [names[root(i)] for i in range(len(names))]
