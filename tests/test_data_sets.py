"""The embedded sets, Dataset itself, and how a set is found by its name."""

import hashlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tinygen import data
from tinygen.data import digits, emoji
from tinygen.errors import ConfigError, DataError, DtypeError, ShapeError


def keys(dataset):
    return [image.tobytes() for image in dataset.images]


def test_digits():
    d = data.load("digits")
    assert d.images.shape == (1797, 8, 8, 1) and d.images.dtype == np.uint8 and d.labels.dtype == np.int64
    assert d.shape == (8, 8, 1) and d.classes == 10 and d.captions is None and "CC BY 4.0" in d.licence
    assert d.images.min() == 0 and d.images.max() == 255
    assert repr(d) == "Dataset(digits: 1797 images 8×8×1, 10 classes)"


def test_digit_levels_come_back_exactly():
    v = np.arange(17, dtype=np.uint16)
    grey = ((v * 255 + 8) // 16).astype(np.uint8)
    assert np.array_equal(digits.levels(grey), v) and len(set(grey.tolist())) == 17
    assert set(np.unique(digits.levels(data.load("digits").images))) == set(range(17))


def test_digit_halves_are_stratified_disjoint_and_stable():
    train, test = data.load("digits", "train"), data.load("digits", split="test")
    assert (len(train), len(test)) == (899, 898)
    assert not set(keys(train)) & set(keys(test))
    counts = np.bincount(train.labels) - np.bincount(test.labels)
    assert np.abs(counts).max() <= 1
    # no image may ever change sides, or scores recorded earlier would compare other sets
    assert hashlib.sha256(test.images.tobytes()).hexdigest()[:16] == "ab952552d7882b1a"


def test_emoji_hands_are_paired_in_every_split():
    whole = data.load("emoji")
    assert whole.images.shape == (1906, 32, 32, 3) and whole.classes == 9
    assert whole.captions[0] == "grinning face" and whole.label_names[6] == "Smileys & Emotion"
    for split in (None, "train", "test"):
        noto, twemoji = emoji.pairs(split)
        both = data.load("emoji", split, hand="both")
        n = len(noto)
        assert noto.captions == twemoji.captions == both.captions[:n] == both.captions[n:]
        assert np.array_equal(noto.labels, twemoji.labels)
        assert np.array_equal(both.images, np.concatenate([noto.images, twemoji.images]))
        assert both.attributes["hand"].tolist() == [0] * n + [1] * n
        assert not np.array_equal(noto.images, twemoji.images)


def test_emoji_split_keeps_equal_pictures_and_names_together():
    for hand in emoji.HANDS:
        train, test = data.load("emoji", "train", hand=hand), data.load("emoji", "test", hand=hand)
        assert len(train) + len(test) == 1906 and 0.17 < len(test) / 1906 < 0.24
        assert not set(keys(train)) & set(keys(test))
        assert not set(train.captions) & set(test.captions)


def test_generic_split_is_stable_under_reordering_and_addition():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 4, 4, 1), dtype=np.uint8)
    images[1] = images[0]
    side = defaultdict(set)
    for order in (np.arange(400), rng.permutation(400), np.arange(100)):
        d = data.Dataset(images[order])
        train, test = d.split("train"), d.split("test")
        assert len(train) + len(test) == len(d)
        for part, name in ((train, "train"), (test, "test")):
            for key in keys(part):
                side[key].add(name)
    assert all(len(names) == 1 for names in side.values())
    assert 20 < sum(names == {"test"} for names in side.values()) < 70


def test_subset_by_indices_and_mask():
    d = data.load("emoji", hand="noto")
    some = d.subset([5, 2, 2])
    assert some.captions == [d.captions[5], d.captions[2], d.captions[2]]
    assert np.array_equal(some.labels, d.labels[[5, 2, 2]])
    assert np.array_equal(some.attributes["subcategory"], d.attributes["subcategory"][[5, 2, 2]])
    assert len(d.subset(d.labels == 3)) == 131


@pytest.mark.parametrize("fields, error, text", [
    ({"images": np.zeros((2, 4, 4, 3), np.float32)}, DtypeError,
     "Dataset.images must be uint8 with values 0..255; float32 arrived; tinygen.data.to_uint8 converts "
     "images in [-1, 1]"),
    ({"images": np.zeros((2, 4, 4), np.uint8)}, ShapeError,
     "Dataset.images must be N, H, W, C with C = 1 or 3; (2, 4, 4) arrived"),
    ({"images": np.zeros((2, 4, 4, 1), np.uint8), "captions": ["a"]}, ShapeError,
     "Dataset has 2 images but 1 captions; give one for each image"),
    ({"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.zeros(2, np.int32)}, DtypeError,
     "Dataset.labels must be int64 (N,); int32 (2,) arrived"),
    ({"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": np.array([0, 3]), "label_names": ["a", "b"]},
     ShapeError, "Dataset.labels run from 0 to 3 but there are 2 label_names; give one name for each class"),
])
def test_dataset_parts_must_fit(fields, error, text):
    with pytest.raises(error) as caught:
        data.Dataset(**fields)
    assert str(caught.value) == text


@pytest.mark.parametrize("call, error, text", [
    (lambda: data.load("digts"), ConfigError,
     "there is no data set 'digts'; did you mean 'digits'? The embedded sets are digits, emoji, shapes; "
     "anything else is taken for the path of a file or folder, and none of that name exists"),
    (lambda: data.load("qqq"), ConfigError,
     "there is no data set 'qqq'; the embedded sets are digits, emoji, shapes; anything else is taken for "
     "the path of a file or folder, and none of that name exists"),
    (lambda: data.load("./no/such"), DataError,
     "./no/such: no such file or folder; give the path of a folder of images, IDX or CIFAR files, an .npz or "
     "a zip of images"),
    (lambda: data.load("digits", "tets"), ConfigError,
     "split must be one of 'train', 'test', not 'tets'; did you mean 'test'?"),
    (lambda: data.load("emoji", hand="nato"), ConfigError,
     "hand must be one of 'noto', 'twemoji', 'both', not 'nato'; did you mean 'noto'?"),
    (lambda: data.load("emoji", hnad="noto"), ConfigError,
     "the data set emoji has no option 'hnad'; did you mean 'hand'? Its options are: hand"),
    (lambda: data.load("digits", size=8), ConfigError,
     "the data set digits has no option 'size'; its options are: none"),
    (lambda: data.load("shapes", size=64), ConfigError,
     "shapes are drawn at 32 pixels only, not 64; leave the option size out"),
    (lambda: data.load("shapes", label="color"), ConfigError,
     "label must be one of 'shape', 'colour', 'size', 'cell', 'background', not 'color'; did you "
     "mean 'colour'?"),
    (lambda: data.load("shapes", "compositonal"), ConfigError,
     "split must be one of 'train', 'test', 'compositional', not 'compositonal'; did you mean "
     "'compositional'?"),
    (lambda: data.describe("shape"), ConfigError,
     "there is no data set 'shape'; did you mean 'shapes'? The embedded sets are digits, emoji, shapes"),
])
def test_unknown_names_are_answered_with_the_nearest(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_names_and_licences():
    assert data.names() == ["digits", "emoji", "shapes"]
    for name in data.names():
        summary, licence = data.describe(name)
        assert summary and licence
    notice = (Path(data.__file__).parent / "LICENSES.md").read_text("utf-8")
    for words in ("CC BY 4.0", "Apache License", "Twitter, Inc.", "Google LLC", "Cal Henderson", "Unicode"):
        assert words in notice


def test_import_stays_light():
    code = ("import sys, tinygen.data as d; d.load('digits'); "
            "print([m for m in ('PIL', 'scipy', 'numba', 'torch', 'torchvision') if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
