"""IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: big-endian, bare or gzip-compressed.

Bytes 0, 0, type, number of dimensions; the dimensions as uint32; the values.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinygen.data.dataset import Dataset
from tinygen.data.readers.files import (
    LIMIT,
    Source,
    as_label_array,
    cannot_read,
    head_of,
    is_idx,
    kind_of,
    read_exactly,
    regular_files,
    truncated,
)
from tinygen.errors import DataError

IDX_NAME = re.compile(r"idx\d-ubyte")
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path, max_bytes: int = LIMIT) -> np.ndarray:
    """The array of one IDX file, of its own shape, in native byte order. DataError if it is not whole."""
    return _array(Source(Path(path), None, max_bytes), Path(path))


def read(source: Source, label_names: Sequence[str] | None) -> Dataset:
    """A folder of IDX files (train-images-idx3-ubyte.gz …), or one images file with its labels beside it."""
    pairs, own_parts = _pairs(source)
    chosen = [pair for pair in pairs if not own_parts or source.split in (None, _part(pair[0]))]
    if not chosen:
        raise DataError(f"{source.path} has no {source.split} images among its IDX files; add the file "
                        f"{'train' if source.split == 'train' else 't10k'}-images-idx3-ubyte")
    images, labels = [], []
    for image_file, label_file in chosen:
        x = _array(source, image_file)
        if x.dtype != np.uint8:
            raise DataError(f"{image_file}: images must be unsigned bytes (IDX type 08); {x.dtype} was "
                            "found; convert them to 0..255")
        x = x[..., None] if x.ndim == 3 else x                                              # N, H, W, C
        if x.shape[-1] not in (1, 3):
            raise DataError(f"{image_file}: images must be N, H, W or N, H, W, 3; {x.shape} was found")
        images.append(x)
        if label_file is not None:
            y = _array(source, label_file)
            if len(y) != len(x):
                raise DataError(f"{label_file} has {len(y):,} labels but {image_file.name} has {len(x):,} "
                                "images; one of them belongs to another set")
            labels.append(y)
    if len({x.shape[1:] for x in images}) > 1:
        raise DataError(f"{source.path}: the image files differ in size ({_sizes(images)}); give one of them")
    joined: np.ndarray | None = None
    names: list[str] = []
    if len(labels) == len(images):
        joined, names = as_label_array(chosen[0][1], np.concatenate(labels), label_names)
        if label_names is None:                         # a class may occur in the other part alone
            others = [_array(source, pair[1]) for pair in pairs if pair not in chosen and pair[1] is not None]
            names = as_label_array(source.path, np.concatenate([joined, *others]), None)[1]
    data = Dataset(np.concatenate(images), joined, label_names=names, name=source.name)
    return data if own_parts else data.split(source.split)


def _sizes(images: list[np.ndarray]) -> str:
    return ", ".join("×".join(map(str, x.shape[1:])) for x in images)


def _pairs(source: Source) -> tuple[list[tuple[Path, Path | None]], bool]:
    """The image files, each with its labels file; whether their names tell a training from a test part."""
    folder = source.path if source.path.is_dir() else source.path.parent
    # decompressing a head is enough to tell; names are needed only to say which belongs to which
    found = [(f, _dimensions(f)) for f in regular_files(folder)]
    for f, ndim in found:
        if not ndim and IDX_NAME.search(f.name) and source.path in (folder, f):
            raise DataError(f"{f} is truncated or damaged: its name says IDX and its content does not; "
                            "download or copy it again")
    label_files = [f for f, ndim in found if ndim == 1]
    if source.path.is_dir():
        image_files = [f for f, ndim in found if ndim in (3, 4)]
        if not image_files:
            raise DataError(f"{folder} has IDX files but none with images (three dimensions); add the file "
                            "whose name ends in images-idx3-ubyte")
        image_files.sort(key=lambda f: (_part(f) != "train", f.name))
    else:
        if _dimensions(source.path) not in (3, 4):
            raise DataError(f"{source.path} is an IDX file of {_dimensions(source.path)} dimensions, not "
                            "images (three); give the images file, and the labels will be found beside it")
        image_files = [source.path]
    only = label_files[0] if len(label_files) == 1 and sum(n in (3, 4) for _, n in found) == 1 else None
    by_name = {_stem(f): f for f in label_files}
    own_parts = source.path.is_dir() and any(_part(f) for f in image_files)
    return [(f, by_name.get(_label_name(f), only)) for f in image_files], own_parts


def _label_name(images: Path) -> str:
    return re.sub(r"idx\d", "idx1", _stem(images).replace("images", "labels"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _part(path: Path) -> str | None:
    name = path.name.lower()
    return "test" if "t10k" in name or "test" in name else "train" if "train" in name else None


def _dimensions(path: Path) -> int:
    """The number of dimensions of an IDX file; 0 for any other."""
    if kind_of(path) != "idx":
        return 0
    return head_of(path)[0][3]


def _array(source: Source, path: Path) -> np.ndarray:
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else path.open("rb") as f:
            head = f.read(4)
            if not is_idx(head):
                raise DataError(f"{path} is not an IDX file: it should begin with 0, 0, a type and a number "
                                f"of dimensions, and begins with {head.hex(' ') or 'nothing'}")
            dtype, ndim = np.dtype(TYPES[head[2]]), head[3]
            dims = f.read(4 * ndim)
            if len(dims) < 4 * ndim:
                raise truncated(path, 4 * ndim, len(dims))
            shape = struct.unpack(f">{ndim}I", dims)
            wanted = math.prod(shape) * dtype.itemsize
            source.check(wanted, path)
            data = read_exactly(f, wanted)
            if len(data) < wanted:
                raise truncated(path, wanted, len(data))
            if f.read(1):
                raise _overlong(path, wanted)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file ({error}); download or copy it "
                        "again") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _overlong(path: Path, wanted: int) -> DataError:
    return DataError(f"{path} is longer than its header says ({wanted:,} bytes of data); it is damaged or "
                     "not an IDX file, so download or copy it again")
