"""The deep convolutional GAN, and arithmetic with its latent vectors.

Radford, Metz & Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks". Its guidelines (§3): strided convolutions in D and strided transposed ones in G instead
of pooling; batch norm in both, but not at G's output nor at D's input; no hidden fully connected layers; ReLU
in G with tanh at the end, leaky ReLU 0.2 in D; weights from N(0, 0.02²), batch norm's gains from N(1, 0.02²);
Adam with rate 2e-4 and β₁ = 0.5.

The game is that of gan.py, with the non-saturating loss. Batch norm makes two choices matter:
- D sees real images and fakes in separate batches, as in the authors' code: each is normalised by its own
statistics. - G's running statistics are followed in both halves of a step, for both draw from the same G.
Samples are made in
  evaluation mode, with a moving average of G's weights and of those statistics, so that a sample depends on
  its z alone.

In the latent space (§6.3): `interpolate`, `arithmetic`, and the pictures of both in `figures`. A mean of
three z has a third of the variance of one, so mean − mean + mean is spread exactly as z itself is; with
single exemplars it is √3 as wide, outside of what G has seen: the paper's remark that single exemplars are
unstable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygen as tg
from tinygen import losses, nn, ops
from tinygen.backend import move
from tinygen.config import field
from tinygen.data.image import to_uint8
from tinygen.errors import ConfigError, ShapeError
from tinygen.nn import BatchNorm, Conv2d, ConvTranspose2d, Linear, Module
from tinygen.optim import EMA, Adam
from tinygen.rng import Rng
from tinygen.tensor import Tensor

__all__ = ["DCGAN", "MODEL", "PRESETS", "Config", "Discriminator", "Generator", "ink", "lerp", "slant",
           "slerp"]


@dataclass(frozen=True)
class Config:
    image_size: int = field(8, "side of the images, in pixels; taken from the data")
    channels: int = field(1, "colour channels; taken from the data")
    latent: int = field(32, "dimensions of the noise z")
    noise: str = field("normal", "of z: standard normal, or U(−1, 1) as in the paper", choices=("normal", "uniform"))
    base: int = field(2, "side of G's first feature map; each layer doubles it up to the image's")
    width: int = field(64, "feature maps next to the image; each layer away from it has twice as many")
    kernel: int = field(4, "side of the convolutions", choices=(4, 5))
    batch_size: int = field(64, "images in a training step")
    lr: float = field(2e-4, "learning rate of Adam, for both")
    beta1: float = field(0.5, "of Adam")
    ema: float = field(0.999, "decay of the moving average of G, for sampling")

    def __post_init__(self):
        if self.layers < 1 or self.base << self.layers != self.image_size:
            raise ConfigError(f"dcgan starts at {self.base}×{self.base} and doubles: the side of its images is "
                              f"{self.base} · 2, · 4, · 8 …, not {self.image_size}; resize them, or set --base.")

    @property
    def layers(self) -> int:
        """How often G doubles the side."""
        return max(self.image_size // self.base, 1).bit_length() - 1


PRESETS = {
    "small": {},
    # 64×64, 1024 maps at 4×4 (Figure 1), the settings of §4 and the authors' code; ours alone is the moving
    # average.
    "paper": {
        "image_size": 64, "channels": 3, "latent": 100, "noise": "uniform", "base": 4, "width": 128, "kernel": 5,
        "batch_size": 128,
    },
}  # fmt: skip

STD = 0.02


def _norm(channels: int, rng: nn.Init) -> BatchNorm:
    norm = BatchNorm(channels)
    norm.w = rng.normal((channels,), STD, mean=1.0)
    return norm


class Generator(Module):
    """z N,latent -> images N,H,W,C: a projection to base × base, then transposed convolutions of stride 2."""

    def __init__(self, config: Config, rng: nn.Init):
        c = config
        maps = [c.width << k for k in range(c.layers - 1, -1, -1)]  # 1024, 512, 256, 128
        self._first = (c.base, c.base, maps[0])
        self.project = Linear(c.latent, c.base * c.base * maps[0], bias=False, law=STD, rng=rng)
        self.norms = [_norm(m, rng) for m in maps]
        self.ups = [ConvTranspose2d(a, b, c.kernel, stride=2, padding=(c.kernel - 1) // 2,
                                    output_padding=c.kernel % 2, bias=False, law=STD, rng=rng)
                    for a, b in zip(maps, [*maps[1:], c.channels])]

    def forward(self, z: Tensor) -> Tensor:
        h = ops.reshape(self.project(z), shape=(z.shape[0], *self._first))
        for norm, up in zip(self.norms, self.ups):
            h = up(ops.relu(norm(h)))
        return ops.tanh(h)


class Discriminator(Module):
    """Images N,H,W,C -> logits N,1: convolutions of stride 2, then one linear unit."""

    def __init__(self, config: Config, rng: nn.Init):
        c = config
        maps = [c.width << k for k in range(c.layers)]  # 128, 256, 512, 1024
        self.downs = [Conv2d(a, b, c.kernel, stride=2, padding=(c.kernel - 1) // 2, bias=False, law=STD, rng=rng)
                      for a, b in zip([c.channels, *maps], maps)]
        self.norms = [_norm(m, rng) for m in maps[1:]]
        self.out = Linear(c.base * c.base * maps[-1], 1, bias=False, law=STD, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        h = ops.leaky_relu(self.downs[0](x), slope=0.2)
        for down, norm in zip(self.downs[1:], self.norms):
            h = ops.leaky_relu(norm(down(h)), slope=0.2)
        return self.out(ops.reshape(h, shape=(x.shape[0], -1)))


class DCGAN(Module):
    """Deep convolutional GAN, with interpolation and arithmetic in its latent space (Radford et al. 2016)."""

    data, steps = "digits", 4000
    saved = ("iteration",)

    def __init__(self, config: Config, rng: Rng):
        c = self.config = config
        self.generator = Generator(c, nn.Init(rng, "dcgan.init.g"))
        self.discriminator = Discriminator(c, nn.Init(rng, "dcgan.init.d"))
        self.ema = EMA(self.generator, c.ema)
        self.d_optimizer = Adam(self.discriminator.parameters(), c.lr, betas=(c.beta1, 0.999))
        self.g_optimizer = Adam(self.generator.parameters(), c.lr, betas=(c.beta1, 0.999), ema=self.ema)
        self.iteration = 0

    def noise(self, n: int, rng: Rng, name: str = "sample.z", step: int = 0) -> Tensor:
        """n latent vectors (n, latent)."""
        shape = (n, self.config.latent)
        uniform = self.config.noise == "uniform"
        device = self.generator.project.w.device
        if uniform:
            return rng.uniform(name, step, shape, -1.0, 1.0, device=device)
        return rng.normal(name, step, shape, device=device)

    def step(self, batch, rng: Rng) -> dict[str, Any]:
        """Algorithm 1 of Goodfellow et al. 2014: D against fakes that are constants to it, then G on noise of
        its own."""
        x, k, D, G = batch.images, self.iteration, self.discriminator, self.generator
        self.train()
        with tg.no_grad():
            fake = G(self.noise(len(x), rng, "dcgan.z.d", k))
        on_real, on_fake = D(x), D(fake)
        d_loss = losses.d_logistic(on_real, on_fake)
        self.d_optimizer.step(tg.grad(d_loss, self.d_optimizer.params))

        g_loss = losses.g_non_saturating(D(G(self.noise(len(x), rng, "dcgan.z.g", k))))
        self.g_optimizer.step(tg.grad(g_loss, self.g_optimizer.params))
        self.iteration += 1
        return {"d_loss": d_loss.scalar(), "g_loss": g_loss.scalar(),
                "d_real": losses.certainty(on_real), "d_fake": losses.certainty(on_fake)}

    def images(self, z: Tensor | np.ndarray, average: bool = True) -> Tensor:
        """The images N,H,W,C in [−1, 1] of latent vectors (N, latent), by the averaged G or by G as it is."""
        if not isinstance(z, Tensor):
            z = Tensor(move(np.asarray(z, np.float32), self.generator.project.w.device))
        self.eval()
        with tg.no_grad():
            if not average:
                return self.generator(z)
            with self.ema.applied():
                return self.generator(z)

    def sample(self, n: int, rng: Rng, *, average: bool = True) -> Tensor:
        """n images N,H,W,C in [−1, 1].

        average: use the moving average of G's weights and statistics
        """
        return self.images(self.noise(n, rng), average)

    # ---- the latent space

    def interpolate(self, a, b, steps: int = 9) -> np.ndarray:
        """Latent vectors (N, steps, latent) on the way from a to b (N, latent), both included: straight for
        uniform z, along the sphere for normal z, whose length hardly varies."""
        path = lerp if self.config.noise == "uniform" else slerp
        return np.stack([path(a, b, t) for t in np.linspace(0, 1, steps)], axis=1)

    def arithmetic(self, a, b, c) -> np.ndarray:
        """mean(a) − mean(b) + mean(c), (latent,), of exemplars (k, latent), three of each in the paper
        (§6.3.2)."""
        a, b, c = (np.asarray(v, np.float64) for v in (a, b, c))
        if not all(v.ndim == 2 and v.shape[1] == self.config.latent and len(v) for v in (a, b, c)):
            raise ShapeError(f"arithmetic needs exemplars (k, {self.config.latent}); got {a.shape}, {b.shape}, "
                             f"{c.shape}.")
        return (a.mean(0) - b.mean(0) + c.mean(0)).astype(np.float32)

    def turn(self, right, left) -> np.ndarray:
        """mean(right) − mean(left), (latent,): the direction in which pictures turn from one to the other
        (§6.3.2)."""
        right, left = np.asarray(right, np.float64), np.asarray(left, np.float64)
        return (right.mean(0) - left.mean(0)).astype(np.float32)

    def figures(self, rng: Rng) -> dict[str, np.ndarray]:
        """interpolation: eight ways between pairs of z, one a row. arithmetic: heavy − light + light' in
        three columns, each of three exemplars above the picture of their mean, and on the right the result,
        in the midst of eight results with noise of ±0.25 added (Figure 7). turn: eight pictures moved along
        right-leaning − left-leaning (Figure 8)."""
        z = self.noise(512, rng, "figures.z").numpy()
        found = np.asarray(self.images(z))
        ways = self.interpolate(z[:8], z[8:16])
        sheets = {"interpolation": _sheet(self._decode(ways))}

        order = np.argsort(ink(found))
        a, b, c = z[order[-3:]], z[order[:6:2]], z[order[1:6:2]]
        columns = np.stack([np.concatenate([v, v.mean(0, keepdims=True)]) for v in (a, b, c)], axis=1)
        around = rng.uniform("figures.around", 0, (3, 3, z.shape[1]), -0.25, 0.25).numpy()
        around[1, 1] = 0
        left = _sheet(self._decode(columns))  # 4 rows of 3
        right = _sheet(self._decode(self.arithmetic(a, b, c) + around))  # 3 rows of 3
        canvas = np.full((left.shape[0], 2 * left.shape[1] + found.shape[1], *left.shape[2:]), 255, np.uint8)
        canvas[:, : left.shape[1]] = left
        canvas[: right.shape[0], -right.shape[1] :] = right
        sheets["arithmetic"] = canvas

        order = np.argsort(slant(found))
        turn = self.turn(z[order[-4:]], z[order[:4]])
        sheets["turn"] = _sheet(self._decode(z[16:24, None] + np.linspace(-0.5, 0.5, 9)[:, None] * turn))
        return sheets

    def _decode(self, z: np.ndarray) -> np.ndarray:
        """Images rows,columns,H,W,C of latent vectors (rows, columns, latent)."""
        x = np.asarray(self.images(z.reshape(-1, z.shape[-1])))
        return x.reshape(*z.shape[:2], *x.shape[1:])

    Config, PRESETS = Config, PRESETS  # the annotations above mean the module's Config


def lerp(a, b, t: float) -> np.ndarray:
    """(1 − t)·a + t·b"""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return ((1 - t) * a + t * b).astype(np.float32)


def slerp(a, b, t: float) -> np.ndarray:
    """(sin((1 − t)ω)·a + sin(tω)·b)/sin ω, ω the angle between a and b in the last axis (Shoemake 1985; for
    latent vectors White 2016, "Sampling Generative Networks"). Where a and b point the same way, or opposite
    ways, lerp."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    omega = np.arccos(np.clip((a * b).sum(-1, keepdims=True) / np.maximum(lengths, 1e-12), -1, 1))
    sine = np.sin(omega)
    parallel = sine < 1e-6
    sine = np.where(parallel, 1.0, sine)
    first = np.where(parallel, 1 - t, np.sin((1 - t) * omega) / sine)
    second = np.where(parallel, t, np.sin(t * omega) / sine)
    return (first * a + second * b).astype(np.float32)


def ink(images) -> np.ndarray:
    """How bright each image N,H,W,C is on the whole: (N,), the mean of its values."""
    return np.asarray(images).mean(axis=(1, 2, 3))


def slant(images) -> np.ndarray:
    """How far the bright parts of each image N,H,W,C lean: (N,), cov(column, −row)/var(row), weighted by
    brightness; above zero where the top leans to the right."""
    w = np.asarray(images, np.float64).mean(axis=3) + 1 + 1e-6
    w = w / w.sum(axis=(1, 2), keepdims=True)  # N, H, W
    rows, columns = np.meshgrid(-np.arange(w.shape[1]), np.arange(w.shape[2]), indexing="ij")
    row = rows - (w * rows).sum(axis=(1, 2), keepdims=True)
    column = columns - (w * columns).sum(axis=(1, 2), keepdims=True)
    return (w * row * column).sum(axis=(1, 2)) / (w * row * row).sum(axis=(1, 2))


def _sheet(images: np.ndarray) -> np.ndarray:
    """Images rows,columns,H,W,C in [−1, 1] side by side: uint8 H,W or H,W,3."""
    rows, columns, h, w, c = images.shape
    cells = np.pad(to_uint8(images), ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(rows * (h + 1), columns * (w + 1), c)
    return sheet[..., 0] if c == 1 else sheet


MODEL = DCGAN
