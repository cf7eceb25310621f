"""Random numbers by name: `Rng(seed).normal("noise", step, shape)` is a pure function of its arguments.

There is no generator state, hidden or open. Each (seed, name, step) is hashed to the 64-bit key of a
Philox4x32-10 stream (Salmon et al., SC 2011; kernels/philox/README.md); element i of a draw depends on that
key and i alone: the same numbers in any order of calls, on any number of threads, after any resume.
"""

from __future__ import annotations

import operator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen.errors import ConfigError, DtypeError, ShapeError
from tinygen.kernels import philox
from tinygen.modes import mode

if TYPE_CHECKING:
    from tinygen.tensor import Tensor

Shape = int | tuple[int, ...]


class Rng:
    """Named, stateless random streams.

    `name` says what the numbers are for and `step` when. The same name and step give the same numbers again,
    and draws of different kinds or shapes under one name and step share their bits: a name for each purpose.
    All draws are Tensors that need no gradient. `device` says where they are made: the bits are the same everywhere.

    seed: int in [0, 2**64); anything else raises ConfigError.
    """

    __slots__ = ("seed", "__weakref__")

    def __init__(self, seed: int):
        value = _index(seed)
        if value is None or not 0 <= value < 2**64:
            raise ConfigError(f"A seed must be an integer from 0 to 2**64 - 1, but {seed!r} was given.")
        self.seed = value

    def key(self, name: str, step: int) -> int:
        """The stream's 64-bit key: BLAKE2b (RFC 7693) of seed, step and name.

        Seed and step take eight bytes each before the name, so no two triples spell the same bytes.
        """
        if type(name) is not str or not name:
            raise ValueError(f"A random stream needs a name, a non-empty str, but got {name!r}.")
        index = _index(step)
        if index is None or not 0 <= index < 2**64:
            raise ValueError(f"Random stream {name!r} needs an integer step of 0 or more, but got {step!r}.")
        triple = self.seed.to_bytes(8, "little") + index.to_bytes(8, "little") + name.encode()
        return int.from_bytes(blake2b(triple, digest_size=8, person=b"tinygen.rng").digest(), "little")

    def _key(self, name: str, step: int, device: str) -> Any:
        """The key as a number; or, in a step that a CUDA graph is recorded of, the place on the device that will hold
        the key of each launch."""
        if device == "cpu" or mode.watch is None:
            return self.key(name, step)
        return mode.watch.draw(self, name, step)

    def normal(self, name: str, step: int, shape: Shape, dtype=np.float32, *, device: str = "cpu") -> Tensor:
        """Standard normals: Box-Muller in float64, rounded to dtype (float32 or float64)."""
        key = self._key(name, step, device)
        return _tensor(philox.normal(key, _shape(name, shape), _float(name, dtype), device=_device(device)))

    def uniform(
        self, name: str, step: int, shape: Shape, low: float = 0.0, high: float = 1.0, dtype=np.float32, *,
        device: str = "cpu",
    ) -> Tensor:
        """Uniform numbers in [low, high), never equal to `high`; ValueError unless low < high."""
        key = self._key(name, step, device)
        dtype, device = _float(name, dtype), _device(device)
        return _tensor(philox.uniform(key, _shape(name, shape), low, high, dtype, device=device))

    def integers(
        self, name: str, step: int, shape: Shape, low: int, high: int, *, device: str = "cpu"
    ) -> Tensor:
        """Exactly uniform int64 in [low, high); ValueError unless low < high within int64."""
        first, last = _index(low), _index(high)
        if first is None or last is None:
            raise ValueError(f"integers({name!r}) needs integer low and high, but got {low!r} and {high!r}.")
        key = self._key(name, step, device)
        return _tensor(philox.integers(key, _shape(name, shape), first, last, device=_device(device)))

    def permutation(self, name: str, step: int, n: int, *, device: str = "cpu") -> Tensor:
        """A uniformly random order of 0, ..., n - 1, int64."""
        count = _index(n)
        if count is None or count < 0:
            raise ShapeError(f"permutation({name!r}) needs an integer n >= 0, but got {n!r}.")
        return _tensor(philox.permutation(self._key(name, step, device), count, device=_device(device)))

    def __repr__(self) -> str:
        return f"Rng({self.seed})"


def _index(value) -> int | None:
    """value as a plain int, or None if it is no integer (True and False are none)."""
    if type(value) is int:
        return value
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _shape(name: str, shape: Shape) -> tuple[int, ...]:
    sizes = tuple(map(_index, shape)) if isinstance(shape, tuple | list) else (_index(shape),)
    if any(size is None or size < 0 for size in sizes):
        raise ShapeError(
            f"Random stream {name!r} needs a shape of non-negative integers, such as 16 or (16, 8), "
            f"but got {shape!r}."
        )
    return sizes  # type: ignore[return-value]


def _float(name: str, dtype) -> np.dtype:
    try:
        found = None if dtype is None else np.dtype(dtype)  # np.dtype(None) would be float64
    except TypeError:
        found = None
    if found not in (np.float32, np.float64):
        raise DtypeError(f"Random stream {name!r} draws float32 or float64, not {dtype!r}; draw, then cast.")
    return found


def _device(name: str) -> str:
    """The device's full name; starts CuPy where it is needed. Raises DeviceError."""
    if name == "cpu":
        return name
    from tinygen import backend

    return backend.device(name)


def _tensor(array: Any) -> Tensor:
    from tinygen.tensor import Tensor

    return Tensor(array)
