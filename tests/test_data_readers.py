"""Every format, written here byte by byte and read back; nothing but NumPy, Pillow and the library."""

import gzip
import io
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from tinygen import data
from tinygen.data.readers import read_idx

RNG = np.random.default_rng(0)


def idx_bytes(array, code=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def pictures(n, h=32, w=32, c=3):
    return RNG.integers(0, 256, (n, h, w, c), dtype=np.uint8)


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(autouse=True)
def no_other_frameworks(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)


# ---- IDX

@pytest.mark.parametrize("code, dtype",
                         [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_idx_of_every_type(tmp_path, code, dtype, wrap):
    array = RNG.normal(0, 50, (3, 4, 2)).astype(dtype)
    path = tmp_path / "any-name"
    path.write_bytes(wrap(idx_bytes(array, code)))
    got = read_idx(path)
    assert np.array_equal(got, array) and got.dtype == array.dtype.newbyteorder("=")


def fashion(folder, suffix, wrap, n_train=30, n_test=12):
    parts = {}
    for stem, n in (("train", n_train), ("t10k", n_test)):
        x, y = pictures(n, 28, 28, 1)[..., 0], RNG.permutation(np.arange(n) % 10).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte{suffix}").write_bytes(wrap(idx_bytes(x)))
        (folder / f"{stem}-labels-idx1-ubyte{suffix}").write_bytes(wrap(idx_bytes(y)))
        parts[stem] = x[..., None], y
    return parts


@pytest.mark.parametrize("suffix, wrap", [("", bytes), (".gz", gzip.compress)])
def test_fashion_mnist_layout(tmp_path, suffix, wrap):
    parts = fashion(tmp_path, suffix, wrap)
    (tmp_path / "README").write_text("not data")
    for split, stem in (("train", "train"), ("test", "t10k")):
        d = data.load(tmp_path, split)
        assert np.array_equal(d.images, parts[stem][0]) and np.array_equal(d.labels, parts[stem][1])
        assert d.labels.dtype == np.int64
    both = data.load(str(tmp_path))
    assert len(both) == 42 and np.array_equal(both.images[:30], parts["train"][0])
    names = [f"garment {i}" for i in range(10)]
    assert data.load(tmp_path, label_names=names).label_names == names


def test_parts_number_their_classes_alike(tmp_path):
    for stem, labels in (("train", [0, 1, 7]), ("t10k", [2, 2, 0])):
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(pictures(3, 4, 4, 1)[..., 0]))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(labels, np.uint8)))
    assert data.load(tmp_path, "test").classes == data.load(tmp_path, "train").classes == 8
    folder = tmp_path / "folder"
    for place in ("train/a", "train/b", "train/c", "val/c"):
        png(folder / place / "1.png", pictures(1, 3, 3)[0])
    assert data.load(folder, "test").labels.tolist() == [2] and data.load(folder, "test").classes == 3
    x = pictures(2)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_batch").write_bytes(pickle.dumps({"data": planes(x), "labels": [3, 1]}, 2))
    assert data.load(tmp_path / "test").classes == 10


def test_one_idx_file_finds_its_labels(tmp_path):
    parts = fashion(tmp_path, ".gz", gzip.compress)
    d = data.load(tmp_path / "t10k-images-idx3-ubyte.gz")
    assert np.array_equal(d.images, parts["t10k"][0]) and np.array_equal(d.labels, parts["t10k"][1])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    assert data.load(tmp_path / "t10k-images-idx3-ubyte.gz").labels is None


def test_idx_by_content_whatever_the_names(tmp_path):
    x, y = pictures(200, 9, 7), RNG.integers(0, 4, 200, dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx_bytes(x))
    (tmp_path / "b").write_bytes(gzip.compress(idx_bytes(y)))
    d = data.load(tmp_path)
    assert np.array_equal(d.images, x) and np.array_equal(d.labels, y)
    train, test = data.load(tmp_path, "train"), data.load(tmp_path, "test")
    assert len(train) + len(test) == 200 and 5 < len(test) < 40


# ---- CIFAR

def cifar10_binary(folder):
    parts = {"train": [], "test": []}
    for name, part in [(f"data_batch_{i}.bin", "train") for i in range(1, 6)] + [("test_batch.bin", "test")]:
        x, y = pictures(11), RNG.integers(0, 10, 11, dtype=np.uint8)
        (folder / name).write_bytes(np.concatenate([y[:, None], planes(x)], 1).tobytes())
        parts[part].append((x, y))
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    return {part: tuple(map(np.concatenate, zip(*batches))) for part, batches in parts.items()}


def test_cifar10_binary(tmp_path):
    parts = cifar10_binary(tmp_path)
    for split in ("train", "test"):
        d = data.load(tmp_path, split)
        assert np.array_equal(d.images, parts[split][0]) and np.array_equal(d.labels, parts[split][1])
        assert d.label_names == list("abcdefghij")
    assert np.array_equal(data.load(tmp_path).images, np.concatenate([parts["train"][0], parts["test"][0]]))
    one = data.load(tmp_path / "test_batch.bin")
    assert np.array_equal(one.images, parts["test"][0])


def test_cifar100_binary(tmp_path):
    x = pictures(40)
    coarse, fine = np.arange(40) % 20, np.arange(40) + 60
    rows = np.concatenate([coarse[:, None], fine[:, None], planes(x)], 1).astype(np.uint8)
    (tmp_path / "train.bin").write_bytes(rows[:30].tobytes())
    (tmp_path / "test.bin").write_bytes(rows[30:].tobytes())
    (tmp_path / "coarse_label_names.txt").write_text("\n".join(f"c{i}" for i in range(20)))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"f{i}" for i in range(100)))
    d = data.load(tmp_path)
    assert np.array_equal(d.images, x) and np.array_equal(d.labels, fine) and d.label_names[99] == "f99"
    d = data.load(tmp_path, "test", label="coarse")
    assert np.array_equal(d.labels, coarse[30:]) and d.label_names[3] == "c3"


def py2(value, module=b"numpy.core.multiarray"):
    """The opcodes that Python 2's cPickle (protocol 2) writes: every str a byte string."""
    if isinstance(value, dict):
        return b"}(" + b"".join(py2(k) + py2(v, module) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(py2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, np.ndarray):
        raw = value.tobytes()
        return (b"c" + module + b"\n_reconstruct\ncnumpy\nndarray\n" + py2(0) + b"\x85" + py2("b") + b"\x87R"
                + b"(" + py2(1) + py2(value.shape[0]) + py2(value.shape[1]) + b"\x86"
                + b"cnumpy\ndtype\n" + py2("u1") + py2(0) + py2(1) + b"\x87R("
                + py2(3) + py2("|") + b"NNN" + py2(-1) + py2(-1) + py2(0) + b"tb"
                + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb")
    raw = value.encode()
    return b"U" + bytes([len(raw)]) + raw


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_cifar10_python_as_python_2_wrote_it(tmp_path, module):
    x, y = pictures(30), RNG.integers(0, 10, 30).tolist()
    for i, name in enumerate(["data_batch_1", "data_batch_2", "test_batch"]):
        part = slice(10 * i, 10 * i + 10)
        batch = {"batch_label": "some", "labels": y[part], "data": planes(x)[part],
                 "filenames": [f"{k}.png" for k in range(10)]}
        (tmp_path / name).write_bytes(b"\x80\x02" + py2(batch, module) + b".")
    (tmp_path / "batches.meta").write_bytes(b"\x80\x02" + py2({"label_names": list("abcdefghij")}) + b".")
    d = data.load(tmp_path)
    assert np.array_equal(d.images, x) and d.labels.tolist() == y and d.label_names == list("abcdefghij")
    assert np.array_equal(data.load(tmp_path, "test").images, x[20:])


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key", [str, str.encode])
def test_cifar100_python_as_python_3_writes_it(tmp_path, protocol, key):
    x = pictures(20)
    fine, coarse = (np.arange(20) + 80).tolist(), np.arange(20).tolist()
    for name, part in (("train", slice(0, 15)), ("test", slice(15, 20))):
        batch = {key("data"): planes(x)[part], key("fine_labels"): fine[part],
                 key("coarse_labels"): coarse[part]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol))
    names = {key("fine_label_names"): [f"f{i}" for i in range(100)],
             key("coarse_label_names"): list("abcdefghijklmnopqrst")}
    (tmp_path / "meta").write_bytes(pickle.dumps(names, protocol))
    d = data.load(tmp_path)
    assert np.array_equal(d.images, x) and d.labels.tolist() == fine and d.label_names[80] == "f80"
    d = data.load(tmp_path, "test", label="coarse")
    assert d.labels.tolist() == coarse[15:] and d.label_names[0] == "a"


def test_cifar_labels_may_be_an_array_and_planes_in_fortran_order(tmp_path):
    x = pictures(6)
    batch = {"data": np.asfortranarray(planes(x)), "labels": np.arange(6)}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    d = data.load(tmp_path / "data_batch_1")
    assert np.array_equal(d.images, x) and d.labels.tolist() == list(range(6))


# ---- folders and zips of images

def test_folder_of_classes_in_natural_order(tmp_path):
    images = {}
    for name in ("class 10", "class 2", "class 1"):
        for i in (10, 9, 1):
            images[name, i] = pictures(1, 6, 5)[0]
            png(tmp_path / name / f"im{i}.png", images[name, i])
    (tmp_path / "class 1" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    png(tmp_path / ".hidden" / "x.png", pictures(1, 9, 9)[0])
    d = data.load(tmp_path)
    assert d.label_names == ["class 1", "class 2", "class 10"]
    assert d.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    expected = [images[name, i] for name in d.label_names for i in (1, 9, 10)]
    assert np.array_equal(d.images, expected) and d.name == tmp_path.name


def test_folder_without_classes_and_grey_policy(tmp_path):
    grey, colour = pictures(1, 4, 4, 1)[0, ..., 0], pictures(1, 4, 4)[0]
    png(tmp_path / "1.png", grey)
    png(tmp_path / "2.png", grey[::-1])
    d = data.load(tmp_path)
    assert d.images.shape == (2, 4, 4, 1) and d.labels is None and np.array_equal(d.images[0, ..., 0], grey)
    assert data.load(tmp_path, channels=3).images.shape == (2, 4, 4, 3)
    png(tmp_path / "3.png", colour)
    d = data.load(tmp_path)
    assert d.images.shape == (3, 4, 4, 3) and np.array_equal(d.images[0], np.stack([grey] * 3, -1))
    luma = data.load(tmp_path, channels=1).images[2, ..., 0]
    assert np.abs(luma - colour @ [0.299, 0.587, 0.114]).max() <= 1


def test_folder_in_two_parts(tmp_path):
    x = pictures(6, 3, 3)
    for i, image in enumerate(x):
        png(tmp_path / ("train" if i < 4 else "test") / "ab"[i % 2] / f"{i}.png", image)
    train, test = data.load(tmp_path, "train"), data.load(tmp_path, "test")
    assert np.array_equal(train.images, x[[0, 2, 1, 3]]) and train.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(test.images, x[[4, 5]]) and test.label_names == ["a", "b"]
    assert len(data.load(tmp_path)) == 6 and data.load(tmp_path).label_names == ["a", "b"]


def test_folder_in_one_part_is_split_by_hash(tmp_path):
    for i in range(120):
        png(tmp_path / f"{i}.png", pictures(1, 2, 2)[0])
    train, test = data.load(tmp_path, "train"), data.load(tmp_path, "test")
    assert len(train) + len(test) == 120 and 0 < len(test) < 30


def test_modes_transparency_palette_and_16_bit(tmp_path):
    colour, alpha = pictures(1, 4, 4)[0], pictures(1, 4, 4, 1)[0]
    deep = RNG.integers(0, 65536, (4, 4), dtype=np.uint16)
    png(tmp_path / "1.png", np.concatenate([colour, alpha], -1))
    Image.fromarray(colour).quantize(8).save(tmp_path / "2.png")
    Image.fromarray(deep).save(tmp_path / "3.png")
    Image.fromarray(colour).convert("1").save(tmp_path / "4.png")
    Image.new("P", (4, 4), 0).save(tmp_path / "5.png", transparency=0)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "6.tiff")
    Image.fromarray(np.stack([colour[..., 0], alpha[..., 0]], -1)).save(tmp_path / "7.png")
    d = data.load(tmp_path).images.astype(int)
    assert d.shape == (7, 4, 4, 3)
    assert np.abs(d[0] - white_over(colour, alpha)).max() <= 1
    assert np.array_equal(d[1], np.asarray(Image.fromarray(colour).quantize(8).convert("RGB")))
    assert np.array_equal(d[2][..., 0], np.floor(deep / 65535 * 255 + 0.5))
    assert np.ptp(d[2], axis=-1).max() == 0
    assert set(np.unique(d[3])) <= {0, 255}
    assert (d[4] == 255).all()
    assert np.abs(d[5] - colour).max() <= 1
    assert np.abs(d[6][..., 0] - white_over(colour[..., 0], alpha[..., 0])).max() <= 1


def white_over(value, alpha):
    return (value * alpha.astype(float) + 255 * (255 - alpha.astype(float))) / 255


def test_mixed_sizes_are_covered_and_cropped(tmp_path):
    step = np.zeros((40, 80, 3), np.uint8)
    step[:, 40:] = 255
    png(tmp_path / "wide.png", step)
    png(tmp_path / "tall.png", step.transpose(1, 0, 2))
    png(tmp_path / "same.png", pictures(1, 16, 16)[0])
    d = data.load(tmp_path, size=16)
    same, tall, wide = d.images
    assert d.images.shape == (3, 16, 16, 3)
    assert np.array_equal(same, np.asarray(Image.open(tmp_path / "same.png")))
    assert (wide[:, :6] == 0).all() and (wide[:, 10:] == 255).all()
    assert np.array_equal(tall, wide.transpose(1, 0, 2))
    assert data.load(tmp_path, size=(10, 30)).images.shape == (3, 10, 30, 3)
    assert data.load(tmp_path, size=(33, 7)).images.shape == (3, 33, 7, 3)


def test_camera_orientation_is_applied(tmp_path):
    array = pictures(1, 4, 6)[0]
    exif = Image.Exif()
    exif[0x0112] = 6                            # turn clockwise by a quarter
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    d = data.load(tmp_path)
    assert np.array_equal(d.images[0], np.rot90(array, -1))


@pytest.mark.parametrize("root", ["", "wrapped/twice/"])
def test_zip_of_images(tmp_path, root):
    x = pictures(4, 5, 5)
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{root}readme.txt", "hello")
        z.writestr("__MACOSX/cat/._1.png", b"junk")
        for i, image in enumerate(x):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            z.writestr(f"{root}{('cat', 'dog')[i // 2]}/{i}.png", buffer.getvalue())
    d = data.load(path)
    assert np.array_equal(d.images, x)
    assert d.label_names == ["cat", "dog"] and d.labels.tolist() == [0, 0, 1, 1]
    assert d.name == "set"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    png(tmp_path / "real" / "1.png", pictures(1, 3, 3)[0])
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "real")
    (root / "a" / "loop").symlink_to(root)
    assert len(data.load(root)) == 1


# ---- npz

@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    x, y = pictures(5, 4, 6), np.arange(5) % 2
    path = tmp_path / "a.npz"
    save(path, images=x, labels=y, captions=np.array(list("vwxyz")), label_names=np.array(["p", "q"]))
    d = data.load(path)
    assert np.array_equal(d.images, x) and np.array_equal(d.labels, y) and d.labels.dtype == np.int64
    assert d.captions == list("vwxyz") and d.label_names == ["p", "q"] and d.name == "a"
    save(path, x, y.astype(np.uint8))           # arr_0, arr_1, as guided-diffusion's samples have them
    d = data.load(path)
    assert np.array_equal(d.images, x) and np.array_equal(d.labels, y) and d.label_names == ["0", "1"]
    save(path, images=np.asfortranarray(x[..., 0]))
    assert np.array_equal(data.load(path).images, x[..., :1]) and data.load(path).classes == 0
