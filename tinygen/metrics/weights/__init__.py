"""Published weight files, read without trusting them.

    load_weights("alexnet-owt-7be5be79.pth").arrays["features.0.weight"]      # (64, 3, 11, 11) float32

pickled.py        a machine for the few pickle instructions that tensors need; nothing is imported, nothing called
torch_zip.py      .pth and .pt as PyTorch 1.6 and later write them
torch_legacy.py   .pth and .pt as earlier versions wrote them
tensor_table.py   safetensors
published.py      the digests of the files that the names "FID" and "LPIPS" stand for

What a file claims is compared with its own length before memory is asked for, so a file costs a small multiple of its
size at most, whatever it says. Each way to be wrong has its own sentence, a DataError.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygen.errors import DataError

from . import tensor_table, torch_legacy, torch_zip

__all__ = ["WeightFile", "load_weights"]

MOST_BYTES = 4 << 30  # of a file; VGG-16, the largest that a metric needs, has 0.55 GB


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file, by name, and what the file was."""

    arrays: dict[str, np.ndarray]  # read-only views of the bytes that were hashed, in PyTorch's layouts
    sha256: str  # of the whole file, 64 hexadecimal digits
    format: str  # "safetensors", "torch zip" or "torch legacy"
    path: Path

    @property
    def digest(self) -> str:
        """"sha256:" and the first 16 digits, as extractors print it."""
        return f"sha256:{self.sha256[:16]}"


def load_weights(path: str | os.PathLike, *, sha256: str | None = None) -> WeightFile:
    """Every tensor of a safetensors, .pth or .pt file; what it is, its first bytes say, not its name.

    sha256: the digest, or the first 8 or more of its digits, that the file must have. Nested dicts are flattened with
    dots ("state_dict.conv1.weight"), numbers and texts among the tensors are left out, bfloat16 becomes float32. The
    bytes are read once: what was hashed is what is used. Raises DataError.
    """
    path = Path(path)
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None:
        wanted = sha256.lower().removeprefix("sha256:")
        if len(wanted) < 8 or not found.startswith(wanted):
            raise DataError(f"{path} has the SHA-256 digest {found}, and {wanted} was asked for; it is damaged or "
                            "another file: download it again.")
    view = memoryview(data)
    if data[:4] == b"PK\x03\x04":
        return WeightFile(torch_zip.read(path, data), found, "torch zip", path)
    if torch_legacy.MAGIC in data[:32]:
        return WeightFile(torch_legacy.read(path, view), found, "torch legacy", path)
    if tensor_table.looks_like(view):
        return WeightFile(tensor_table.read(path, view), found, "safetensors", path)
    raise DataError(f"{path} {_what_it_is(data)}; weights are read from safetensors files and from those that "
                    "torch.save writes.")


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as f:
            about = os.fstat(f.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise DataError(f"{path} is not a regular file; weights are read from files on disk.")
            if about.st_size > MOST_BYTES:
                raise DataError(f"{path} has {about.st_size:,} bytes; weight files of up to {MOST_BYTES:,} are read.")
            return f.read(about.st_size)
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name the weight file in it.") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error


def _what_it_is(data: bytes) -> str:
    """A guess that helps: what people have in hand when a download went wrong."""
    start = data[:512].lstrip()
    if not data:
        return "is empty"
    if start[:1] == b"<":
        return "is a web page, probably in place of a download"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it points to"
    if data[:6] == b"\x93NUMPY":
        return "is a NumPy array"
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        return "is an HDF5 file"
    if data[257:262] == b"ustar":
        return "is a tar archive, the format of PyTorch before 0.2"
    if data[:2] == b"\x80\x02" or data[:1] == b"\x80":
        return "is a pickle that torch.save did not write"
    return "begins as no known format does"
