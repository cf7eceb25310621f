"""The pickles inside PyTorch's files, interpreted without the pickle module.

A pickle is a program, and pickle.loads runs it: GLOBAL imports any name, REDUCE calls it. The usual defence is a
subclass of pickle.Unpickler that guards find_class. It is not taken here, because behind that guard the whole machine
still stands: EXT1 may be served from copyreg's cache without asking, BUILD writes into an object's __dict__, INST, OBJ
and NEWOBJ call, LONG_BINPUT sizes the memo by a number from the file, and a later Python may add more. Here the machine
itself is small: 30 instructions, those of protocol 2 that torch.save writes for tensors. There is nothing in it that
imports and nothing that calls: an allowed name becomes an inert `Name`, REDUCE knows four of these and makes an
`Extent` or a dict, and every other instruction and name is refused, by its own name. Its memory is bounded by the
number of instructions.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.errors import DataError

MOST_INSTRUCTIONS = 500_000  # Inception needs 12,000; each makes some 100 bytes
MOST_TENSORS, DEEPEST, MOST_AXES, LONGEST = 100_000, 8, 32, 1000  # LONGEST: characters of a name
LARGEST = 1 << 40  # elements of a tensor, an empty one's other axes included
UNTRUSTED = "get the file from a source that you trust"
DAMAGED = "it is truncated or damaged: download or copy it again"

STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "u1",
}  # fmt: skip
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")  # the second in files before 0.4
PARAMETER, ORDERED_DICT = "torch._utils._rebuild_parameter", "collections.OrderedDict"
NAMES = {*REBUILD, PARAMETER, ORDERED_DICT, *(f"torch.{name}" for name in STORAGES)}


@dataclass(frozen=True)
class Name:
    """A name that the pickle mentions. Inert: nothing of that name is ever looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers somewhere else in the file, as the pickle claims it to be."""

    kind: str  # of STORAGES
    key: str
    numel: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(STORAGES[self.kind])

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Extent:
    """A tensor: the elements offset + Σ index·stride of a storage, all of them inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize


class Machine:
    """Interprets one pickle after the other in `data`; remembers the storages that they mention, none of which can be
    larger than `room`, the bytes of the file."""

    def __init__(self, path: Path, data: memoryview, room: int):
        self.path, self.data, self.room, self.at = path, data, room, 0
        self.storages: dict[str, Storage] = {}
        self._left = MOST_INSTRUCTIONS

    def run(self) -> Any:
        """The value of the pickle at `at`, which is moved behind it. Raises DataError."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}
        try:
            while True:
                code = bytes(self._take(1))
                self._pay(1)
                if code == b".":  # STOP
                    return stack.pop()
                self._step(code, stack, marks, memo)
        except (IndexError, KeyError, struct.error, UnicodeDecodeError, _NonsenseError) as error:
            what = f" ({error})" if isinstance(error, _NonsenseError) else ""
            where = f"{self.path} has a pickle that makes no sense at byte {self.at}"
            raise DataError(f"{where}{what}; {DAMAGED}.") from None

    def _pay(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise DataError(f"{self.path} is refused: its pickle has more than {MOST_INSTRUCTIONS:,} instructions and "
                            f"would exhaust memory; {UNTRUSTED}.")

    def _take(self, count: int) -> memoryview:
        if count < 0 or count > len(self.data) - self.at:
            raise DataError(f"{self.path} breaks off inside its pickle, at byte {len(self.data)}; {DAMAGED}.")
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = bytes(self.data[self.at : self.at + 256]).find(b"\n")
        line = bytes(self._take(max(end, 0) + 1))[:-1].decode("ascii")
        if not line.replace(".", "_").isidentifier():  # it may come to stand in a sentence on a terminal
            raise _NonsenseError("what should be a name and is none")
        return line

    def _step(self, code: bytes, stack: list, marks: list[int], memo: dict[int, Any]) -> None:
        def marked() -> list:
            base = marks.pop()
            if base > len(stack):
                raise _NonsenseError("a mark above the stack")
            found = stack[base:]
            del stack[base:]
            return found

        match code:
            case b"\x80":  # PROTO
                if (version := self._number("<B")) != 2:
                    raise DataError(f"{self.path} is refused: its pickle is of protocol {version}, and torch.save "
                                    "writes protocol 2; save it again with torch.save(state_dict, path).")
            case b"(":
                marks.append(len(stack))
            case b"N":
                stack.append(None)
            case b"\x88":
                stack.append(True)
            case b"\x89":
                stack.append(False)
            case b"J":
                stack.append(self._number("<i"))
            case b"K":
                stack.append(self._number("<B"))
            case b"M":
                stack.append(self._number("<H"))
            case b"\x8a":  # LONG1
                stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))
            case b"G":
                stack.append(self._number(">d"))
            case b"X":
                stack.append(bytes(self._take(self._number("<I"))).decode("utf-8"))
            case b"U":  # a str of Python 2's
                stack.append(bytes(self._take(self._number("<B"))).decode("ascii"))
            case b"T":
                stack.append(bytes(self._take(self._number("<i"))).decode("ascii"))
            case b"q":
                memo[self._number("<B")] = stack[-1]
            case b"r":
                memo[self._number("<I")] = stack[-1]
            case b"h":
                stack.append(memo[self._number("<B")])
            case b"j":
                stack.append(memo[self._number("<I")])
            case b")":
                stack.append(())
            case b"t":
                stack.append(tuple(marked()))
            case b"\x85" | b"\x86" | b"\x87":  # TUPLE1 … TUPLE3
                count = code[0] - 0x84
                if len(stack) < count:
                    raise _NonsenseError("a tuple of more than the stack has")
                stack[-count:] = [tuple(stack[-count:])]
            case b"]":
                stack.append([])
            case b"}":
                stack.append({})
            case b"a":
                item = stack.pop()
                _a(list, stack[-1]).append(item)
            case b"e":
                items = marked()
                _a(list, stack[-1]).extend(items)
            case b"s":
                value, key = stack.pop(), stack.pop()
                _put(_a(dict, stack[-1]), [key, value])
            case b"u":
                items = marked()
                _put(_a(dict, stack[-1]), items)
            case b"c":
                stack.append(self._name(self._line(), self._line()))
            case b"Q":
                stack.append(self._storage(stack.pop()))
            case b"R":
                args, function = stack.pop(), stack.pop()
                stack.append(self._reduce(function, args))
            case b"b":  # the attributes of a dict, such as _metadata: left out
                state, owner = stack.pop(), stack[-1]
                _a(dict, owner), _a(dict, state)
            case _:
                raise DataError(f"{self.path} is refused: its pickle uses the instruction {_called(code)}, which "
                                f"tensors have no need of; {UNTRUSTED}.")

    def _name(self, module: str, name: str) -> Name:
        full = f"{module}.{name}"
        if full not in NAMES:
            raise DataError(f"{self.path} is refused: its pickle asks for {full}, and only tensors are read, nothing "
                            f"is run; save the state_dict alone, or {UNTRUSTED}.")
        return Name(full)

    def _storage(self, claim: Any) -> Storage:
        """('storage', type, key, location, numel), and for legacy files None, or what it is a view of."""
        if not (isinstance(claim, tuple) and len(claim) in (5, 6) and claim[0] == "storage"
                and isinstance(claim[1], Name) and isinstance(claim[2], str) and type(claim[4]) is int):
            raise _NonsenseError("a storage not described as one")
        if claim[5:] not in ((), (None,)):
            raise DataError(f"{self.path} has a storage that is a view of another one, as very old PyTorch wrote them; "
                            "load it there and save it again.")
        kind, key, numel = claim[1].name.removeprefix("torch."), claim[2], claim[4]
        if kind not in STORAGES:
            raise _NonsenseError(f"a storage of type {claim[1].name}")
        # Compared with the whole file here and with the storage's own bytes later.
        if numel < 0 or numel * np.dtype(STORAGES[kind]).itemsize > self.room:
            raise DataError(f"{self.path} claims a storage of {_short(numel)} elements, {kind}; the file has "
                            f"{self.room:,} bytes. {UNTRUSTED.capitalize()}.")
        found = self.storages.setdefault(key, Storage(kind, key, numel))
        if found != Storage(kind, key, numel):
            raise DataError(f"{self.path} describes its storage {key!r} in two ways; {DAMAGED}.")
        return found

    def _reduce(self, function: Any, args: Any) -> Any:
        name = function.name if isinstance(function, Name) else None
        if not isinstance(args, tuple):
            raise _NonsenseError("a call without arguments")
        if name == ORDERED_DICT and len(args) <= 1:
            made: dict = {}
            pairs = _a(list, args[0]) if args else []
            self._pay(len(pairs))  # the one instruction that copies
            for pair in pairs:
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    raise _NonsenseError("a dict from what are not pairs")
                _put(made, list(pair))
            return made
        if name in REBUILD and len(args) >= 4:
            return self._extent(*args[:4])
        if name == PARAMETER and args and isinstance(args[0], Extent):
            return args[0]
        raise _NonsenseError(f"a call of {name or type(function).__name__} with {len(args)} arguments")

    def _extent(self, storage: Any, offset: Any, shape: Any, stride: Any) -> Extent:
        if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
            raise _NonsenseError("a tensor not described as one")
        if len(shape) > MOST_AXES:
            raise DataError(f"{self.path} has a tensor with {len(shape)} axes; there are {MOST_AXES} at most. "
                            f"{UNTRUSTED.capitalize()}.")
        whole = [offset, *shape, *stride]
        if len(shape) != len(stride) or not all(type(n) is int for n in whole):
            raise _NonsenseError("a tensor not described as one")
        where = f"{self.path} has a tensor of shape {_short(shape)}"
        if min(whole) < 0:
            raise DataError(f"{where} with offset {_short(offset)} and strides {_short(stride)}; none of these can be "
                            f"negative. {UNTRUSTED.capitalize()}.")
        count = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride)) if count else offset - 1
        if last >= storage.numel or math.prod(max(n, 1) for n in shape) > LARGEST:
            raise DataError(f"{where} that reaches element {_short(last)} of a storage with {storage.numel:,}; reading "
                            f"it would leave the file's memory. {UNTRUSTED.capitalize()}.")
        if count > storage.numel:
            raise DataError(f"{where} made of a storage with {storage.numel:,} elements, by repeating them; save a "
                            "copy of it, .contiguous().")
        # the stride of an axis that is not walked may be any number: made 0, so that it overflows nothing
        return Extent(storage, offset, shape, tuple(s if n > 1 and count else 0 for n, s in zip(shape, stride)))


class _NonsenseError(Exception):
    """What no torch.save writes; run() says where."""


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise _NonsenseError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _put(table: dict, items: list) -> None:
    if len(items) % 2:
        raise _NonsenseError("a key without a value")
    for key, value in zip(items[::2], items[1::2]):
        if type(key) is int:
            key = str(key)  # the hash of a text is salted, a number's could be made to collide with many
        if not isinstance(key, str) or len(key) > LONGEST:
            raise _NonsenseError(f"a {type(key).__name__} as a name" if not isinstance(key, str) else "an endless name")
        table[key] = value


def _short(value: Any) -> str:
    """A number or a tuple of them for a sentence, however long it is."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value[:8])) + (", …)" if len(value) > 8 else ")")
    return f"{value:,}" if abs(value) < 10**18 else f"of {value.bit_length()} bits"


def _called(code: bytes) -> str:
    import pickletools

    names = {op.code: op.name for op in pickletools.opcodes}
    return names.get(code.decode("latin-1"), f"0x{code.hex()}")


# ---- from what was described to arrays


def extents(path: Path, top: Any) -> dict[str, Extent]:
    """The tensors in nested dicts by their dotted names. Raises DataError where `top` is not a dict of tensors."""
    if isinstance(top, Extent):
        raise DataError(f"{path} holds one tensor without a name; weights are a dict of tensors by name.")
    if not isinstance(top, dict):
        raise DataError(f"{path} holds a {type(top).__name__} where weights are a dict of tensors by name.")
    found: dict[str, Extent] = {}
    seen, stack = 0, [("", top, 0)]  # seen: a dict may stand in many places, so that a walk can be longer than the file
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, dict):
            seen += len(value)
            if depth > DEEPEST or seen > MOST_TENSORS:
                raise DataError(f"{path} is refused: its dicts are nested more than {DEEPEST} deep or hold more than "
                                f"{MOST_TENSORS:,} entries; {UNTRUSTED}.")
            begin = f"{name}." if name else ""
            stack.extend((begin + key, value[key], depth + 1) for key in reversed(value))
        elif isinstance(value, Extent):
            if name in found:
                raise DataError(f"{path} has two tensors named {name[:80]!r}; {DAMAGED}.")
            found[name] = value
        elif not (value is None or isinstance(value, (bool, int, float, str))):
            raise DataError(f"{path} has a {type(value).__name__} as {name[:80]!r}; only tensors by name are read: "
                            "save the state_dict alone.")
    if not found:
        raise DataError(f"{path} holds no tensor; weights are a dict of tensors by name.")
    return found


def arrays(path: Path, found: dict[str, Extent], raw: Callable[[Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """Read-only views of the storages, whose bytes raw(storage) gives; bfloat16 and bool are copies."""
    views: dict[Extent, np.ndarray] = {}
    stored = sum(s.nbytes for s in {e.storage for e in found.values()})
    if sum(e.nbytes for e in set(found.values())) > 2 * stored:
        raise DataError(f"{path} is refused: its tensors overlap, so that they hold more than twice what the file "
                        f"does; {UNTRUSTED}.")
    for e in set(found.values()):
        flat = raw(e.storage)[: e.storage.nbytes].view(e.storage.dtype)
        step = [s * flat.itemsize for s in e.stride]
        view = np.lib.stride_tricks.as_strided(flat[e.offset :], e.shape, step, writeable=False)
        if e.storage.kind == "BFloat16Storage":
            view = (view.astype(np.uint32) << 16).view(np.float32)
        views[e] = view != 0 if e.storage.kind == "BoolStorage" else view
    return {name: views[e] for name, e in found.items()}
