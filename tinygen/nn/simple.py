"""Layers without weights: activations, reshaping, dropout and the streams it draws from."""

from __future__ import annotations

import contextlib

from .. import ops, tape
from ..errors import TinygenError
from ..rng import Rng
from ..tensor import Tensor
from .init import init_of
from .module import Module


class Lambda(Module):
    """A function of one tensor, as a layer with a name."""

    def __init__(self, function, name: str = ""):
        self._function, self._name = function, name or getattr(function, "__name__", "function")

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)

    def describe(self) -> str:
        return self._name


class Identity(Module):
    """y = x"""

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReLU(Module):
    """y = max(x, 0)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class LeakyReLU(Module):
    """y = x where positive, slope·x elsewhere"""

    def __init__(self, slope: float = 0.2):
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return ops.leaky_relu(x, slope=self.slope)

    def describe(self) -> str:
        return str(self.slope)


class ELU(Module):
    """y = x where positive, α(eˣ − 1) elsewhere"""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, alpha=self.alpha)


class SiLU(Module):
    """y = x·σ(x)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class GELU(Module):
    """y = x·Φ(x); approximate="tanh" for the usual approximation"""

    def __init__(self, approximate: str = "none"):
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x, approximate=self.approximate)


class Tanh(Module):
    """y = tanh x"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """y = 1/(1 + e⁻ˣ)"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class Flatten(Module):
    """N,… -> N,rest"""

    def forward(self, x: Tensor) -> Tensor:
        return ops.reshape(x, shape=(x.shape[0], -1))


class Reshape(Module):
    """N,… -> N,*shape"""

    def __init__(self, *shape: int):
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return ops.reshape(x, shape=(x.shape[0], *self.shape))

    def describe(self) -> str:
        return "×".join(map(str, self.shape))


class _Streams:
    """The Rng and step that layers draw from while running, and how often each has drawn."""

    def __init__(self, rng: Rng, step: int):
        self.rng, self.step = rng, step
        self.drawn: dict[str, int] = {}
        self.replaying = tape.replaying()

    def name(self, layer: str) -> str:
        count = self.drawn[layer] = self.drawn.get(layer, -1) + 1
        return f"{layer}.{count}"


_streams: _Streams | None = None


@contextlib.contextmanager
def streams(rng: Rng, step: int):
    """Context manager that says where layers draw their noise from: `with nn.streams(rng, step): loss = …`.

    A layer's k-th call inside draws from the stream "<layer>.<k>" at `step`, so a step that is run again draws the same
    numbers. A function under `recompute` opens its own `with nn.streams(…)`: run again, it could not tell how far the
    streams around it had been drawn from, and dropout raises.
    """
    global _streams
    before, _streams = _streams, _Streams(rng, step)
    try:
        yield
    finally:
        _streams = before


class Dropout(Module):
    """Each number is set to zero with probability p in training, and the others divided by 1 − p (Srivastava et al.
    2014). Needs `with nn.streams(rng, step):` around the call in training; does nothing in evaluation."""

    def __init__(self, p: float = 0.5, *, rng=None):
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p is in [0, 1), not {p}.")
        self.p = p
        self.stream = f"dropout.{init_of(rng).number()}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if _streams is None:
            raise TinygenError("dropout in training draws from named streams: put `with nn.streams(rng, step):` around "
                               "the forward pass, or call .eval() on the network.")
        if tape.replaying() and not _streams.replaying:
            raise TinygenError("dropout inside recompute would drop other numbers when it is run again: open "
                               "`with nn.streams(rng, step):` inside the function that is recomputed.")
        return ops.dropout(x, p=self.p, rng=_streams.rng, name=_streams.name(self.stream), step=_streams.step)

    def describe(self) -> str:
        return str(self.p)
