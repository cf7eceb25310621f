"""Denoising diffusion: a U-Net learns to tell the noise in a picture, and draws by taking noise away.

Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models"; sampling also by DDIM (Song et al. 2021). Training
is Algorithm 1: draw x₀, t and ε, take a gradient step on ‖ε − ε_θ(√ᾱ x₀ + √(1−ᾱ) ε, t)‖². The mathematics is in
diffusion.py, the network in unet.py; sampling uses the moving average of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygen as tg
from tinygen import nn, ops
from tinygen.config import field
from tinygen.data.image import to_uint8
from tinygen.errors import ConfigError
from tinygen.optim import EMA, Adam, constant, cosine
from tinygen.rng import Rng
from tinygen.tensor import Tensor

from .diffusion import SCHEDULES, SPACINGS, TARGETS, VARIANCES, Diffusion
from .unet import UNet

__all__ = ["DDPM", "MODEL", "PRESETS", "Config"]


@dataclass(frozen=True)
class Config:
    image_size: int = field(8, "side of the images, in pixels; taken from the data")
    channels: int = field(1, "colour channels; taken from the data")
    widths: tuple[int, ...] = field((32, 64), "channels of the U-Net at each resolution")
    layers: int = field(1, "residual blocks at each resolution")
    attention: tuple[int, ...] = field((0, 1), "1 for attention, 0 for none, at each resolution")
    groups: int = field(8, "groups of the group norms")
    dropout: float = field(0.0, "dropout in the residual blocks")
    T: int = field(1000, "steps of the diffusion")
    schedule: str = field("cosine", "how the noise grows", choices=SCHEDULES)
    target: str = field("eps", "what the network predicts", choices=TARGETS)
    variance: str = field(
        "small",
        "of the reverse steps: β̃ (small) or β (large; with β̃_2 in the first step, or without: beta)",
        choices=VARIANCES,
    )
    batch_size: int = field(64, "images in a training step")
    flip: bool = field(False, "mirror half of the training images")
    lr: float = field(1e-3, "learning rate of Adam")
    decay_steps: int = field(2400, "steps over which the learning rate falls to a twentieth; 0: it stays")
    warm_up: int = field(100, "steps over which the learning rate rises")
    clip_norm: float = field(1.0, "largest global norm of the gradient")
    ema: float = field(0.995, "decay of the moving average of the weights")


PRESETS = {
    "small": {},
    # the CIFAR-10 network and settings of Ho et al. 2020, Appendix B, and their published code: 35.7 M parameters
    "paper": {
        "image_size": 32, "channels": 3, "widths": (128, 256, 256, 256), "layers": 2, "attention": (0, 1, 0, 0),
        "groups": 32, "dropout": 0.1, "T": 1000, "schedule": "linear", "variance": "large", "batch_size": 128,
        "flip": True, "lr": 2e-4, "warm_up": 5000, "decay_steps": 0, "ema": 0.9999,
    },
}  # fmt: skip


class DDPM(nn.Module):
    """Denoising diffusion with a U-Net (Ho et al. 2020)."""

    data, steps = "digits", 2400
    saved = ("iteration",)

    def __init__(self, config: Config, rng: Rng):
        self.config = config
        self.net = UNet(
            config.channels,
            config.widths,
            layers=config.layers,
            attention=tuple(map(bool, config.attention)),
            groups=config.groups,
            dropout=config.dropout,
            rng=nn.Init(rng, "ddpm.init"),
        )
        self.ema = EMA(self.net, config.ema)
        rate = constant(config.lr, config.warm_up)
        if config.decay_steps:
            rate = cosine(config.lr, config.decay_steps, config.warm_up, end=config.lr / 20)
        self.optimizer = Adam(self.net.parameters(), rate, clip_norm=config.clip_norm, ema=self.ema)
        self.iteration = 0
        self._diffusion = Diffusion(config.T, config.schedule, config.target)

    def step(self, batch, rng: Rng) -> dict[str, Any]:
        """Algorithm 1: one update of the network."""
        x0, k = batch.images, self.iteration
        t = rng.integers("ddpm.t", k, (x0.shape[0],), 0, self.config.T, device=x0.device)
        eps = rng.normal("ddpm.eps", k, x0.shape, device=x0.device)
        self.net.train()
        with nn.streams(rng, k):
            loss = ops.mean(self._diffusion.loss(self.net, x0, t, eps))
        self.optimizer.step(tg.grad(loss, self.optimizer.params))
        self.iteration += 1
        return {"loss": loss.scalar(), "grad_norm": self.optimizer.norm}

    def trajectory(self, x: Tensor, rng: Rng, sampler: str, steps: int, eta: float, clip: bool, spacing: str):
        """Yields (index, x, x̂₀) after each step of a sampler that starts from the noise x."""
        self.net.eval()
        net = self._predictor()
        if sampler == "ddpm":
            return self._diffusion.sample_ddpm(
                net, x, rng, variance=self.config.variance, clip=clip, name="sample.ddpm"
            )
        if sampler == "ddim":
            return self._diffusion.sample_ddim(
                net, x, rng, steps=steps, eta=eta, clip=clip, spacing=spacing, name="sample.ddim"
            )
        raise ConfigError(f"there is no sampler {sampler!r}; there are ddim and ddpm.")

    def _predictor(self):
        """The network as samplers call it; on a device one CUDA graph, from the third call on."""
        if self.net.conv_in.w.device == "cpu":
            return self.net
        run = tg.capture(lambda x, t: self.net(x, t))
        return lambda x, i: Tensor(run(x, Tensor(i)).data.copy())  # the next call writes where this one did

    def noise(self, n: int, rng: Rng) -> Tensor:
        """x_T: n images of noise, the same for the same rng."""
        c = self.config
        shape = (n, c.image_size, c.image_size, c.channels)
        return rng.normal("sample.x_T", 0, shape, device=self.net.conv_in.w.device)

    def sample(
        self,
        n: int,
        rng: Rng,
        *,
        sampler: str = "ddim",
        steps: int = 50,
        eta: float = 0.0,
        clip: bool = True,
        spacing: str = "trailing",
    ) -> Tensor:
        """n images N,H,W,C in [−1, 1], by the averaged weights.

        sampler: "ddim" in `steps` steps with noise η, or "ddpm" in all T; spacing of DDIM's steps: leading, linspace or
        trailing; clip: hold x̂₀ in [−1, 1].
        """
        if spacing not in SPACINGS:
            raise ConfigError(f"there is no spacing {spacing!r}; there are {', '.join(SPACINGS)}.")
        with self.ema.applied():
            *_, (_, x, _) = self.trajectory(self.noise(n, rng), rng, sampler, steps, eta, clip, spacing)
        return ops.clip(x, low=-1.0, high=1.0)

    def figures(self, rng: Rng) -> dict[str, np.ndarray]:
        """The strip of denoising steps: x_t above, x̂₀ below, for six samples from noise to picture."""
        x, columns = self.noise(6, rng), []
        with self.ema.applied():
            walk = [(x, x)] + [(x, x0) for _, x, x0 in self.trajectory(x, rng, "ddim", 50, 0.0, True, "trailing")]
        for k in np.unique(np.linspace(0, len(walk) - 1, 16).astype(int)):
            columns.append([to_uint8(a.numpy()) for a in walk[k]])
        rows = []
        for sample in range(6):
            for which in (0, 1):
                rows.append(
                    np.concatenate([np.pad(c[which][sample], ((1, 1), (1, 1), (0, 0))) for c in columns], axis=1)
                )
        return {"denoising": np.concatenate(rows, axis=0)}

    def evaluate(self, dataset, rng: Rng, *, images: int = 64) -> dict[str, float]:
        """The variational bound on held-out images, by term, in bits per dimension (Ho et al., Tables 1 and 2)."""
        data = dataset.images[:images]
        levels = len(np.unique(dataset.images))  # 17 grey values in the digits, 256 elsewhere
        levels = levels if levels < 64 else 256
        x0 = Tensor((np.round(data / 255.0 * (levels - 1)) / (levels - 1) * 2 - 1).astype(np.float32))
        self.net.eval()
        with self.ema.applied():
            found = self._diffusion.bound(self.net, x0, rng, variance=self.config.variance, levels=levels)
        scale = np.log(2) * np.prod(x0.shape[1:])
        return {
            "bits_per_dim": float(found["total"].mean() / scale),
            "bits_per_dim.L_T": float(found["L_T"].mean() / scale),
            "bits_per_dim.L_t": float(found["L_t"][1:].sum(axis=0).mean() / scale),
            "bits_per_dim.L_0": float(found["L_t"][0].mean() / scale),
            "bits_per_dim.images": len(x0),
            "bits_per_dim.levels": levels,
        }

    Config, PRESETS = Config, PRESETS


MODEL = DDPM
