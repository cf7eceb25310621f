"""The normalisations. All act on N,…,C; gains w start at one, offsets b at zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops, tape
from ..tensor import Tensor
from .init import ones, zeros
from .module import Module


class BatchNorm(Module):
    """Batch normalisation (Ioffe & Szegedy 2015, Algorithms 1 and 2): per channel, over the batch and all positions.

    In training the statistics are the batch's (biased variance), and running means of them are kept in buffers:
    running ← (1−momentum)·running + momentum·batch, with the unbiased variance, as PyTorch does. In evaluation the
    running ones are used.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        self.w = ones((channels,)) if affine else None
        self.b = zeros((channels,)) if affine else None
        self.mean = Tensor(np.zeros(channels, np.float32))
        self.var = Tensor(np.ones(channels, np.float32))
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return ops.batch_norm_inference(x, self.w, self.b, self.mean, self.var, eps=self.eps)
        y, mean, var = ops.batch_norm(x, self.w, self.b, eps=self.eps)
        if not tape.replaying():
            n = x.size // x.shape[-1]
            m = self.momentum
            self.mean.assign((1 - m) * self.mean.data + m * mean.data)
            self.var.assign((1 - m) * self.var.data + m * (n / max(n - 1, 1)) * var.data)
        return y

    def describe(self) -> str:
        return str(self.mean.shape[0])


class LayerNorm(Module):
    """Layer normalisation (Ba et al. 2016) over the last axis."""

    def __init__(self, features: int, eps: float = 1e-5, affine: bool = True):
        self.w = ones((features,)) if affine else None
        self.b = zeros((features,)) if affine else None
        self.features, self.eps = features, eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.w, self.b, eps=self.eps)

    def describe(self) -> str:
        return str(self.features)


class GroupNorm(Module):
    """Group normalisation (Wu & He 2018, eq. 1-7): per sample, over positions and the channels of a group.
    silu: apply SiLU to the result in the same pass."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, silu: bool = False):
        if channels % groups:
            raise ValueError(f"GroupNorm: {channels} channels do not split into {groups} groups.")
        self.w, self.b = ones((channels,)), zeros((channels,))
        self.groups, self.eps, self.silu = groups, eps, silu

    def forward(self, x: Tensor) -> Tensor:
        return ops.group_norm(x, self.w, self.b, groups=self.groups, eps=self.eps, silu=self.silu)

    def describe(self) -> str:
        return f"{self.w.shape[0]} in {self.groups}" + (" + SiLU" if self.silu else "")


class InstanceNorm(Module):
    """Instance normalisation (Ulyanov et al. 2016): per sample and channel, over positions."""

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = False):
        self.w = ones((channels,)) if affine else None
        self.b = zeros((channels,)) if affine else None
        self.channels, self.eps = channels, eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.instance_norm(x, self.w, self.b, eps=self.eps)

    def describe(self) -> str:
        return str(self.channels)


class SpectralNorm(Module):
    """A layer whose weight is divided by its largest singular value σ (Miyato et al. 2018, Algorithm 1).

    The weight, as a matrix (everything but the last axis) × (last axis), gets one power iteration a training call:
    v ← Wᵀu/‖·‖, u ← Wv/‖·‖, σ = uᵀWv. u and v are buffers, replaced and not mutated, so that two calls in one loss do
    not disturb each other; evaluation leaves them alone. The gradient flows through W, not through u and v. Under
    `recompute` a function that runs again finds the u and v of the layer's last training call: call it once a loss.
    """

    def __init__(self, layer: Any, iterations: int = 1, eps: float = 1e-12, warm_up: int = 15):
        self.layer, self.iterations, self.eps = layer, iterations, eps
        matrix = self._matrix(layer.w.data)
        u = np.random.Generator(np.random.Philox(key=matrix.shape)).standard_normal(matrix.shape[0])
        self.u = Tensor((u / np.linalg.norm(u)).astype(matrix.dtype))
        self.v = Tensor(np.zeros(matrix.shape[1], matrix.dtype))
        self._iterate(warm_up)

    @staticmethod
    def _matrix(w):
        return w.reshape(-1, w.shape[-1])

    def _iterate(self, times: int) -> None:
        matrix, u, v = self._matrix(self.layer.w.data), self.u.data, self.v.data
        xp = tape.backend.array_module([matrix])
        for _ in range(times):
            v = matrix.T @ u
            v = v / xp.maximum(xp.linalg.norm(v), self.eps)
            u = matrix @ v
            u = u / xp.maximum(xp.linalg.norm(u), self.eps)
        self.u, self.v = Tensor(u), Tensor(v)

    def sigma(self) -> Tensor:
        """uᵀWv/‖u‖‖v‖, the estimate of the largest singular value, differentiable in W. Training leaves u and v of
        length 1; only their moving averages, which an EMA puts in their place, are shorter."""
        w = self.layer.w
        s = ops.sum(ops.matmul(self.u, ops.reshape(w, shape=(-1, w.shape[-1]))) * self.v)
        if self.training:
            return s
        xp = tape.backend.array_module([self.u.data])
        return s * float(1 / (xp.linalg.norm(self.u.data) * xp.linalg.norm(self.v.data)))

    def forward(self, *args, **kwargs):
        if self.training and not tape.replaying():
            self._iterate(self.iterations)
        w = self.layer.w
        self.layer.w = w / self.sigma()
        try:
            return self.layer(*args, **kwargs)
        finally:
            self.layer.w = w


class WeightNorm(Module):
    """A layer whose weight is w = g · v/‖v‖, the norm taken per output (Salimans & Kingma 2016, eq. 2)."""

    def __init__(self, layer: Any):
        self.layer = layer
        v = layer.w.data
        axes = tuple(range(v.ndim - 1))
        self.g = Tensor(np.sqrt((v * v).sum(axes)), requires_grad=True)

    def forward(self, *args, **kwargs):
        v = self.layer.w
        axes = tuple(range(v.ndim - 1))
        self.layer.w = v * (self.g * ops.rsqrt(ops.sum(v * v, axis=axes)))
        try:
            return self.layer(*args, **kwargs)
        finally:
            self.layer.w = v
