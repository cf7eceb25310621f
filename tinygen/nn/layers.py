"""The layers that multiply: linear, convolutions, embedding, and how images are resized between them.

Weights are (…, in, out): Linear (in, out), convolutions (kh, kw, in/groups, out). `law` names the initial law of
`init.weight`; biases start from U(±1/√fan_in) with the default law and from zero with any other.
"""

from __future__ import annotations

import math

from .. import ops
from ..tensor import Tensor
from .init import fans, init_of, weight, zeros
from .module import Module


def _bias(init, shape, law, features: int) -> Tensor:
    if law == "default":
        return init.uniform((features,), 1 / math.sqrt(max(fans(shape)[0], 1)))
    return zeros((features,))


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class Linear(Module):
    """y = x w + b over the last axis. x (…, features_in) -> (…, features_out); w (features_in, features_out)."""

    def __init__(self, features_in: int, features_out: int, bias: bool = True, *, law: str | float = "default",
                 rng=None):
        init = init_of(rng)
        shape = (features_in, features_out)
        self.w = weight(init, shape, law)
        self.b = _bias(init, shape, law, features_out) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.w, self.b)

    def describe(self) -> str:
        return f"{self.w.shape[0]} → {self.w.shape[1]}"


class Conv2d(Module):
    """2-D convolution (cross-correlation). x N,H,W,C_in -> N,H',W',C_out; w (kh, kw, C_in/groups, C_out), b (C_out,).

    padding: an int, (ph, pw), ((top, bottom), (left, right)) or "same". layer(x, add=r) is layer(x) + r, in one pass.
    """

    def __init__(self, channels_in: int, channels_out: int, size=3, stride=1, padding=0, dilation=1, groups: int = 1,
                 bias: bool = True, *, law: str | float = "default", rng=None):
        init = init_of(rng)
        shape = (*_pair(size), channels_in // groups, channels_out)
        self.w = weight(init, shape, law)
        self.b = _bias(init, shape, law, channels_out) if bias else None
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        how = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        if add is not None:
            return ops.conv2d_add(x, self.w, self.b, add, **how)
        return ops.conv2d(x, self.w, self.b, **how)

    def describe(self) -> str:
        kh, kw, c, f = self.w.shape
        stride = "" if self.stride in (1, (1, 1)) else f", stride {self.stride}"
        return f"{c * self.groups} → {f}, {kh}×{kw}{stride}"


class Conv1d(Module):
    """1-D convolution. x N,L,C_in -> N,L',C_out; w (k, C_in/groups, C_out), b (C_out,)."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3, stride: int = 1, padding=0,
                 dilation: int = 1, groups: int = 1, bias: bool = True, *, law: str | float = "default", rng=None):
        init = init_of(rng)
        shape = (size, channels_in // groups, channels_out)
        self.w = weight(init, shape, law)
        self.b = _bias(init, shape, law, channels_out) if bias else None
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv1d(x, self.w, self.b, stride=self.stride, padding=self.padding, dilation=self.dilation,
                          groups=self.groups)

    def describe(self) -> str:
        return f"{self.w.shape[1] * self.groups} → {self.w.shape[2]}, {self.w.shape[0]}"


class ConvTranspose2d(Module):
    """The adjoint of a strided convolution ("deconvolution"), which enlarges. x N,H,W,C_in -> N,H',W',C_out with
    H' = (H−1)·stride − 2·padding + size + output_padding; w (kh, kw, C_in, C_out)."""

    def __init__(self, channels_in: int, channels_out: int, size=4, stride=2, padding=1, output_padding=0,
                 bias: bool = True, *, law: str | float = "default", rng=None):
        init = init_of(rng)
        shape = (*_pair(size), channels_in, channels_out)
        self.w = weight(init, shape, law)
        self.b = _bias(init, shape, law, channels_out) if bias else None
        self.stride, self.padding, self.output_padding = stride, padding, output_padding

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv_transpose2d(x, self.w, self.b, stride=self.stride, padding=self.padding,
                                    output_padding=self.output_padding)

    def describe(self) -> str:
        kh, kw, c, f = self.w.shape
        return f"{c} → {f}, {kh}×{kw}, stride {self.stride}"


class Embedding(Module):
    """A table of vectors, looked up by integer: ids (…) -> (…, features). w (entries, features) ~ N(0, 1)."""

    def __init__(self, entries: int, features: int, *, law: str | float = 1.0, rng=None):
        self.w = weight(init_of(rng), (entries, features), law)

    def forward(self, ids) -> Tensor:
        return ops.embedding(self.w, ids)

    def describe(self) -> str:
        return f"{self.w.shape[0]} × {self.w.shape[1]}"


class Upsample(Module):
    """Enlarge N,H,W,C by an integer factor, nearest or bilinear (half-pixel centres), then convolve 3×3 if conv."""

    def __init__(self, channels: int, scale: int = 2, conv: bool = True, mode: str = "nearest", *,
                 channels_out: int | None = None, law: str | float = "default", rng=None):
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f"Upsample: mode is 'nearest' or 'bilinear', not {mode!r}.")
        self.scale, self.mode = scale, mode
        self.conv = Conv2d(channels, channels_out or channels, 3, padding=1, law=law, rng=rng) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "nearest":
            x = ops.resize_nearest(x, self.scale)
        else:
            x = ops.resize_bilinear(x, (x.shape[1] * self.scale, x.shape[2] * self.scale))
        return x if self.conv is None else self.conv(x)

    def describe(self) -> str:
        return f"×{self.scale} {self.mode}"


class Downsample(Module):
    """Halve N,H,W,C: a 3×3 convolution of stride 2, or a 2×2 mean if not conv.

    asymmetric: pad right and below only, as the U-Net of Ho et al. 2020 does; otherwise on all sides.
    """

    def __init__(self, channels: int, conv: bool = True, asymmetric: bool = False, *, channels_out: int | None = None,
                 law: str | float = "default", rng=None):
        padding = ((0, 1), (0, 1)) if asymmetric else 1
        self.conv = Conv2d(channels, channels_out or channels, 3, 2, padding, law=law, rng=rng) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(x, 2) if self.conv is None else self.conv(x)

    def describe(self) -> str:
        return "÷2"
