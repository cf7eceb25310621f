"""Checkpoints: arrays by name and a table of facts, in one safetensors file.

    tg.checkpoint.save("model.safetensors", model, step=1000)
    arrays, meta = tg.checkpoint.load("model.safetensors")
    model.load(arrays)

The facts travel as JSON inside the file, in safetensors' own `__metadata__`; a copy that people can read lies
beside it (model.json). Nothing is ever unpickled. A file is written under another name, synced and then
renamed, so that the file of that name is whole at any moment: the old one or the new one.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import CheckpointError, UserError

FORMAT = 1
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format allows no more


def save(path: str | os.PathLike, source: Any, meta: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Write arrays and facts to a safetensors file, and a readable copy of the facts beside it.

    source: {name: NumPy array or Tensor}, or anything with state(), such as a Module. meta, more: facts that
    JSON can hold. Whatever fails (a full disk, a folder that is missing), the file that was there before is
    still there, whole, and CheckpointError says what to do.
    """
    from safetensors.numpy import save as serialise

    path = Path(path)
    arrays = source.state() if hasattr(source, "state") else source
    plain = {name: _array(path, name, a) for name, a in arrays.items()}
    facts = {**(meta or {}), **more}
    try:
        text = json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the facts beside the arrays must be what JSON holds: {error}.") from error
    data = serialise(plain, metadata={"format": "tinygen", "version": str(FORMAT), "meta": text})
    table = {name: f"{a.dtype} {'×'.join(map(str, a.shape)) or 'number'}" for name, a in plain.items()}
    copy = json.dumps({**facts, "arrays": table}, indent=1, ensure_ascii=False)
    try:
        write(path, lambda f: f.write(data))
        write(path.with_suffix(".json"), lambda f: f.write(copy.encode()))
    except OSError as error:
        kept = "; the checkpoint that was there before is untouched" if path.exists() else ""
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {error.strerror or error}{kept}. Make room, or choose a "
            "folder that "
            "exists and can be written to."
        ) from error


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The (arrays, facts) of a safetensors file; the facts of a file from elsewhere are its plain metadata.

    Raises CheckpointError for a file that is missing, truncated, hostile or of another format. What a header
    claims is checked against the file's size before anything is allocated.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    _check_header(path)
    try:
        with safe_open(path, framework="np") as f:
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
            found = f.metadata() or {}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(f"{path} is damaged: {reason}. Copy it again, or use an older one.") from error
    if found.get("format") != "tinygen":
        return arrays, dict(found)
    if found.get("version") != str(FORMAT):
        raise CheckpointError(
            f"{path} is written in version {found.get('version')} of the checkpoint format; this tinygen "
            "reads version "
            f"{FORMAT}: install the tinygen that wrote it."
        )
    try:
        meta = json.loads(found.get("meta", ""))
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path} is damaged: its metadata is not JSON. Copy it again, or use an older one.")
    return arrays, meta


def versions() -> dict[str, str]:
    """What computes here, for the record: versions of Python, tinygen, NumPy and Numba, and the thread
    count."""
    import numba

    from . import __version__

    return {
        "python": platform.python_version(),
        "tinygen": __version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "threads": str(numba.get_num_threads()),
    }


def write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all: a temporary file in the same folder, synced, renamed, the folder
    synced.

    Raises OSError, with the temporary file removed.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            fill(f)
            f.flush()
            os.fsync(f.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp keeps a file to its owner
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """`write` for text. Raises UserError where the file cannot be written."""
    try:
        write(path, lambda f: f.write(text.encode()))
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Make room, or choose a folder that can be written to."
        ) from error


def _array(path: Path, name: str, a: Any) -> np.ndarray:
    from .tensor import Tensor

    array = np.asarray(a.numpy() if isinstance(a, Tensor) else a, order="C")
    if array.dtype.name not in DTYPES.values():
        raise CheckpointError(f"{path}: {name} is {array.dtype}; a checkpoint holds {', '.join(DTYPES.values())}.")
    return array


def _check_header(path: Path) -> None:
    """The sentences that the safetensors package would not say, or would say in its own words."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as f:
            head = f.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            text = f.read(length) if length <= min(size - 8, _HEADER_LIMIT) else b""
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}.") from error
    if size < 8 or not text.startswith(b"{") and length > size - 8 and head[:1].isalpha():
        raise CheckpointError(f"{path} is not a safetensors file; it has {size} bytes and no header.")
    if not text:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file: its header claims {length} bytes and the file has {size}."
        )
    try:
        header = json.loads(text)
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        places = sorted((*map(operator.index, v["data_offsets"]), k) for k, v in entries.items())
        end = max((stop for _, stop, _ in places), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path} is not a safetensors file: its header is not what the format asks for."
        ) from None
    if end + 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: its arrays need {end + 8 + length} bytes and the file has {size}. Copy "
            "it again, or "
            "use an older one."
        )
    for k, v in entries.items():
        if v.get("dtype") not in DTYPES:
            raise CheckpointError(f"{path}: {k} is {v.get('dtype')}; tinygen reads {', '.join(DTYPES)}.")
    for (_, stop, a), (start, _, b) in zip(places, places[1:]):
        if start < stop:
            raise CheckpointError(f"{path} is damaged: {a} and {b} overlap in it. Copy it again, or use an older one.")
