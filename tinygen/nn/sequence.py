"""Layers over sequences and scalars: attention, recurrent cells, the embeddings of time."""

from __future__ import annotations

import math

import numpy as np

from .. import backend, ops
from ..errors import ShapeError
from ..tensor import Tensor
from .init import init_of, weight, zeros
from .layers import Linear
from .module import Module


class MultiHeadAttention(Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2): self-attention, or cross-attention to a context.

    x (N, T, features); context (N, S, context_features) or None for x itself; mask broadcastable to (N, heads, T, S),
    True where attention is allowed. features must be divisible by heads. bias: of the q, k, v projections; the
    output projection always has one.
    """

    def __init__(self, features: int, heads: int = 1, context_features: int | None = None, bias: bool = True,
                 causal: bool = False, *, law: str | float = "default", out_law: str | float | None = None, rng=None):
        if features % heads:
            raise ShapeError(f"MultiHeadAttention: {features} features do not split into {heads} heads.")
        init = init_of(rng)
        source = context_features or features
        self.q = Linear(features, features, bias, law=law, rng=init)
        self.k = Linear(source, features, bias, law=law, rng=init)
        self.v = Linear(source, features, bias, law=law, rng=init)
        self.out = Linear(features, features, law=law if out_law is None else out_law, rng=init)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor, context: Tensor | None = None, mask=None) -> Tensor:
        context = x if context is None else context
        n, t, features = x.shape

        def split(y: Tensor) -> Tensor:
            y = ops.reshape(y, shape=(n, y.shape[1], self.heads, features // self.heads))
            return ops.transpose(y, axes=(0, 2, 1, 3))  # N, heads, T, d

        y = ops.attention(split(self.q(x)), split(self.k(context)), split(self.v(context)), mask, causal=self.causal)
        return self.out(ops.reshape(ops.transpose(y, axes=(0, 2, 1, 3)), shape=(n, t, features)))

    def describe(self) -> str:
        return f"{self.heads} heads"


def sinusoidal(t, features: int, *, max_period: float = 10000.0, flip: bool = False, shift: float = 1.0,
               dtype=np.float32) -> Tensor:
    """Sinusoidal embedding of scalars t (N,) -> (N, features), without gradient.

    [sin(t fᵢ), cos(t fᵢ)] with fᵢ = max_period^(−i/(h−shift)), h = features/2 (Vaswani et al. 2017, §3.5, in the
    half-and-half order of Ho et al. 2020). flip: cosines first, as in Dhariwal & Nichol 2021 (with shift 0). Computed
    in float64, so that large t keep their phase.
    """
    h = features // 2
    if h <= shift:
        least = 2 * math.floor(shift) + 2
        raise ShapeError(f"sinusoidal with shift {shift:g} needs at least {least} features, not {features}.")
    t = t.data if isinstance(t, Tensor) else np.asarray(t)
    xp = backend.array_module([t])
    t = t.astype(np.float64).reshape(-1, 1)
    angles = t * xp.exp(-math.log(max_period) * xp.arange(h) / (h - shift))
    halves = [xp.cos(angles), xp.sin(angles)] if flip else [xp.sin(angles), xp.cos(angles)]
    if features % 2:
        halves.append(xp.zeros_like(t))
    return Tensor(xp.concatenate(halves, axis=1).astype(dtype))


class SinusoidalEmbedding(Module):
    """`sinusoidal` as a layer: t (N,) -> (N, features), float64 for a float64 Tensor and float32 for all else."""

    def __init__(self, features: int, flip: bool = False, shift: float = 1.0, max_period: float = 10000.0):
        self.features, self.flip, self.shift, self.max_period = features, flip, shift, max_period

    def forward(self, t) -> Tensor:
        dtype = t.dtype if isinstance(t, Tensor) and t.dtype.kind == "f" else np.float32
        return sinusoidal(t, self.features, max_period=self.max_period, flip=self.flip, shift=self.shift, dtype=dtype)

    def describe(self) -> str:
        return str(self.features)


class FourierFeatures(Module):
    """Random Fourier features (Tancik et al. 2020; Song et al. 2021): x (N,) -> [sin 2πxw, cos 2πxw] (N, features) with
    frozen w ~ N(0, scale²), a buffer."""

    def __init__(self, features: int, scale: float = 16.0, *, log: bool = False, flip: bool = False, rng=None):
        w = init_of(rng).normal((features // 2,), scale)
        self.w = Tensor(w.data)
        self.log, self.flip = log, flip

    def forward(self, x) -> Tensor:
        x = x if isinstance(x, Tensor) else Tensor(np.asarray(x, dtype=np.float32))
        if x.dtype != self.w.dtype:
            x = x.astype(self.w.dtype)
        x = ops.log(x) if self.log else x
        angles = ops.reshape(x, shape=(-1, 1)) * self.w * (2 * math.pi)
        halves = (ops.cos(angles), ops.sin(angles)) if self.flip else (ops.sin(angles), ops.cos(angles))
        return ops.concat(*halves, axis=1)

    def describe(self) -> str:
        return str(2 * self.w.shape[0])


class LSTMCell(Module):
    """One step of a long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):
    i, f, o = σ(·), c̃ = tanh(·), c ← f·c + i·c̃, h ← o·tanh c. x (N, in), h and c (N, features).

    One weight (in + features, 4·features), gates in the order i, f, c̃, o; the forget gate's bias starts at 1.
    """

    def __init__(self, features_in: int, features: int, *, law: str | float = "xavier", rng=None):
        init = init_of(rng)
        self.w = weight(init, (features_in + features, 4 * features), law)
        b = zeros((4 * features,))
        b.data[features : 2 * features] = 1.0
        self.b = b
        self.features = features

    def start(self, n: int) -> tuple[Tensor, Tensor]:
        """h and c of zeros for a batch of n."""
        zero = Tensor(np.zeros((n, self.features), self.w.dtype))
        return zero, zero

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = state or self.start(x.shape[0])
        gates = ops.matmul(ops.concat(x, h, axis=1), self.w) + self.b
        n = self.features
        i, f, o = (ops.sigmoid(gates[:, k * n : (k + 1) * n]) for k in (0, 1, 3))
        c = f * c + i * ops.tanh(gates[:, 2 * n : 3 * n])
        return o * ops.tanh(c), c

    def describe(self) -> str:
        return f"{self.w.shape[0] - self.features} → {self.features}"


class LSTM(Module):
    """Layers of LSTMCell over a sequence: x (N, T, in) -> (outputs (N, T, features), [(h, c) of each layer])."""

    def __init__(self, features_in: int, features: int, layers: int = 1, *, law: str | float = "xavier", rng=None):
        init = init_of(rng)
        self.cells = [LSTMCell(features_in if k == 0 else features, features, law=law, rng=init) for k in range(layers)]

    def forward(self, x: Tensor, states: list | None = None) -> tuple[Tensor, list]:
        states = list(states) if states is not None else [cell.start(x.shape[0]) for cell in self.cells]
        outputs = []
        for t in range(x.shape[1]):
            y = x[:, t]
            for k, cell in enumerate(self.cells):
                states[k] = cell(y, states[k])
                y = states[k][0]
            outputs.append(y)
        return ops.stack(*outputs, axis=1), states
