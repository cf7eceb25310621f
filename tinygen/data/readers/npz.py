"""NumPy archives: 'images' (or 'arr_0', as guided-diffusion has it), 'labels', 'captions', 'label_names'."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence

import numpy as np

from tinygen.data.dataset import Dataset
from tinygen.data.readers.files import (
    ARCHIVE_ERRORS,
    Source,
    as_label_array,
    cannot_read,
    check_compression,
    read_exactly,
    truncated,
)
from tinygen.errors import DataError

PARTS = ("labels", "captions", "label_names")
LONGEST_HEADER = 65536


def read(source: Source, label_names: Sequence[str] | None) -> Dataset:
    """An .npz with images uint8 N, H, W or N, H, W, C; never unpickles."""
    try:
        with zipfile.ZipFile(source.path) as z:
            members = {i.filename.removesuffix(".npy"): i for i in z.infolist()}
            key = next((k for k in ("images", "arr_0") if k in members), None)
            if key is None:
                stats = " (mu and sigma are statistics for a Fréchet distance)" if "mu" in members else ""
                raise DataError(f"{source.path} should have an array 'images' or 'arr_0' and has "
                                f"{', '.join(sorted(members)) or 'none'}{stats}; save the images under "
                                "'images'")
            images = _images(source, key, _member(source, z, members[key]))
            parts = {k: _member(source, z, members[k]) for k in PARTS if k in members}
            if key == "arr_0" and "labels" not in parts and "arr_1" in members:
                parts["labels"] = _member(source, z, members["arr_1"])
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{source.path} is a damaged or encrypted archive ({error}); download or copy it "
                        "again") from error
    except OSError as error:
        raise cannot_read(source.path, error) from error
    for what in ("labels", "captions"):
        if what in parts and parts[what].shape != (len(images),):
            raise DataError(f"{source.path}: '{what}' must be of shape ({len(images)},), one for each image, "
                            f"and is {parts[what].shape}")
    for what in ("captions", "label_names"):
        if what in parts and parts[what].dtype.kind != "U":
            raise DataError(f"{source.path}: '{what}' must be an array of strings, and is "
                            f"{parts[what].dtype}")
    if label_names is None and "label_names" in parts:
        label_names = parts["label_names"].ravel().tolist()
    labels: np.ndarray | None = None
    names: list[str] = []
    if "labels" in parts:
        labels, names = as_label_array(source.path, parts["labels"], label_names)
    captions = parts["captions"].tolist() if "captions" in parts else None
    return Dataset(images, labels, captions, names, name=source.path.stem).split(source.split)


def _images(source: Source, key: str, x: np.ndarray) -> np.ndarray:
    if x.dtype != np.uint8:
        raise DataError(f"{source.path}: '{key}' must be uint8 with values 0..255, and is {x.dtype}; convert "
                        "it before saving (tinygen.data.to_uint8 takes images in [-1, 1])")
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        planar = x.ndim == 4 and x.shape[1] in (1, 3)
        hint = "transpose it with .transpose(0, 2, 3, 1)" if planar else "reshape it"
        raise DataError(f"{source.path}: '{key}' must be N, H, W or N, H, W, C with C = 1 or 3, and is "
                        f"{x.shape}; {hint} before saving")
    return x


def _member(source: Source, z: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array; its header and its entry must agree, and memory is taken only as the bytes arrive."""
    where = f"{source.path}: {info.filename}"
    source.check(info.file_size, where)
    check_compression(where, info)
    with z.open(info) as f:
        head = io.BytesIO(bytes(read_exactly(f, min(LONGEST_HEADER, info.file_size))))
    try:
        version = np.lib.format.read_magic(head)
        reader = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                  else np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = reader(head)
    except ValueError as error:
        raise DataError(f"{where} is not a NumPy array ({error}); save it again with numpy.savez") from error
    if dtype.hasobject:
        raise DataError(f"{where} holds pickled Python objects, which could run code and are not read; save "
                        "plain arrays (for captions, an array of strings)")
    wanted = math.prod(shape) * dtype.itemsize
    source.check(wanted, where)
    if wanted != info.file_size - head.tell():
        raise truncated(where, wanted, info.file_size - head.tell())
    with z.open(info) as f:
        f.read(head.tell())
        data = read_exactly(f, wanted)
    if len(data) < wanted:
        raise truncated(where, wanted, len(data))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
