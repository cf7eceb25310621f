"""Readers of the standard formats: IDX (MNIST), CIFAR-10/100, folders and zips of images, .npz.

`read` recognises a format by content, never by extension. Nothing in a file is executed or extracted, and no
array is allocated that the file's own size does not justify. What cannot be read raises DataError: one
sentence that names the file, what was expected and found, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinygen.data.dataset import Dataset, check_choice, check_split
from tinygen.data.readers import cifar, idx, npz, pictures
from tinygen.data.readers.files import LIMIT, Source, kind_of, regular_files
from tinygen.data.readers.idx import read_idx
from tinygen.errors import ConfigError, DataError

__all__ = ["read", "read_idx"]

UNREADABLE = {
    "empty": "is empty; download or copy it again",
    "picture": "is a single picture; give the folder that holds it",
    "tar": "is a tar archive; extract it (tar xf) and give the folder",
    "html": "is a web page, not data; the download probably met an error page, so download it again",
    "lfs": "is a Git LFS pointer, not the data; run 'git lfs pull' where it came from",
    "npy": "is a bare .npy array; save it with numpy.savez as 'images' (and 'labels')",
    "gzip": "is gzip-compressed, but not an IDX file inside; decompress it (gunzip) and give what comes out",
    "unknown": "is in no format that tinygen reads (IDX, CIFAR-10/100 binary or Python batches, .npz, a zip "
               "or a folder of images)",
}


def read(path: str | Path, split: str | None = None, *, size: int | tuple[int, int] | None = None,
         channels: int | None = None, label: str | None = None, label_names: Sequence[str] | None = None,
         max_bytes: int = LIMIT) -> Dataset:
    """Read the images at a path.

    split: 'train', 'test' or None for everything. A source in two parts is split as it comes; any other by
    the hash of its images (`Dataset.split`).
    size: for pictures of mixed sizes, the pixels (H, W) or one number for both: each is resized with an
    antialiased bicubic filter so that it covers H × W, and the middle is cut out. Only for folders and zips.
    channels: 1 or 3 for grey or colour pictures; by default grey only if all are. Only for folders and zips.
    label: 'fine' (default) or 'coarse' for CIFAR-100.
    label_names: the classes' names where the format has none (IDX, CIFAR without its meta file, .npz).
    max_bytes: refuse sets that would take more memory than this (default 2 GiB).
    """
    check_split(split)
    path = Path(path)
    source = Source(path, split, max_bytes)
    kind = _folder_kind(path) if path.is_dir() else kind_of(path)
    if kind != "pictures" and (size is not None or channels is not None):
        raise ConfigError(f"{path}: size and channels apply to folders and zips of images, and this is not "
                          "one; leave them out")
    if label is not None:
        check_choice("label", label, ("fine", "coarse"))
        if not kind.startswith("cifar"):
            raise ConfigError(f"{path}: label='fine' or 'coarse' applies to CIFAR-100, and this is not "
                              "CIFAR; leave it out")
    if kind == "pictures":
        return pictures.read(source, size, channels)
    if kind == "idx":
        return idx.read(source, label_names)
    if kind == "cifar-binary":
        return cifar.read_binary(source, label or "fine", label_names)
    if kind == "cifar-python":
        return cifar.read_python(source, label or "fine", label_names)
    if kind == "npz":
        return npz.read(source, label_names)
    raise DataError(f"{path} {UNREADABLE[kind]}")


def _folder_kind(folder: Path) -> str:
    """The format of a folder: that of the first of its files that is one of a set, else pictures.

    A file that has the name of a set's part and not its content says which reader should complain of it.
    """
    files = [f for f in regular_files(folder)[:64] if f.suffix.lower() not in pictures.SUFFIXES]
    for file in files:
        kind = kind_of(file)
        if kind in ("idx", "cifar-binary", "cifar-python"):
            return kind
    for file in files:
        if idx.IDX_NAME.search(file.name):
            return "idx"
        if cifar.BATCH_NAME.fullmatch(file.name):
            return "cifar-binary" if file.suffix else "cifar-python"
    return "pictures"
