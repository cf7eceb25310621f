"""The loader, conversions, contact sheets and PNG files."""

import errno
import os

import numpy as np
import pytest

from tinygen import Tensor, data
from tinygen.errors import ConfigError, DataError, DtypeError, NonFiniteError, ShapeError
from tinygen.rng import Rng


def numbered(n, width=3):
    """Images that carry their own number, in a left column that differs from the right one."""
    images = np.zeros((n, 2, width, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return data.Dataset(images, np.arange(n) % 3, [f"number {i}" for i in range(n)], ["a", "b", "c"])


def test_batch_has_all_parts_of_the_same_images():
    batch = data.Loader(numbered(20), 8, Rng(0)).batch(3)
    assert isinstance(batch.images, Tensor) and batch.images.shape == (8, 2, 3, 1) and len(batch) == 8
    x = batch.images.numpy()
    assert x.dtype == np.float32 and x.min() == -1 and batch.index.dtype == batch.labels.dtype == np.int64
    assert np.array_equal(np.round((x[:, 0, 0, 0] + 1) * 127.5), batch.index)
    assert np.array_equal(batch.labels, batch.index % 3)
    assert batch.captions == [f"number {i}" for i in batch.index]


def test_missing_labels_and_captions_stay_none():
    batch = data.Loader(data.Dataset(np.zeros((4, 2, 2, 3), np.uint8)), 2, Rng(0)).batch(0)
    assert batch.labels is None and batch.captions is None


def test_resume_is_exact_because_batches_have_no_history():
    d = numbered(50)
    straight = data.Loader(d, 8, Rng(5), flip=True)
    first = [straight.batch(i) for i in range(20)]
    resumed = data.Loader(d, 8, Rng(5), flip=True)
    for i, batch in enumerate(resumed.batches(start=11, stop=20), start=11):
        assert np.array_equal(batch.images.numpy(), first[i].images.numpy())
        assert np.array_equal(batch.index, first[i].index)
    # out of order, too
    assert np.array_equal(resumed.batch(2).images.numpy(), first[2].images.numpy())
    it = iter(resumed)
    assert np.array_equal(next(it).index, first[0].index) and np.array_equal(next(it).index, first[1].index)
    assert not np.array_equal(data.Loader(d, 8, Rng(6)).batch(0).index, first[0].index)


def test_each_epoch_visits_every_image_once():
    loader = data.Loader(numbered(24), 8, Rng(1))
    orders = [np.concatenate([loader.indices(3 * e + k) for k in range(3)]) for e in range(4)]
    assert all(np.array_equal(np.sort(order), np.arange(24)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert loader.batches_per_epoch == 3 and [loader.epoch(i) for i in (0, 2, 3, 11)] == [0, 0, 1, 3]


def test_drop_last_leaves_the_tail_of_each_permutation_out():
    loader = data.Loader(numbered(27), 8, Rng(1))
    assert loader.batches_per_epoch == 3
    missed = set()
    for e in range(12):
        seen = np.concatenate([loader.indices(3 * e + k) for k in range(3)])
        assert len(set(seen.tolist())) == 24
        missed |= set(range(27)) - set(seen.tolist())
    assert len(missed) > 15                     # others each time


@pytest.mark.parametrize("n, batch, drop_last", [(27, 8, False), (5, 8, True), (5, 8, False), (3, 8, True),
                                                 (1, 4, True)])
def test_wrapping_consumes_every_permutation_fully(n, batch, drop_last):
    loader = data.Loader(numbered(n), batch, Rng(2), drop_last=drop_last)
    stream = np.concatenate([loader.indices(i) for i in range(n * 3)])
    assert all(len(loader.indices(i)) == batch for i in range(4))
    for epoch in stream.reshape(-1, n):
        assert np.array_equal(np.sort(epoch), np.arange(n))
    assert loader.batches_per_epoch == n / batch


def test_streams_are_apart_by_name():
    d = numbered(50)
    loaders = data.Loader(d, 8, Rng(0)), data.Loader(d, 8, Rng(0), name="eval")
    assert not np.array_equal(loaders[0].indices(0), loaders[1].indices(0))


def test_flips_mirror_about_half_the_images_each_by_itself():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 4, 5, 3), dtype=np.uint8)
    loader = data.Loader(data.Dataset(images), 64, Rng(3), flip=True)
    flipped = []
    for i in range(20):
        batch = loader.batch(i)
        plain = data.to_float(images[batch.index])
        x = batch.images.numpy()
        same, mirrored = (x == plain).all((1, 2, 3)), (x == plain[:, :, ::-1]).all((1, 2, 3))
        assert (same ^ mirrored).all()
        flipped.append(mirrored)
    assert abs(np.mean(flipped) - 0.5) < 0.05 and not np.array_equal(flipped[0], flipped[1])
    unflipped = data.Loader(data.Dataset(images), 64, Rng(3))
    assert np.array_equal(unflipped.batch(4).index, loader.batch(4).index)


def test_impossible_loaders():
    with pytest.raises(ConfigError, match="batch size must be at least 1, not 0"):
        data.Loader(numbered(4), 0, Rng(0))
    empty = numbered(4).subset([])
    with pytest.raises(ConfigError, match=r"the data set \(unnamed\) has no images to make batches of"):
        data.Loader(empty, 2, Rng(0))
    with pytest.raises(ConfigError, match="batches are counted from 0; -1 was asked for"):
        data.Loader(numbered(4), 2, Rng(0)).batch(-1)


def test_bytes_to_floats_and_back():
    v = np.arange(256, dtype=np.uint8)
    x = data.to_float(v)
    assert x.dtype == np.float32 and x[0] == -1 and x[255] == 1
    assert np.array_equal(data.to_uint8(x), v) and np.array_equal(data.to_uint8(Tensor(x)), v)
    assert data.to_uint8(np.array([-9, 0, 9, np.inf, -np.inf])).tolist() == [0, 128, 255, 255, 0]    # half up
    with pytest.raises(DtypeError, match="to_float takes uint8 images with values 0..255; int64 arrived"):
        data.to_float(np.arange(3))
    with pytest.raises(DtypeError, match=r"to_uint8 takes float images in \[-1, 1\]; uint8 arrived"):
        data.to_uint8(v)
    with pytest.raises(NonFiniteError, match="to_uint8 got 1 NaN among 2 pixel values; an image with NaN"):
        data.to_uint8(np.array([0.0, np.nan]))


def test_grid():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    sheet = data.grid(images, columns=3, pad=1, scale=2, background=200)
    assert sheet.shape == (2 * 4 + 3, 3 * 6 + 4) and sheet.dtype == np.uint8
    assert (sheet[1:5, 8:14] == 1).all() and (sheet[6:10, 1:7] == 3).all()
    assert (sheet[6:10, 15:21] == 200).all()
    assert data.grid(np.zeros((7, 4, 4, 3), np.float32)).shape == (3 * 5 + 1, 3 * 5 + 1, 3)
    assert data.grid(images[:2], columns=8, pad=0).shape == (2, 6)
    for bad in (np.zeros((0, 4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(ShapeError, match="grid takes at least one image as N, H, W, C with C = 1 or 3"):
            data.grid(bad)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)])
def test_save_png(tmp_path, shape):
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(b"older")
    data.save_png(path, array)
    assert np.array_equal(np.asarray(Image.open(path)).reshape(shape), array)
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_save_png_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError) as caught:
        data.save_png(path, np.zeros((3, 3), np.uint8))
    assert str(caught.value) == (f"cannot write the picture {path}: No space left on device; make room, or "
                                 "choose a folder that exists and can be written to")
    assert path.read_bytes() == b"older" and [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_save_png_refuses_what_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="cannot write the picture .*No such file or directory; make room"):
        data.save_png(tmp_path / "no" / "a.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(DtypeError, match="save_png takes uint8; float32 arrived"):
        data.save_png(tmp_path / "a.png", np.zeros((3, 3), np.float32))
    with pytest.raises(ShapeError, match=r"takes one image as H, W or H, W, 1 or H, W, 3; \(3, 3, 4\)"):
        data.save_png(tmp_path / "a.png", np.zeros((3, 3, 4), np.uint8))


def test_a_batch_made_ahead_is_the_batch():
    plain, ahead = (data.Loader(numbered(20), 7, Rng(3), flip=True) for _ in range(2))
    ahead.prepare(4)
    ready = ahead._ready[1]
    assert ahead.batch(4) is ready and ahead._ready is None
    assert np.array_equal(ready.images.data, plain.batch(4).images.data)
    ahead.prepare(5)
    assert np.array_equal(ahead.batch(9).images.data, plain.batch(9).images.data)
