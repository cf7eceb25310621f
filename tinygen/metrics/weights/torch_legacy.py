"""The files that torch.save wrote before PyTorch 1.6, and still writes on request: pickles one after the other,

    a magic number, the protocol 1001, facts of the machine, the dict, the list of its storages' keys

and then, for each key in that order, the number of elements (int64) and the elements.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinygen.errors import DataError

from .pickled import DAMAGED, Machine, Storage, arrays, extents

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
PROTOCOL = 1001


def read(path: Path, data: memoryview) -> dict[str, np.ndarray]:
    """The tensors of the file. Raises DataError."""
    machine = Machine(path, data, len(data))
    magic, protocol, facts = machine.run(), machine.run(), machine.run()
    if magic != int.from_bytes(MAGIC, "little") or protocol != PROTOCOL or not isinstance(facts, dict):
        raise DataError(f"{path} begins as a file of torch.save and is of a protocol that it never wrote; {DAMAGED}.")
    if facts.get("little_endian", True) is not True:
        raise DataError(f"{path} was written on a big-endian machine; save it again on a little-endian one.")
    found = extents(path, machine.run())
    keys = machine.run()
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(set(keys)) < len(keys):
        raise DataError(f"{path} has no list of storages after its tensors; {DAMAGED}.")
    missing = set(machine.storages) - set(keys)
    if missing:
        raise DataError(f"{path} lacks the storage {min(missing)[:40]!r} that its tensors are in; {DAMAGED}.")
    at, raw = machine.at, {}
    for key in keys:
        storage = machine.storages.get(key)
        if storage is None:
            raise DataError(f"{path} lists a storage {key[:40]!r} that no tensor is in, of unknown type; {DAMAGED}.")
        numel = int.from_bytes(data[at : at + 8], "little", signed=True)
        if numel != storage.numel:
            raise DataError(f"{path} says that its storage {key[:40]!r} has {storage.numel:,} elements, and it has "
                            f"{numel:,}; {DAMAGED}.")
        if at + 8 + storage.nbytes > len(data):
            raise DataError(f"{path} breaks off inside its storage {key[:40]!r}, at byte {len(data):,}; {DAMAGED}.")
        raw[key] = np.frombuffer(data[at + 8 : at + 8 + storage.nbytes], np.uint8)
        at += 8 + storage.nbytes
    if at != len(data):
        raise DataError(f"{path} has {len(data) - at:,} bytes after its last storage; {DAMAGED}.")

    def bytes_of(storage: Storage) -> np.ndarray:
        return raw[storage.key]

    return arrays(path, found, bytes_of)
