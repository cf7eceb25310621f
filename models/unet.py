"""The U-Net of diffusion models: residual blocks with a time embedding, self-attention, skips between equal sizes.

The network of Ho et al. 2020, "Denoising Diffusion Probabilistic Models", Appendix B, with the switches that later
work added (Nichol & Dhariwal 2021: scale and shift; Dhariwal & Nichol 2021: heads, resampling in the blocks; Song et
al. 2021: Fourier features of time). It covers diffusers' `UNet2DModel`; the names there are given in the docstring of
UNet, and tests/test_parity_diffusers.py compares the two.

Reading order: ResBlock, AttentionBlock, UNet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen import nn, ops
from tinygen.nn import Conv2d, Dropout, FourierFeatures, GroupNorm, Linear, Module
from tinygen.tensor import Tensor

ACTIVATIONS = {
    "silu": ops.silu,
    "relu": ops.relu,
    "gelu": ops.gelu,
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
}


class ResBlock(Module):
    """GroupNorm → SiLU → conv 3×3 → + time → GroupNorm → SiLU → dropout → conv 3×3, added to the input.

    x N,H,W,channels -> N,H',W',channels_out. t is SiLU of the time embedding (N, time_features), which is
    added before the second norm, or with scale_shift becomes a scale and a shift after it: h·(1 + s) + b. resample
    "down" halves and "up" doubles both paths after the first activation. The sum is divided by `scale`. Another
    activation takes the place of every SiLU here.
    """

    def __init__(self, channels: int, channels_out: int, time_features: int, *, groups: int, eps: float,
                 activation: str, scale_shift: bool, dropout: float, scale: float = 1.0, resample: str | None = None,
                 law, zero, rng):
        silu = activation == "silu"
        self.norm1 = GroupNorm(groups, channels, eps, silu=silu)
        self.conv1 = Conv2d(channels, channels_out, 3, padding=1, law=law, rng=rng)
        self.time = Linear(time_features, channels_out * (2 if scale_shift else 1), law=law, rng=rng)
        self.norm2 = GroupNorm(groups, channels_out, eps, silu=silu and not scale_shift)
        self.dropout = Dropout(dropout, rng=rng)
        self.conv2 = Conv2d(channels_out, channels_out, 3, padding=1, law=zero, rng=rng)
        self.skip = Conv2d(channels, channels_out, 1, law=law, rng=rng) if channels != channels_out else None
        self.scale_shift, self.scale, self.resample = scale_shift, scale, resample
        self._activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.norm1(x)
        if not self.norm1.silu:
            h = self._activation(h)
        if self.resample == "down":
            x, h = ops.avg_pool2d(x, 2), ops.avg_pool2d(h, 2)
        elif self.resample == "up":
            x, h = ops.resize_nearest(x, 2), ops.resize_nearest(h, 2)
        h = self.conv1(h)
        t = self.time(t)
        t = ops.reshape(t, shape=(t.shape[0], 1, 1, t.shape[1]))  # N,1,1,C or N,1,1,2C
        if self.scale_shift:
            c = h.shape[-1]
            h = self.norm2(h) * (1.0 + t[..., :c]) + t[..., c:]
        else:
            h = self.norm2(h + t)
        if not self.norm2.silu:
            h = self._activation(h)
        h = self.conv2(self.dropout(h), add=x if self.skip is None else self.skip(x))
        return h if self.scale == 1.0 else h * (1.0 / self.scale)

    def describe(self) -> str:
        return self.resample or ""


class AttentionBlock(Module):
    """GroupNorm → self-attention over all positions → added to the input. x N,H,W,C; heads of head_dim channels."""

    def __init__(self, channels: int, *, head_dim: int | None, groups: int | None, eps: float, scale: float = 1.0, law,
                 zero, rng):
        self.norm = GroupNorm(groups, channels, eps) if groups else None
        if head_dim and channels % head_dim:
            raise ValueError(f"UNet: {channels} channels do not split into heads of {head_dim}.")
        heads = channels // head_dim if head_dim else 1
        self.attention = nn.MultiHeadAttention(channels, heads, law=law, out_law=zero, rng=rng)
        self.scale = scale

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        n, h, w, c = x.shape
        y = x if self.norm is None else self.norm(x)
        y = self.attention(ops.reshape(y, shape=(n, h * w, c)))  # N, H·W, C
        y = x + ops.reshape(y, shape=x.shape)
        return y if self.scale == 1.0 else y * (1.0 / self.scale)


class UNet(Module):
    """ε̂ = f(x_t, t): N,H,W,C images and N times to N,H,W,channels_out.

    Parameter (diffusers' UNet2DModel in brackets):
    channels, channels_out   of the image and of the output; channels_out=None for the same
    widths                   channels at each resolution, which halves from one to the next [block_out_channels]
    layers                   residual blocks a resolution; one more on the way up [layers_per_block]
    attention                a bool for each resolution: attention after each of its blocks [AttnDownBlock2D]
    mid_block, mid_attention the blocks at the bottom; attention between them [mid_block_type, add_attention]
    head_dim                 channels of an attention head; None: one head [attention_head_dim]
    groups, eps              of the group norms [norm_num_groups, norm_eps]
    mid_groups               of the middle attention's norm; default as diffusers: groups, but no norm there with
                             scale_shift [attn_norm_num_groups]
    time                     "sinusoidal", "fourier" (of log t; the output is divided by t) or "learned" (a table of
                             `timesteps` entries) [time_embedding_type]
    time_features            of the time embedding; default 4·widths[0] [time_embedding_dim]
    flip, shift              order and spacing of the sinusoids, see nn.sinusoidal [flip_sin_to_cos, freq_shift]
    classes, class_embedding number of classes; "table", "timestep" (embedded as times are) or "identity" (vectors
                             are passed) [num_class_embeds, class_embed_type]
    scale_shift              [resnet_time_scale_shift="scale_shift"]
    resample                 "conv" or "resnet" (a residual block that resamples) [downsample_type, upsample_type]
    asymmetric               pad strided convolutions right and below only [downsample_padding=0]
    mid_scale                the middle's sums are divided by it [mid_block_scale_factor]
    activation, dropout      [act_fn, dropout]; the activation is the blocks': the layers of the time embedding, and
                             the last one, have SiLU
    centre_input             x ← 2x − 1 first [center_input_sample]
    law                      initial law of all weights but those that start at zero: each block's last convolution,
                             the attentions' output, and the network's (Ho et al.); zero=False: none does
    H and W must be divisible by 2^(len(widths) − 1).
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (128, 256, 256, 256), *,
                 channels_out: int | None = None, layers: int = 2,
                 attention: tuple[bool, ...] = (False, True, False, False), mid_block: bool = True,
                 mid_attention: bool = True, head_dim: int | None = None, groups: int = 32, eps: float = 1e-6,
                 mid_groups: int | None = None, time: str = "sinusoidal", time_features: int | None = None,
                 timesteps: int | None = None, flip: bool = False, shift: float = 1.0, fourier_scale: float = 16.0,
                 classes: int | None = None, class_embedding: str = "table", scale_shift: bool = False,
                 resample: str = "conv", asymmetric: bool = True, mid_scale: float = 1.0, activation: str = "silu",
                 dropout: float = 0.0, centre_input: bool = False, law: str | float = "xavier", zero: bool = True,
                 rng=None):
        if len(attention) != len(widths):
            raise ValueError(f"UNet: {len(attention)} attention switches for {len(widths)} widths; give one for each.")
        for name, value, choices in (("time", time, ("sinusoidal", "fourier", "learned")),
                                     ("resample", resample, ("conv", "resnet")),
                                     ("class_embedding", class_embedding, ("table", "timestep", "identity")),
                                     ("activation", activation, tuple(ACTIVATIONS))):
            if value not in choices:
                raise ValueError(f"UNet: {name} is one of {', '.join(choices)}, not {value!r}.")
        if time == "learned" and not timesteps:
            raise ValueError("UNet: time='learned' needs timesteps, the number of entries of its table.")
        init = nn.Init(rng, "unet.init") if not isinstance(rng, nn.Init) and rng is not None else rng
        last = "zeros" if zero else law
        first, bottom = widths[0], widths[-1]
        features = time_features or 4 * first
        self.centre_input, self.time_kind, self.class_kind = centre_input, time, class_embedding
        self.widths = tuple(widths)
        self._activation = ACTIVATIONS[activation]

        # time and class
        self.time_table = nn.Embedding(timesteps, first, rng=init) if time == "learned" and timesteps else None
        self.fourier = FourierFeatures(2 * first, fourier_scale, log=True, rng=init) if time == "fourier" else None
        self.flip, self.shift = flip, shift
        time_in = 2 * first if time == "fourier" else first
        self.time1 = Linear(time_in, features, law=law, rng=init)
        self.time2 = Linear(features, features, law=law, rng=init)
        self.classes = classes
        if class_embedding == "timestep":
            self.class1 = Linear(time_in, features, law=law, rng=init)
            self.class2 = Linear(features, features, law=law, rng=init)
        elif class_embedding == "table" and classes:
            self.class_table = nn.Embedding(classes, features, rng=init)

        block: dict[str, Any] = dict(groups=groups, eps=eps, activation=activation, scale_shift=scale_shift,
                                     dropout=dropout, law=law, zero=last, rng=init)
        heads: dict[str, Any] = dict(head_dim=head_dim, eps=eps, law=law, zero=last, rng=init)

        # down: at each resolution `layers` blocks, then halve; what is computed on the way is kept for the way up
        self.conv_in = Conv2d(channels, first, 3, padding=1, law=law, rng=init)
        self.down, kept, c = [], [first], first
        for level, width in enumerate(widths):
            stage: dict[str, list] = {"blocks": [], "attentions": [], "resample": []}
            for _ in range(layers):
                stage["blocks"].append(ResBlock(c, width, features, **block))
                if attention[level]:
                    stage["attentions"].append(AttentionBlock(width, groups=groups, **heads))
                c = width
                kept.append(c)
            if level < len(widths) - 1:
                stage["resample"].append(ResBlock(c, c, features, resample="down", **block) if resample == "resnet" else
                                         nn.Downsample(c, asymmetric=asymmetric, law=law, rng=init))
                kept.append(c)
            self.down.append(stage)

        # middle
        self.middle: list[Module] = []
        if mid_block:
            self.middle.append(ResBlock(c, bottom, features, scale=mid_scale, **block))
            if mid_attention:
                norm = mid_groups or (None if scale_shift else groups)
                self.middle.append(AttentionBlock(bottom, groups=norm, scale=mid_scale, **heads))
            self.middle.append(ResBlock(bottom, bottom, features, scale=mid_scale, **block))

        # up: layers + 1 blocks at each resolution, each on the concatenation with what was kept, then double
        self.up = []
        for level, width in reversed(list(enumerate(widths))):
            stage = {"blocks": [], "attentions": [], "resample": []}
            for _ in range(layers + 1):
                stage["blocks"].append(ResBlock(c + kept.pop(), width, features, **block))
                if attention[level]:
                    stage["attentions"].append(AttentionBlock(width, groups=groups, **heads))
                c = width
            if level > 0:
                stage["resample"].append(ResBlock(c, c, features, resample="up", **block) if resample == "resnet" else
                                         nn.Upsample(c, law=law, rng=init))
            self.up.append(stage)

        self.norm_out = GroupNorm(groups, first, eps, silu=True)
        self.conv_out = Conv2d(first, channels_out or channels, 3, padding=1, law=last, rng=init)

    def embed(self, t: Tensor) -> Tensor:
        """The features of times t (N,) before the two linear layers."""
        dtype = self.time1.w.dtype
        if self.fourier is not None:
            return self.fourier(t.astype(dtype))
        if self.time_table is not None:
            return self.time_table(t.astype(np.int64))
        return nn.sinusoidal(t, self.time1.w.shape[0], flip=self.flip, shift=self.shift, dtype=dtype)

    def _on_device(self, values, n: int) -> Tensor:
        """One number for each of n samples, or one for all: times or labels, wherever they lie."""
        if not isinstance(values, Tensor):
            values = Tensor(np.broadcast_to(np.asarray(values), (n,)))
        return values if values.device == self.time1.w.device else values.to(self.time1.w.device)

    def forward(self, x: Tensor, t, labels=None) -> Tensor:
        n, height, width, _ = x.shape
        shrink = 2 ** (len(self.widths) - 1)
        if height % shrink or width % shrink:
            raise ValueError(f"UNet: {len(self.widths)} resolutions need sides divisible by {shrink}, "
                             f"not {height}×{width}.")
        t = self._on_device(t, n)
        if (labels is None) == bool(self.classes or self.class_kind != "table"):
            raise ValueError("UNet: labels are passed if, and only if, the network has classes.")
        time = self.time2(ops.silu(self.time1(self.embed(t))))
        if self.class_kind == "identity":
            time = time + labels
        elif self.class_kind == "timestep":
            time = time + self.class2(ops.silu(self.class1(self.embed(self._on_device(labels, n)))))
        elif self.classes:
            time = time + self.class_table(self._on_device(labels, n))
        time = self._activation(time)  # every block takes this of it: once for all

        if self.centre_input:
            x = 2.0 * x - 1.0
        h = self.conv_in(x)
        kept = [h]
        for stage in self.down:
            for i, block in enumerate(stage["blocks"]):
                h = block(h, time)
                if stage["attentions"]:
                    h = stage["attentions"][i](h)
                kept.append(h)
            for layer in stage["resample"]:
                h = layer(h, time) if isinstance(layer, ResBlock) else layer(h)
                kept.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for stage in self.up:
            for i, block in enumerate(stage["blocks"]):
                h = block(ops.concat(h, kept.pop(), axis=-1), time)
                if stage["attentions"]:
                    h = stage["attentions"][i](h)
            for layer in stage["resample"]:
                h = layer(h, time) if isinstance(layer, ResBlock) else layer(h)
        h = self.conv_out(self.norm_out(h))
        if self.time_kind == "fourier":
            h = h / ops.reshape(t.astype(h.dtype), shape=(-1, 1, 1, 1))
        return h
