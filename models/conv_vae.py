"""The variational autoencoder of convolutions: strided ones look at the image, transposed ones draw it.

Everything but the two networks is the perceptron's (vae.py): the bound, its two terms, sampling, evaluation, pictures.
The networks are of the kind that Burgess et al. 2018, "Understanding disentangling in β-VAE", §A.1, use on 64×64:
convolutions 4×4 of stride 2, then fully connected layers; the decoder is the encoder in reverse; ReLU, no norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinygen import nn, ops
from tinygen.config import field
from tinygen.errors import ConfigError
from tinygen.nn import Conv2d, ConvTranspose2d, Linear, Module, Upsample
from tinygen.tensor import Tensor

from . import vae
from .vae import ACTIVATIONS, VAE, Perceptron

__all__ = ["MODEL", "PRESETS", "Config", "ConvVAE", "Decoder", "Encoder"]


@dataclass(frozen=True)
class Config(vae.Config):
    latent: int = field(16, "dimensions of z")
    widths: tuple[int, ...] = field((32, 64), "feature maps after each of the encoder's halvings; in reverse "
                                    "the decoder's")
    hidden: tuple[int, ...] = field((256,), "units of the fully connected layers between the feature maps and z")
    up: str = field("transposed", "how the decoder doubles the side: transposed convolutions, or nearest pixels and "
                    "then a convolution", choices=("transposed", "nearest"))

    def __post_init__(self):
        super().__post_init__()
        times = 1 << len(self.widths)
        if not self.widths or self.image_size % times or self.image_size < times:
            raise ConfigError(f"conv_vae halves the side once for each of its widths {self.widths}, so it needs a "
                              f"multiple of {times}, not {self.image_size}; resize the images, or change --widths.")

    @property
    def base(self) -> tuple[int, int, int]:
        """The feature maps furthest from the image: H, W, C."""
        side = self.image_size >> len(self.widths)
        return side, side, self.widths[-1]


PRESETS = {
    "small": {},
    # Burgess et al. 2018 at 32×32 instead of 64×64, which takes one of their four convolutions away: three of 32 maps,
    # two layers of 256, ten latent dimensions, Bernoulli pixels, Adam 5e-4, β = 1 (they raise a target for the KL).
    "paper": {
        "image_size": 32, "channels": 3, "latent": 10, "widths": (32, 32, 32), "hidden": (256, 256),
        "decoder": "bernoulli", "batch_size": 64, "lr": 5e-4,
    },
}  # fmt: skip


class Encoder(Module):
    """Images N,H,W,C -> μ and log σ² of q(z|x), each N,latent."""

    def __init__(self, config: Config, rng: nn.Init):
        c, law = config, config.init or "default"
        self.downs = [Conv2d(a, b, 4, stride=2, padding=1, law=law, rng=rng)
                      for a, b in zip([c.channels, *c.widths], c.widths)]
        self._act = ACTIVATIONS[c.act]
        sizes = (math.prod(c.base), *c.hidden)
        self.hidden = Perceptron(sizes, c, rng)
        self.mean, self.logvar = (Linear(sizes[-1], c.latent, law=law, rng=rng) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for down in self.downs:
            x = self._act(down(x))
        h = self.hidden(ops.reshape(x, shape=(x.shape[0], -1)))
        return self.mean(h), self.logvar(h)


class Decoder(Module):
    """z N,latent -> what `pixels` needs, N,H,W,maps."""

    def __init__(self, config: Config, maps: int, rng: nn.Init):
        c, law = config, config.init or "default"
        self.hidden = Perceptron((c.latent, *reversed(c.hidden), math.prod(c.base)), c, rng)
        widths = [*reversed(c.widths), maps]
        self.ups = [ConvTranspose2d(a, b, 4, stride=2, padding=1, law=law, rng=rng) if c.up == "transposed"
                    else Upsample(a, channels_out=b, rng=rng) for a, b in zip(widths, widths[1:])]
        self._act, self._base = ACTIVATIONS[c.act], c.base

    def forward(self, z: Tensor) -> Tensor:
        h = ops.reshape(self.hidden(z), shape=(z.shape[0], *self._base))
        for up in self.ups[:-1]:
            h = self._act(up(h))
        return self.ups[-1](h)


class ConvVAE(VAE):
    """Variational autoencoder of convolutions (Kingma & Welling 2014; networks after Burgess et al. 2018)."""

    Config, PRESETS = Config, PRESETS
    steps = 3000

    def networks(self, init: nn.Init) -> tuple[Encoder, Decoder]:
        return Encoder(self.config, init), Decoder(self.config, self.pixels.maps, init)


MODEL = ConvVAE
