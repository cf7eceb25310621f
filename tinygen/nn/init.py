"""Initial values: where they are drawn from, and the usual laws.

An `Init` numbers its draws, so that layers built one after the other get independent values from one named stream:
the k-th draw is rng.normal(name, k, shape). Layers take `rng=`: an Init, handed down through a model, or an Rng, whose
layers are then numbered in the order in which they are built with it. Without `rng` a layer belongs to `Init(Rng(0))`.
"""

from __future__ import annotations

import math
import weakref

import numpy as np

from ..rng import Rng
from ..tensor import Tensor


class Init:
    """Numbered draws from the stream `name` of an Rng."""

    def __init__(self, rng: Rng, name: str = "init"):
        self.rng, self.name, self.drawn = rng, name, 0

    def number(self) -> int:
        """The next number; layers that draw while running (dropout) use one to name their stream."""
        self.drawn += 1
        return self.drawn - 1

    def normal(self, shape, std: float = 1.0, mean: float = 0.0) -> Tensor:
        """A parameter of independent N(mean, std²) values."""
        values = self.rng.normal(self.name, self.number(), shape).data
        return Tensor(values * np.float32(std) + np.float32(mean), requires_grad=True)

    def uniform(self, shape, bound: float) -> Tensor:
        """A parameter of independent U(−bound, bound) values."""
        values = self.rng.uniform(self.name, self.number(), shape, low=-bound, high=bound).data
        return Tensor(values, requires_grad=True)

    def orthogonal(self, shape, gain: float = 1.0) -> Tensor:
        """A parameter with orthonormal rows or columns once the last axis is kept and the others are flattened (Saxe
        et al. 2013): the Q of a QR factorisation, signs fixed so that it is uniform over rotations."""
        columns = shape[-1]
        rows = math.prod(shape[:-1])
        tall = max(rows, columns), min(rows, columns)
        a = self.rng.normal(self.name, self.number(), tall, dtype=np.float64).numpy()
        q, r = np.linalg.qr(a)
        q = q * np.sign(np.diag(r))
        q = q if rows >= columns else q.T
        return Tensor((gain * q).reshape(shape).astype(np.float32), requires_grad=True)


_default: Init | None = None
_numbered: weakref.WeakKeyDictionary[Rng, Init] = weakref.WeakKeyDictionary()


def init_of(rng: Rng | Init | None) -> Init:
    """The Init that a layer draws from: see the module's docstring."""
    global _default
    if isinstance(rng, Init):
        return rng
    if rng is None:
        _default = _default or Init(Rng(0))
        return _default
    # The Init holds a copy of the Rng, which is nothing but its seed: held itself, the key could never be let go of.
    return _numbered.setdefault(rng, Init(Rng(rng.seed)))


def zeros(shape) -> Tensor:
    """A parameter of zeros."""
    return Tensor(np.zeros(shape, np.float32), requires_grad=True)


def ones(shape) -> Tensor:
    """A parameter of ones."""
    return Tensor(np.ones(shape, np.float32), requires_grad=True)


def fans(shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (…, in, out): each times the product of the leading (kernel) axes."""
    receptive = math.prod(shape[:-2])
    return shape[-2] * receptive, shape[-1] * receptive


def weight(init: Init, shape, law: str | float = "default") -> Tensor:
    """A weight of shape (…, in, out) by a named law, or N(0, law²) for a number.

    "default"  U(±1/√fan_in), what PyTorch's layers start from (its transposed convolutions take fan_out for it)
    "he"       N(0, 2/fan_in), He et al. 2015, for ReLU
    "he_uniform"  U(±√(6/fan_in))
    "xavier"   U(±√(6/(fan_in + fan_out))), Glorot & Bengio 2010
    "xavier_normal"  N(0, 2/(fan_in + fan_out))
    "lecun"    N(0, 1/fan_in), LeCun et al. 1998
    "orthogonal", "zeros"
    """
    fan_in, fan_out = fans(shape)
    fan_in = max(fan_in, 1)
    if not isinstance(law, str):
        return init.normal(shape, law)
    match law:
        case "default":
            return init.uniform(shape, 1 / math.sqrt(fan_in))
        case "he":
            return init.normal(shape, math.sqrt(2 / fan_in))
        case "he_uniform":
            return init.uniform(shape, math.sqrt(6 / fan_in))
        case "xavier":
            return init.uniform(shape, math.sqrt(6 / (fan_in + fan_out)))
        case "xavier_normal":
            return init.normal(shape, math.sqrt(2 / (fan_in + fan_out)))
        case "lecun":
            return init.normal(shape, math.sqrt(1 / fan_in))
        case "orthogonal":
            return init.orthogonal(shape)
        case "zeros":
            return zeros(shape)
    raise ValueError(f"unknown initial law {law!r}; see tinygen.nn.init.weight.")
