"""Reading CIFAR's pickles without trusting them.

A pickle is a program. Before it runs, its instructions are read one by one: only those that build dicts,
lists, tuples, strings and numbers are allowed, strings must be as long as they say, and memo places may not
run ahead of the instructions. While it runs, the few names that a pickled NumPy array needs stand for inert
objects of this file, so that no function of NumPy's or anyone's sees a byte of it.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.errors import DataError

ALLOWED = frozenset("""
    PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND
    APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE NONE NEWTRUE NEWFALSE BININT
    BININT1 BININT2 LONG1 BINFLOAT SHORT_BINSTRING BINSTRING SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES
    BINBYTES BINBYTES8 GLOBAL STACK_GLOBAL REDUCE BUILD""".split())
# a batch has a few for its one array; more would only serve to nest without end
SCARCE = frozenset(["TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "BUILD", "GLOBAL", "STACK_GLOBAL"])
MOST_SCARCE, MOST_INSTRUCTIONS = 256, 5_000_000
DTYPES = {"u1": np.uint8, "i4": np.int32, "i8": np.int64}


def load_pickle(path: Path, data: bytes) -> dict[str, Any]:
    """The dict in a pickle, its keys as text, its NumPy arrays as arrays. DataError for anything else."""
    _check_instructions(path, data)
    try:
        out = _Unpickler(path, data).load()
        if not isinstance(out, dict):
            raise DataError(f"{path} holds a {type(out).__name__} where a CIFAR batch is a dict; give the "
                            "folder of CIFAR's own batches")
        names = [k.decode("latin-1") if isinstance(k, bytes) else str(k) for k in out]
        return {name: v.array if isinstance(v, _Array) else v for name, v in zip(names, out.values())}
    except DataError:
        raise
    except Exception as error:                  # a hostile pickle may raise anything
        raise DataError(f"{path} is a damaged pickle ({type(error).__name__}: {error}); download or copy it "
                        "again") from error


def _check_instructions(path: Path, data: bytes) -> None:
    scarce = 0
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if opcode.name not in ALLOWED:
                raise DataError(f"{path} is refused: its pickle uses the instruction {opcode.name}, which a "
                                "CIFAR batch has no need of; get the file from a source that you trust")
            scarce += opcode.name in SCARCE
            ahead = opcode.name == "LONG_BINPUT" and isinstance(arg, int) and arg > count
            if scarce > MOST_SCARCE or count > MOST_INSTRUCTIONS or ahead:
                raise DataError(f"{path} is refused: its pickle is built to exhaust memory; get the file "
                                "from a source that you trust")
    except ValueError as error:
        raise DataError(f"{path} is truncated or damaged: its pickle breaks off or makes no sense ({error}); "
                        "download or copy it again") from error


class _Dtype:
    """Stands for numpy.dtype: remembers its code, ignores the rest."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if code not in DTYPES:
            raise ValueError(f"arrays must be of type {', '.join(DTYPES)}, not {code!r}")
        self.dtype = np.dtype(DTYPES[code])

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands for numpy.ndarray: keeps the array that its state describes, if its bytes are as many."""

    array: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not (isinstance(dtype, _Dtype) and isinstance(raw, bytes) and isinstance(shape, tuple)
                and len(shape) <= 4 and all(type(n) is int and n >= 0 for n in shape)):
            raise ValueError("an array's state is not as NumPy writes it")
        if math.prod(shape) * dtype.dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {shape} cannot have {len(raw)} bytes")
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"                    # only ever an argument of _reconstruct
        if (module, name) == ("numpy", "dtype"):
            return lambda *args: _Dtype(*args)
        if (module, name) == ("_codecs", "encode"):     # how Python 3 writes bytes in protocol 2
            return lambda text, codec: str.encode(text, "latin-1") if codec in ("latin1", b"latin1") else None
        raise DataError(f"{self.path} is refused: its pickle asks for {module}.{name}, and only NumPy arrays "
                        "are allowed; get the file from a source that you trust")
