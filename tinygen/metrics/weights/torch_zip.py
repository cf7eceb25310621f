"""The files that torch.save has written since PyTorch 1.6: a zip archive without compression.

    ROOT/data.pkl       the dict; each storage in it is named by a key
    ROOT/data/KEY       the bytes of that storage
    ROOT/byteorder      "little" or "big"; absent before 2.1, where it was little

Only the list of entries is read with zipfile; what it says is checked here, and nothing is ever unpacked: an entry's
bytes are a slice of the file. Compressed entries are refused, torch.save makes none; so no archive grows when read.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tinygen.errors import DataError

from .pickled import DAMAGED, MOST_TENSORS, UNTRUSTED, Machine, Storage, arrays, extents

MOST_PICKLE = 64 << 20  # bytes


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """The tensors of the archive. Raises DataError."""
    entries = _entries(path, data)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.count("/") > 1 and name.split("/")[1] == "code" or name.endswith("/constants.pkl") for name in entries):
        raise DataError(f"{path} is a TorchScript archive, which holds a program; its weights alone are read: save its "
                        "state_dict() with torch.save.")
    if len(pickles) != 1:
        raise DataError(f"{path} is a zip archive with {len(pickles)} entries data.pkl, where torch.save writes one; "
                        "weights are read from files that torch.save or safetensors wrote.")
    root = pickles[0].removesuffix("data.pkl")
    if len(entries[pickles[0]]) > MOST_PICKLE:
        raise DataError(f"{path} is refused: its data.pkl has more than {MOST_PICKLE:,} bytes; {UNTRUSTED}.")
    order = bytes(entries.get(f"{root}byteorder", b"little")[:16])
    if order != b"little":
        raise DataError(f"{path} has the byte order {order.decode('ascii', 'replace')!r}; save it again on a "
                        "little-endian machine.")
    machine = Machine(path, entries[pickles[0]], len(data))
    found = extents(path, machine.run())

    def raw(storage: Storage) -> np.ndarray:
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise DataError(f"{path} lacks the storage {storage.key[:40]!r} that its tensors are in; {DAMAGED}.")
        if len(entry) != storage.nbytes:
            raise DataError(f"{path} says that its storage {storage.key[:40]!r} has {storage.nbytes:,} bytes, and it "
                            f"has {len(entry):,}; {DAMAGED}.")
        return np.frombuffer(entry, np.uint8)

    return arrays(path, found, raw)


def _entries(path: Path, data: bytes) -> dict[str, memoryview]:
    """The bytes of each entry by name, checked against the file and each other."""
    count = data.count(b"PK\x01\x02")  # before zipfile makes an object of each
    if count > 2 * MOST_TENSORS:
        raise DataError(f"{path} is refused: it has {count:,} entries; {UNTRUSTED}.")
    try:
        listed = zipfile.ZipFile(_Window(data)).infolist()
    except Exception as error:  # zipfile raises whatever a damaged directory leads it to
        raise DataError(f"{path} begins as a zip archive and has no readable list of entries; {DAMAGED}.") from error
    found: dict[str, memoryview] = {}
    spans = []
    for info in listed:
        name = info.orig_filename
        shown = repr(name[:80])
        if info.flag_bits & 1:
            raise DataError(f"{path} is refused: its entry {shown} is encrypted; torch.save encrypts nothing.")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DataError(f"{path} is refused: its entry {shown} is compressed and could grow without bound; "
                            "torch.save compresses nothing.")
        if "\\" in name or "\0" in name or name.startswith("/") or {"", ".", ".."} & set(name.rstrip("/").split("/")):
            raise DataError(f"{path} is refused: its entry {shown} points outside of the archive; {UNTRUSTED}.")
        if name in found:
            raise DataError(f"{path} is refused: it has two entries {shown}; {UNTRUSTED}.")
        start, head = info.header_offset, data[info.header_offset : info.header_offset + 30]
        if start < 0 or len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise DataError(f"{path} has no entry where its list says that {shown} begins; {DAMAGED}.")
        begin = start + 30 + sum(struct.unpack("<HH", head[26:30]))
        end = begin + info.file_size
        if end > len(data):
            raise DataError(f"{path} says that its entry {shown} has {info.file_size:,} bytes, more than are left of "
                            f"the file; {DAMAGED}.")
        found[name] = memoryview(data)[begin:end]
        if zlib.crc32(found[name]) != info.CRC:
            raise DataError(f"{path} has an entry {shown} whose checksum is wrong; {DAMAGED}.")
        spans.append((start, end))
    spans.sort()
    if any(a[1] > b[0] for a, b in zip(spans, spans[1:])):
        raise DataError(f"{path} is refused: its entries overlap, as in an archive built to grow; {UNTRUSTED}.")
    return found


class _Window(io.RawIOBase):
    """A file to read in memory that is already there, without a copy of it."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self.at, len(self.data))[whence]
        if at < 0:
            raise ValueError("before the beginning")
        self.at = at
        return at

    def read(self, size: int = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else self.at + size
        out = self.data[self.at : end]
        self.at += len(out)
        return out
