"""The same networks as models/, in plain PyTorch: for comparing times, with the same parameters in the same order.

Each is written as PyTorch code usually is: N,C,H,W modules, `scaled_dot_product_attention`, Adam and the moving average
in its multi-tensor forms. `settings` is the configuration of the tinygen model, as a dict; tests/test_bench.py carries
weights over and compares what comes out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# ---- the U-Net of ddpm


class ResBlock(nn.Module):
    def __init__(self, cin: int, cout: int, time: int, groups: int, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, cin, eps=1e-6)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(time, cout)
        self.norm2 = nn.GroupNorm(groups, cout, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x, t):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(t)[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class AttentionBlock(nn.Module):
    def __init__(self, c: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(c, c) for _ in range(4))

    def forward(self, x):
        n, c, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)  # N, H·W, C
        y = F.scaled_dot_product_attention(self.q(y)[:, None], self.k(y)[:, None], self.v(y)[:, None])[:, 0]
        return x + self.out(y).transpose(1, 2).reshape(n, c, h, w)


class Downsample(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    def __init__(self, s: dict[str, Any]):
        super().__init__()
        widths, layers, groups = s["widths"], s["layers"], s["groups"]
        self.first, time = widths[0], 4 * widths[0]
        self.time1, self.time2 = nn.Linear(self.first, time), nn.Linear(time, time)
        self.conv_in = nn.Conv2d(s["channels"], self.first, 3, padding=1)
        block = lambda a, b: ResBlock(a, b, time, groups, s["dropout"])
        self.down, kept, c = nn.ModuleList(), [self.first], self.first
        for level, width in enumerate(widths):
            stage = nn.ModuleDict({k: nn.ModuleList() for k in ("blocks", "attentions", "resample")})
            for _ in range(layers):
                stage["blocks"].append(block(c, width))
                if s["attention"][level]:
                    stage["attentions"].append(AttentionBlock(width, groups))
                c = width
                kept.append(c)
            if level < len(widths) - 1:
                stage["resample"].append(Downsample(c))
                kept.append(c)
            self.down.append(stage)
        self.middle = nn.ModuleList([block(c, c), AttentionBlock(c, groups), block(c, c)])
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stage = nn.ModuleDict({k: nn.ModuleList() for k in ("blocks", "attentions", "resample")})
            for _ in range(layers + 1):
                stage["blocks"].append(block(c + kept.pop(), width))
                if s["attention"][level]:
                    stage["attentions"].append(AttentionBlock(width, groups))
                c = width
            if level:
                stage["resample"].append(Upsample(c))
            self.up.append(stage)
        self.norm_out = nn.GroupNorm(groups, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, s["channels"], 3, padding=1)

    def embed(self, t):
        half = self.first // 2
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / (half - 1))
        return torch.cat([angles.sin(), angles.cos()], 1)

    def forward(self, x, t):
        time = F.silu(self.time2(F.silu(self.time1(self.embed(t)))))
        h = self.conv_in(x)
        kept = [h]
        for stage in self.down:
            for i, block in enumerate(stage["blocks"]):
                h = block(h, time)
                if len(stage["attentions"]):
                    h = stage["attentions"][i](h)
                kept.append(h)
            for layer in stage["resample"]:
                h = layer(h)
                kept.append(h)
        first, attention, second = self.middle
        h = second(attention(first(h, time)), time)
        for stage in self.up:
            for i, block in enumerate(stage["blocks"]):
                h = block(torch.cat([h, kept.pop()], 1), time)
                if len(stage["attentions"]):
                    h = stage["attentions"][i](h)
            for layer in stage["resample"]:
                h = layer(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def abar(s: dict[str, Any]):
    """ᾱ_t of the schedule, float64 (T,)."""
    T = s["T"]
    if s["schedule"] == "linear":
        return torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), 0)
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2) ** 2  # cosine
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=0.999), 0)


# ---- the perceptron GAN


def gan_nets(s: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """(G, D) of gan's small preset."""
    shape = (s["channels"], s["image_size"], s["image_size"])
    sizes = [s["latent"], *s["g_widths"]]
    hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())]
    G = nn.Sequential(*hidden, nn.Linear(sizes[-1], math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape))
    sizes = [math.prod(shape), *s["d_widths"]]
    hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return G, nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], 1))


# ---- dcgan


class DCGANGenerator(nn.Module):
    def __init__(self, s: dict[str, Any]):
        super().__init__()
        layers = (s["image_size"] // s["base"]).bit_length() - 1
        maps, k = [s["width"] << i for i in range(layers - 1, -1, -1)], s["kernel"]
        self.first = (maps[0], s["base"], s["base"])
        self.project = nn.Linear(s["latent"], math.prod(self.first), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(m) for m in maps)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, k, 2, (k - 1) // 2, k % 2, bias=False)
                                 for a, b in zip(maps, [*maps[1:], s["channels"]]))

    def forward(self, z):
        h = self.project(z).unflatten(1, self.first)
        for norm, up in zip(self.norms, self.ups):
            h = up(F.relu(norm(h)))
        return torch.tanh(h)


class DCGANDiscriminator(nn.Module):
    def __init__(self, s: dict[str, Any]):
        super().__init__()
        layers = (s["image_size"] // s["base"]).bit_length() - 1
        maps, k = [s["width"] << i for i in range(layers)], s["kernel"]
        self.downs = nn.ModuleList(nn.Conv2d(a, b, k, 2, (k - 1) // 2, bias=False)
                                   for a, b in zip([s["channels"], *maps], maps))
        self.norms = nn.ModuleList(nn.BatchNorm2d(m) for m in maps[1:])
        self.out = nn.Linear(s["base"] ** 2 * maps[-1], 1, bias=False)

    def forward(self, x):
        h = F.leaky_relu(self.downs[0](x), 0.2)
        for down, norm in zip(self.downs[1:], self.norms):
            h = F.leaky_relu(norm(down(h)), 0.2)
        return self.out(h.flatten(1))


# ---- conv_vae


class ConvVAE(nn.Module):
    """Encoder and decoder of conv_vae, with transposed convolutions; Bernoulli pixels, or Gaussian ones of one learned
    variance. Raises ValueError for other settings."""

    def __init__(self, s: dict[str, Any]):
        super().__init__()
        gaussian = s["decoder"] == "gaussian"
        known = {"up": "transposed", "act": "relu", "binarise": "no", **({"variance": "shared"} if gaussian else {})}
        if any(s[k] != v for k, v in known.items()):
            raise ValueError("the PyTorch twin of conv_vae has no such variant; give it one in torch_models.py.")
        self.pixels = nn.Parameter(torch.full((1,), 2 * math.log(s["sigma"]))) if gaussian else None  # log σ²
        side = s["image_size"] >> len(s["widths"])
        self.base = (s["widths"][-1], side, side)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip([s["channels"], *s["widths"]], s["widths"]))
        sizes = [math.prod(self.base), *s["hidden"]]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.mean, self.logvar = nn.Linear(sizes[-1], s["latent"]), nn.Linear(sizes[-1], s["latent"])
        sizes = [s["latent"], *reversed(s["hidden"]), math.prod(self.base)]
        self.undo = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        widths = [*reversed(s["widths"]), s["channels"]]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:]))

    def encode(self, x):
        for down in self.downs:
            x = F.relu(down(x))
        h = x.flatten(1)
        for layer in self.hidden:
            h = F.relu(layer(h))
        return self.mean(h), self.logvar(h)

    def decode(self, z):
        for layer in self.undo:
            z = F.relu(layer(z))
        h = z.unflatten(1, self.base)
        for up in self.ups[:-1]:
            h = F.relu(up(h))
        return self.ups[-1](h)

    def nll(self, out, x):
        """−log p(x|z) of images in [−1, 1], the mean over them."""
        if self.pixels is None:
            return F.binary_cross_entropy_with_logits(out, 0.5 * x + 0.5, reduction="sum") / len(x)
        elements = (x - out).square() * (-self.pixels).exp() + self.pixels + math.log(2 * math.pi)
        return 0.5 * elements.sum() / len(x)
