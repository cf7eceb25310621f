"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as binary records and as pickled Python batches.

A binary record is the label (CIFAR-100: coarse, fine) and 3,072 bytes: the red, green and blue planes of
32×32. A Python batch is a dict with 'data' (N, 3072) and 'labels' ('fine_labels', 'coarse_labels').
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinygen.data.dataset import Dataset
from tinygen.data.readers.files import (
    CIFAR10_RECORD,
    CIFAR100_RECORD,
    Source,
    as_label_array,
    binary_classes,
    kind_of,
    read_file,
    regular_files,
)
from tinygen.data.readers.safe_pickle import load_pickle
from tinygen.errors import DataError

BATCH_NAME = re.compile(r"(data_batch_\d+|test_batch|train|test)(\.bin)?")
LABEL_KEYS = {"fine": ("labels", "fine_labels"), "coarse": ("coarse_labels",)}
NAME_KEYS = {"fine": ("label_names", "fine_label_names"), "coarse": ("coarse_label_names",)}


def read_binary(source: Source, label: str, label_names: Sequence[str] | None) -> Dataset:
    """data_batch_1.bin … test_batch.bin, or train.bin and test.bin; one such file alone will do."""
    files = _batches(source, "cifar-binary")
    source.check(sum(f.stat().st_size for f in files), source.path)
    images, labels = [], []
    for file in files:
        raw = read_file(source, file)
        classes = binary_classes(file, len(raw))
        if label == "coarse" and classes != 100:
            raise DataError(f"{file} is CIFAR-10, which has no coarse labels; leave label='coarse' out")
        rows = np.frombuffer(raw, np.uint8).reshape(-1, CIFAR10_RECORD if classes == 10 else CIFAR100_RECORD)
        images.append(_planes(rows[:, -3072:]))
        labels.append(rows[:, 0 if classes == 10 or label == "coarse" else 1])
    names = label_names or _text_names(_folder(source), label) or _numbers(classes, label)
    return _dataset(source, images, labels, names)


def read_python(source: Source, label: str, label_names: Sequence[str] | None) -> Dataset:
    """data_batch_1 … test_batch, or train and test, unpickled without running anything; one alone will do."""
    images, labels = [], []
    for file in _batches(source, "cifar-python"):
        batch = load_pickle(file, read_file(source, file))
        data, found = batch.get("data"), [batch[k] for k in LABEL_KEYS[label] if k in batch]
        if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (3072,)):
            what = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else f"keys {sorted(batch)}"
            raise DataError(f"{file} is a pickle but not a CIFAR batch: 'data' must be uint8 (N, 3072), and "
                            f"{what} was found; give the folder of CIFAR's own batches")
        if not found:
            raise DataError(f"{file} has no {label} labels; its keys are {sorted(batch)}")
        y = np.asarray(found[0]) if isinstance(found[0], np.ndarray) or _whole(found[0]) else None
        if y is None or len(y) != len(data):
            raise DataError(f"{file} has {len(data):,} images but its labels are not as many whole numbers; "
                            "it is damaged, so download or copy it again")
        images.append(_planes(data))
        labels.append(y)
        source.check(sum(x.nbytes for x in images), source.path)
    names = label_names or _pickled_names(source, label) or _numbers(10 if "labels" in batch else 100, label)
    return _dataset(source, images, labels, names)


def _batches(source: Source, kind: str) -> list[Path]:
    if not source.path.is_dir():
        return [source.path]
    _check_names(source, ".bin" if kind == "cifar-binary" else "", kind)
    files = [f for f in regular_files(source.path) if "meta" not in f.name and kind_of(f) == kind]
    files.sort(key=_is_test)                            # stable: the training batches stay in natural order
    wanted = [f for f in files if source.split is None or _is_test(f) == (source.split == "test")]
    if not wanted:
        raise DataError(f"{source.path} has no {source.split} batch among "
                        f"{', '.join(f.name for f in files) or 'its files'}; add "
                        f"{'test_batch or test' if source.split == 'test' else 'data_batch_1 … 5 or train'}, "
                        "whole and under CIFAR's own name")
    return wanted


def _check_names(source: Source, suffix: str, kind: str) -> None:
    """DataError if a file has the name of a batch that is wanted but not the content of one."""
    for file in regular_files(source.path):
        named = BATCH_NAME.fullmatch(file.name) and file.suffix == suffix
        part = "test" if _is_test(file) else "train"
        if named and source.split in (None, part) and kind_of(file) != kind:
            raise DataError(f"{file} is truncated or damaged: its {file.stat().st_size:,} bytes are no CIFAR "
                            "batch (whole records of 3,073 or 3,074 bytes, or a pickle); download or copy it "
                            "again")


def _is_test(path: Path) -> bool:
    return path.name.startswith("test")


def _folder(source: Source) -> Path:
    return source.path if source.path.is_dir() else source.path.parent


def _planes(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))          # N, H, W, C


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 65536 for v in values)


def _dataset(source: Source, images: list[np.ndarray], labels: list[np.ndarray],
             names: Sequence[str] | None) -> Dataset:
    y, label_names = as_label_array(source.path, np.concatenate(labels), names)
    data = Dataset(np.concatenate(images), y, label_names=label_names, name=source.name)
    return data if source.path.is_dir() else data.split(source.split)


def _numbers(classes: int, label: str) -> list[str]:
    return [str(k) for k in range(20 if label == "coarse" else classes)]


def _text_names(folder: Path, label: str) -> list[str] | None:
    for name in ("batches.meta.txt", f"{label}_label_names.txt"):
        file = folder / name
        if file.is_file() and file.stat().st_size < 65536:
            return file.read_text("utf-8", "replace").split() or None
    return None


def _pickled_names(source: Source, label: str) -> list[str] | None:
    for name in ("batches.meta", "meta"):
        file = _folder(source) / name
        if file.is_file():
            meta = load_pickle(file, read_file(source, file))
            for key in NAME_KEYS[label]:
                if isinstance(names := meta.get(key), list):
                    return [n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names]
    return None
