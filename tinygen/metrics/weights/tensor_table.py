"""safetensors: eight bytes that give the length of a JSON table, the table, the numbers.

    {"conv.weight": {"dtype": "F32", "shape": [64, 3, 3, 3], "data_offsets": [0, 6912]}, …}

The tensors must follow one another without gap or overlap and end where the file does, as the format demands.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.errors import DataError

from .pickled import DAMAGED, LARGEST, MOST_AXES, MOST_TENSORS, UNTRUSTED

MOST_HEADER = 100_000_000  # bytes, by the format
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1",
}  # fmt: skip


def looks_like(data: memoryview) -> bool:
    """Does a JSON table begin where the format has one?"""
    return len(data) > 9 and bytes(data[8:9]) == b"{" and int.from_bytes(data[:8], "little") <= MOST_HEADER


def read(path: Path, data: memoryview) -> dict[str, np.ndarray]:
    """The tensors of the file. Raises DataError."""
    length = int.from_bytes(data[:8], "little")
    if 8 + length > len(data):
        raise DataError(f"{path} breaks off inside its table of tensors, at byte {len(data):,}; {DAMAGED}.")
    try:
        table = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} has a table of tensors that is not safetensors' JSON ({error}); {DAMAGED}.") from error
    table.pop("__metadata__", None)
    if not table or len(table) > MOST_TENSORS:
        raise DataError(f"{path} has {len(table):,} tensors; files with 1 to {MOST_TENSORS:,} are read.")
    body = data[8 + length :]
    found = {name: _tensor(path, name, entry, body) for name, entry in table.items()}
    spans = sorted(span for span, _ in found.values())
    if [a for a, _ in spans] != [0, *(b for _, b in spans[:-1])] or spans[-1][1] != len(body):
        raise DataError(f"{path} has tensors that overlap, leave gaps or do not end where the file does, which "
                        f"safetensors forbids; {DAMAGED}.")
    return {name: array for name, (_, array) in found.items()}


def _tensor(path: Path, name: str, entry: Any, body: memoryview) -> tuple[tuple[int, int], np.ndarray]:
    """((first byte, last byte + 1), the array)"""
    shown = repr(name[:80])
    keys = ("dtype", "shape", "data_offsets")
    dtype, shape, offsets = (entry.get(key) for key in keys) if isinstance(entry, dict) else (None, None, None)
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or not all(
            type(n) is int and 0 <= n < 2**63 for n in shape + offsets):
        raise DataError(f"{path} does not give a shape and an extent for its tensor {shown}; {DAMAGED}.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DataError(f"{path} has the tensor {shown} of type {str(dtype)[:20]!r}; read are {', '.join(DTYPES)}.")
    (begin, end), form = offsets, np.dtype(DTYPES[dtype])
    fits = begin <= end <= len(body) and math.prod(shape) * form.itemsize == end - begin
    if not fits or len(shape) > MOST_AXES or math.prod(max(n, 1) for n in shape) > LARGEST:
        raise DataError(f"{path} claims bytes {begin:,} to {end:,} for its tensor {shown} of shape {str(shape)[:80]}, "
                        f"which has not as many, or the file has not; {UNTRUSTED}.")
    flat = np.frombuffer(body[begin:end], form).reshape(shape)
    if dtype == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return (begin, end), flat != 0 if dtype == "BOOL" else flat


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name stands twice")
    return table
