"""What all readers share: sizes checked before memory is taken, and a file's kind by its content."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tinygen.errors import DataError

LIMIT = 2 * 2**30
# what zipfile raises, in one place or another, for an archive that is damaged or encrypted
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError,
                  OverflowError, struct.error)
CIFAR10_RECORD, CIFAR100_RECORD = 1 + 3072, 2 + 3072
PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class Source:
    """A path, the part of it that is wanted, and the most memory that its images may take."""

    path: Path
    split: str | None
    max_bytes: int

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def check(self, nbytes: int, where: object) -> None:
        """DataError if `nbytes` are more than the limit."""
        if nbytes > self.max_bytes:
            raise DataError(f"{where} says that it holds {nbytes:,} bytes of data, more than the limit of "
                            f"{self.max_bytes:,}; if that is right, raise the limit with max_bytes=")


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sorting key that puts 2 before 10."""
    return [(0, int(s), "") if s.isdecimal() else (1, 0, s) for s in re.split(r"(\d+)", text)]


def regular_files(folder: Path) -> list[Path]:
    """The visible regular files directly in a folder, in natural order."""
    try:
        return sorted((f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")),
                      key=lambda f: natural(f.name))
    except OSError as error:
        raise cannot_read(folder, error) from error


def cannot_read(path: object, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}; check the path and its permissions")


def truncated(path: object, wanted: int, found: int) -> DataError:
    return DataError(f"{path} is truncated: its header promises {wanted:,} bytes of data and {found:,} are "
                     "there; download or copy it again")


def read_file(source: Source, path: Path) -> bytes:
    """All bytes of a regular file, if they are within the limit."""
    try:
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; give a file or a folder of files")
        source.check(path.stat().st_size, path)
        return path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error


def read_exactly(stream: Reader, count: int) -> bytearray:
    """`count` bytes, or fewer where the stream ends; memory grows with what is really there."""
    out = bytearray()
    while len(out) < count and (piece := stream.read(min(1 << 20, count - len(out)))):
        out += piece
    return out


def check_compression(where: str, info: zipfile.ZipInfo) -> None:
    """DataError for the rare methods, whose decoders are the likelier to be led astray."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where} is compressed by method {info.compress_type}, and only storing and deflating "
                        "are read; pack it again without that option")


def as_label_array(path: object, labels: np.ndarray,
                   names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """int64 labels and the names of the classes: those given, or the numbers."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{path}: labels must be whole numbers in one dimension; {labels.dtype} "
                        f"{labels.shape} was found")
    labels = labels.astype(np.int64)
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    most = len(names) if names is not None else 65536
    if low < 0 or high >= most:
        mend = "" if names is None else ", or give as many label_names as there are"
        raise DataError(f"{path}: labels must be 0..{most - 1} and {low}..{high} was found; renumber the "
                        f"classes from 0{mend}")
    return labels, list(names) if names is not None else [str(k) for k in range(high + 1)]


def kind_of(path: Path) -> str:
    """idx, npz, pictures (a zip), cifar-python, cifar-binary, or why not (a key of readers.UNREADABLE)."""
    try:
        if not path.is_file():
            return "unknown"
        size = path.stat().st_size
        head, gzipped = head_of(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    if size == 0:
        return "empty"
    if head[257:262] == b"ustar":
        return "tar"
    if is_idx(head):
        return "idx"
    if gzipped:
        return "gzip"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_kind(path)
    if head[:1] == b"\x80" and 2 <= head[1] <= 5 and head[2:3] in b"}\x95":
        return "cifar-python"
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if head.startswith(PICTURE_MAGIC) or head[8:12] == b"WEBP":
        return "picture"
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html") or head.lstrip()[:5].lower() == b"<html":
        return "html"
    if head.startswith(b"version https://git-lfs"):
        return "lfs"
    if binary_classes(path, size):
        return "cifar-binary"
    return "unknown"


def head_of(path: Path) -> tuple[bytes, bool]:
    """The first 512 bytes of a file, decompressed if it is gzip (empty if that fails), and whether it is."""
    with path.open("rb") as f:
        head = f.read(512)
    if head[:2] != b"\x1f\x8b":
        return head, False
    try:
        # without the last 8 bytes, in which a short file has its checksum: whether that is right comes later
        return zlib.decompressobj(31).decompress(head[:-8], 512), True
    except zlib.error:
        return b"", True


def is_idx(head: bytes) -> bool:
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in (8, 9, 11, 12, 13, 14) and 1 <= head[3] <= 8


def binary_classes(path: Path, size: int) -> int:
    """10 or 100 if a file has the records of CIFAR-10 or CIFAR-100 binary, else 0."""
    for record, limits, classes in ((CIFAR10_RECORD, (10,), 10), (CIFAR100_RECORD, (20, 100), 100)):
        if size >= record and size % record == 0:
            rows = np.memmap(path, np.uint8, "r", shape=(size // record, record))
            if all(bool((rows[:, k] < limit).all()) for k, limit in enumerate(limits)):
                return classes
    return 0


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as z:
            members = [name for name in z.namelist() if not name.endswith("/")]
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is a damaged zip file ({error}); download or copy it again") from error
    return "npz" if members and all(name.endswith(".npy") for name in members) else "pictures"
