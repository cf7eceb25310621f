"""The variational autoencoder: an encoder tells where in a latent space an image may lie, a decoder draws what lies
there, and both learn by raising a bound on the likelihood of the data. Both are perceptrons.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes". The prior is p(z) = N(0, I), the encoder gives
q(z|x) = N(μ, diag σ²) (Appendix C.2), the decoder p(x|z): independent Bernoulli pixels (C.1) or Gaussian ones (C.2).

    log p(x) ≥ ELBO = E_q log p(x|z) − KL(q(z|x) ‖ p(z))                                          (3)
                    ≈ log p(x|μ + σ⊙ε) + ½ Σ_j (1 + log σ_j² − μ_j² − σ_j²),   ε ~ N(0, I)        (10)

One ε for each image (L = 1, §2.3). Pixels and latent dimensions are summed, images are averaged: an average over
either sum would change the weight of the two terms against each other. All is in nats.

What a bound is the likelihood of:
- bernoulli: the image made binary. A grey value g in 0..1 stands for a pixel that is white with probability g, since
  E log p(b|z) over such b is the cross entropy of g itself; so the bound holds for those random binary images, and
  bits per dimension are bits per binary pixel. `binarise` shows the network the binary images themselves.
- gaussian: a density on [−1, 1], of the grey levels with uniform noise as wide as a level (Theis et al. 2016, §3.1);
  bits per dimension are those of `metrics.bits_per_dim(support="symmetric")`.

Later additions, as switches: β (Higgins et al. 2017) and a rising weight (Bowman et al. 2016) of the KL; one learned σ
for all pixels (Rybkin et al. 2021); and in `evaluate` the tighter bound of Burda et al. 2016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygen as tg
from tinygen import losses, nn, ops
from tinygen.config import field
from tinygen.data.image import grid, to_float
from tinygen.errors import ConfigError, ShapeError
from tinygen.metrics.bits import bits_per_dim
from tinygen.nn import Linear, Module
from tinygen.optim import Adam, cosine
from tinygen.rng import Rng
from tinygen.tensor import Tensor

from .scatter import scatter

__all__ = ["MODEL", "PRESETS", "VAE", "Bernoulli", "Config", "Decoder", "Encoder", "Gaussian", "bound", "log_mean_exp",
           "plane"]

ACTIVATIONS = {"tanh": ops.tanh, "relu": ops.relu, "silu": ops.silu}


@dataclass(frozen=True)
class Config:
    image_size: int = field(8, "side of the images, in pixels; taken from the data")
    channels: int = field(1, "colour channels; taken from the data")
    latent: int = field(2, "dimensions of z")
    widths: tuple[int, ...] = field((256, 256), "units of the encoder's hidden layers, and in reverse the decoder's")
    act: str = field("relu", "non-linearity of the hidden layers", choices=ACTIVATIONS)
    decoder: str = field("gaussian", "p(x|z) of a pixel", choices=("bernoulli", "gaussian"))
    binarise: str = field("no", "what a Bernoulli decoder learns: grey values as probabilities (no), pixels above "
                          "one half, or pixels drawn anew at every step (random)",
                          choices=("no", "threshold", "random"))
    variance: str = field("shared", "of a Gaussian decoder: as sigma says, one learned for all pixels, or given by "
                          "the network for each", choices=("fixed", "shared", "network"))
    sigma: float = field(0.3, "standard deviation of a Gaussian decoder; where it is learned, the first one")
    dequantise: int = field(0, "grey levels of the data; a Gaussian decoder learns them with uniform noise as wide "
                            "as a level; 0: without noise")
    beta: float = field(1.0, "weight of the KL; 1 for a bound on the likelihood")
    kl_warm_up: int = field(0, "steps over which that weight rises from zero")
    batch_size: int = field(64, "images in a training step")
    lr: float = field(1e-3, "learning rate of Adam")
    decay_steps: int = field(0, "let the learning rate fall to zero on a cosine over so many steps; 0: constant")
    weight_decay: float = field(0.0, "L2 penalty on the parameters; 1/images for a prior N(0, I) on them")
    init: float = field(0.0, "first weights from N(0, this²); 0: U(±1/√fan_in)")

    def __post_init__(self):
        if self.latent < 1:
            raise ConfigError(f"latent must be at least 1, not {self.latent}.")
        if self.sigma <= 0:
            raise ConfigError(f"sigma must be above zero, not {self.sigma}.")
        if self.decoder == "gaussian" and self.binarise != "no":
            raise ConfigError("binarise is for a Bernoulli decoder; a Gaussian one learns grey values.")
        if self.decoder == "bernoulli" and self.dequantise or self.dequantise == 1 or self.dequantise < 0:
            raise ConfigError("dequantise is for a Gaussian decoder and counts grey levels: 0 for none, or 2 and more.")


PRESETS = {
    "small": {},
    # §5 on MNIST: 500 tanh units, minibatches of 100, a prior N(0, I) on the parameters of which 60,000 images share
    # the cost; Bernoulli pixels. The paper takes Adagrad, its step size chosen from 0.01, 0.02 and 0.1; here: Adam.
    "paper": {
        "image_size": 28, "latent": 20, "widths": (500,), "act": "tanh", "decoder": "bernoulli", "batch_size": 100,
        "init": 0.01, "weight_decay": 1.667e-5,
    },
}  # fmt: skip


# ---- p(x|z): what the numbers that a decoder gives, N,H,W,maps, say of the pixels


class Bernoulli(Module):
    """Each pixel white with probability σ(logit) (Appendix C.1)."""

    def __init__(self, config: Config):
        self.maps = config.channels

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z) of images x in [−1, 1]: (N,)."""
        return losses.per_sample(losses.bce_with_logits(out, 0.5 * x + 0.5, "none"))

    def mean(self, out: Tensor) -> Tensor:
        return 2.0 * ops.sigmoid(out) - 1.0

    def draw(self, out: Tensor, rng: Rng, name: str) -> Tensor:
        white = rng.uniform(name, 0, out.shape, device=out.device) < ops.sigmoid(out)
        return ops.where(white, 1.0, -1.0 + 0.0 * out)


class Gaussian(Module):
    """Each pixel N(mean, σ²) (Appendix C.2)."""

    def __init__(self, config: Config):
        self._channels, self._network = config.channels, config.variance == "network"
        self.maps = config.channels * (2 if self._network else 1)
        start = np.full((1,), 2 * math.log(config.sigma), np.float32)
        self.logvar = Tensor(start, requires_grad=config.variance == "shared")  # a learned one; else a constant to add

    def split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """(mean N,H,W,C; log σ², of that shape or (1,))."""
        if not self._network:
            return out, self.logvar
        return out[..., : self._channels], out[..., self._channels :] + self.logvar

    def nll(self, out: Tensor, x: Tensor) -> Tensor:
        """−log p(x|z): (N,)."""
        mean, logvar = self.split(out)
        return losses.per_sample(losses.gaussian_nll(x, mean, logvar, "none"))

    def mean(self, out: Tensor) -> Tensor:
        return self.split(out)[0]

    def draw(self, out: Tensor, rng: Rng, name: str) -> Tensor:
        mean, logvar = self.split(out)
        return mean + ops.exp(0.5 * logvar) * rng.normal(name, 0, mean.shape, mean.dtype, device=mean.device)


# ---- the networks


class Perceptron(Module):
    """Linear layers, each followed by the non-linearity. None at all, if there are no widths."""

    def __init__(self, sizes: tuple[int, ...], config: Config, rng: nn.Init):
        self.layers = [Linear(a, b, law=config.init or "default", rng=rng) for a, b in zip(sizes, sizes[1:])]
        self._act = ACTIVATIONS[config.act]

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = self._act(layer(h))
        return h


class Encoder(Module):
    """Images N,H,W,C -> μ and log σ² of q(z|x), each N,latent (Appendix C.2)."""

    def __init__(self, config: Config, rng: nn.Init):
        c = config
        self.hidden = Perceptron((c.image_size**2 * c.channels, *c.widths), c, rng)
        last, law = (c.image_size**2 * c.channels, *c.widths)[-1], c.init or "default"
        self.mean, self.logvar = (Linear(last, c.latent, law=law, rng=rng) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(ops.reshape(x, shape=(x.shape[0], -1)))
        return self.mean(h), self.logvar(h)


class Decoder(Module):
    """z N,latent -> what `pixels` needs, N,H,W,maps."""

    def __init__(self, config: Config, maps: int, rng: nn.Init):
        c = config
        self._shape = (c.image_size, c.image_size, maps)
        sizes = (c.latent, *reversed(c.widths))
        self.hidden = Perceptron(sizes, c, rng)
        self.out = Linear(sizes[-1], math.prod(self._shape), law=c.init or "default", rng=rng)

    def forward(self, z: Tensor) -> Tensor:
        return ops.reshape(self.out(self.hidden(z)), shape=(z.shape[0], *self._shape))


# ---- the model


class VAE(Module):
    """Variational autoencoder of two perceptrons (Kingma & Welling 2014).

    Points in space are learned too: as images of one pixel, N,1,1,dimensions, by a Gaussian decoder.
    """

    Config, PRESETS = Config, PRESETS
    data, steps = "digits", 3000
    saved = ("iteration",)

    def __init__(self, config, rng: Rng):
        c = self.config = config
        init = nn.Init(rng, "vae.init")
        self.pixels = Bernoulli(c) if c.decoder == "bernoulli" else Gaussian(c)
        self.encoder, self.decoder = self.networks(init)
        rate = cosine(c.lr, c.decay_steps) if c.decay_steps else c.lr
        self.optimizer = Adam(self.parameters(), rate, weight_decay=c.weight_decay)
        self.iteration = 0

    def networks(self, init: nn.Init) -> tuple[Any, Any]:
        """(the encoder, the decoder)"""
        return Encoder(self.config, init), Decoder(self.config, self.pixels.maps, init)

    def terms(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of eq. 10 for images x N,H,W,C and noise eps N,latent: −log p(x|z) and the KL, each (N,)."""
        mean, logvar = self.encoder(x)
        z = mean + ops.exp(0.5 * logvar) * eps
        return self.pixels.nll(self.decoder(z), x), losses.kl_normal(mean, logvar, "none")

    def step(self, batch, rng: Rng) -> dict[str, Any]:
        """Algorithm 1: one minibatch, one ε for each image, one gradient step on the negative of the bound."""
        k, c = self.iteration, self.config
        x = self.seen(batch.images, rng, "vae.pixels", k)
        self.train()
        nll, kl = map(ops.mean, self.terms(x, self.noise(len(x), rng, "vae.eps", k)))
        weight = c.beta * min(1.0, (k + 1) / c.kl_warm_up) if c.kl_warm_up else c.beta
        loss = nll + weight * kl
        self.optimizer.step(tg.grad(loss, self.optimizer.params))
        self.iteration += 1
        return {"loss": loss.scalar(), "elbo": -nll.scalar() - kl.scalar(), "nll": nll.scalar(), "kl": kl.scalar()}

    def seen(self, x: Tensor, rng: Rng, name: str, step: int, levels: int = 0) -> Tensor:
        """Images N,H,W,C as the decoder learns them: made binary, or with noise as wide as a grey level."""
        c, levels = self.config, levels or self.config.dequantise
        if c.binarise == "no" and not levels:
            return x
        u = rng.uniform(name, step, x.shape, device=x.device)
        if c.decoder == "gaussian":
            return x + (u - 0.5) * (2 / (levels - 1))
        threshold = 2.0 * u - 1.0 if c.binarise == "random" else 0.0
        return ops.where(x > threshold, 1.0, -1.0 + 0.0 * x)

    def noise(self, n: int, rng: Rng, name: str = "sample.z", step: int = 0) -> Tensor:
        """n standard normal vectors (n, latent), of the dtype and on the device of the parameters."""
        w = self.encoder.mean.w
        return rng.normal(name, step, (n, self.config.latent), w.dtype, device=w.device)

    def constant(self, a: np.ndarray) -> Tensor:
        """An array as a tensor of the dtype and on the device of the parameters."""
        w = self.encoder.mean.w
        return Tensor(a.astype(w.dtype)).to(w.device)

    def images(self, z: Tensor | np.ndarray) -> Tensor:
        """The means N,H,W,C of p(x|z), held in [−1, 1], for latent vectors (N, latent)."""
        z = z if isinstance(z, Tensor) else self.constant(z)
        self.eval()
        with tg.no_grad():
            return ops.clip(self.pixels.mean(self.decoder(z)), low=-1.0, high=1.0)

    def sample(self, n: int, rng: Rng, *, temperature: float = 1.0, pixels: bool = False) -> Tensor:
        """n images N,H,W,C in [−1, 1].

        temperature: standard deviation of z
        pixels: draw the pixels too, from p(x|z), in place of their mean
        """
        z = temperature * self.noise(n, rng)
        if not pixels:
            return self.images(z)
        self.eval()
        with tg.no_grad():
            return ops.clip(self.pixels.draw(self.decoder(z), rng, "sample.x"), low=-1.0, high=1.0)

    def encode(self, x: Tensor) -> np.ndarray:
        """The means of q(z|x) of images N,H,W,C: (N, latent)."""
        self.eval()
        with tg.no_grad():
            return self.encoder(x)[0].numpy()

    # ---- how good it is

    def log_weights(self, x: Tensor, k: int, rng: Rng) -> dict[str, np.ndarray]:
        """k draws from q(z|x) for each of N images, in float64: {"nll" (k, N); "kl" (N,) in closed form; "log_w"
        (k, N): log p(x, z) − log q(z|x), whose exponentials have the mean p(x); "mean" (N, latent) of q}."""
        nll, log_w = np.empty((2, k, len(x)))
        self.eval()
        with tg.no_grad():
            mean, logvar = self.encoder(x)
            kl = losses.kl_normal(mean, logvar, "none").numpy().astype(np.float64)
            width = ops.exp(0.5 * logvar)
            for i in range(k):
                eps = self.noise(len(x), rng, "evaluate.eps", i)
                z = mean + width * eps
                nll[i] = self.pixels.nll(self.decoder(z), x).numpy()
                ratio = ops.square(eps) + logvar - ops.square(z)  # the 2π of p(z) and of q(z|x) cancel
                log_w[i] = 0.5 * ratio.numpy().astype(np.float64).sum(1) - nll[i]
        return {"nll": nll, "kl": kl, "log_w": log_w, "mean": mean.numpy()}

    def evaluate(self, dataset, rng: Rng, *, images: int = 1000, k: int = 64) -> dict[str, float]:
        """Bounds on log p of held-out images, in nats an image and bits per dimension (the module says of what): the
        ELBO, and that of k draws (Burda et al. 2016, eq. 8); the latent dimensions in use (§4.3 there: the mean of q
        varies by more than 0.01)."""
        levels = 0
        pictures = to_float(dataset.images[:images])
        if self.config.decoder == "gaussian":
            levels = self.config.dequantise or grey_levels(dataset.images)
            pictures = np.round((pictures + 1) / 2 * (levels - 1)) / (levels - 1) * 2 - 1  # evenly spaced, exactly
        x = self.seen(self.constant(pictures), rng, "evaluate.pixels", 0, levels)
        found = self.log_weights(x, k, rng)
        nll, kl = float(found["nll"].mean()), float(found["kl"].mean())
        best = bound(found["log_w"], k)

        def bits(nats: float) -> float:
            scale: dict = {"support": "symmetric", "levels": levels} if levels else {}
            return float(bits_per_dim(nats, math.prod(x.shape[1:]), **scale))

        return {
            "elbo": -nll - kl, "elbo.nll": nll, "elbo.kl": kl, f"iwae.{k}": best,
            "bits_per_dim": bits(nll + kl), f"bits_per_dim.iwae.{k}": bits(-best),
            "latent_in_use": int((found["mean"].var(0) > 0.01).sum()), "images": len(x), "draws": k,
        }  # fmt: skip

    # ---- what it looks like

    def figures(self, rng: Rng, dataset=None) -> dict[str, np.ndarray]:
        """samples. manifold, where z has two dimensions: what the decoder draws at 20×20 places of equal probability
        (Figure 4). Of a data set: reconstructions, each below its image; interpolation, straight ways between the
        means of two images, one a row; latent, where the encoder puts the images, by label."""
        sheets = {"samples": grid(self.sample(64, rng).numpy())}
        if self.config.latent == 2:
            sheets["manifold"] = grid(self.images(plane(20)).numpy(), columns=20, background=0)
        if dataset is None:
            return sheets
        chosen = rng.permutation("figures.images", 0, len(dataset)).numpy()[:1000]
        x = self.constant(to_float(dataset.images[chosen]))
        x = self.seen(x, rng, "figures.pixels", 0) if self.config.binarise != "no" else x
        z = self.encode(x)
        few = min(len(z) // 8 * 8, 32)
        again = self.images(z[:few]).numpy()
        both = np.stack([x.numpy()[:few].reshape(-1, 8, *x.shape[1:]), again.reshape(-1, 8, *x.shape[1:])], axis=1)
        sheets["reconstructions"] = grid(both.reshape(-1, *x.shape[1:]), columns=8) if few else grid(x.numpy())
        ends = z[: len(z) // 2 * 2][:16].reshape(2, -1, 1, self.config.latent)
        way = np.linspace(0, 1, 9, dtype=z.dtype)[:, None]
        between = ((1 - way) * ends[0] + way * ends[1]).reshape(-1, z.shape[1])
        sheets["interpolation"] = grid(self.images(between).numpy(), columns=9)
        labels = None if dataset.labels is None else dataset.labels[chosen]
        sheets["latent"] = scatter(z, labels, dataset.label_names)
        return sheets


def bound(log_w: np.ndarray, k: int) -> float:
    """The mean over images of E log (1/k) Σ w (Burda et al. 2016, eq. 8), from log weights (draws, N): over all groups
    of k draws that do not overlap. It grows with k: from a divisor of k to k not by luck, but always (Theorem 1)."""
    draws, n = log_w.shape
    if not 1 <= k <= draws:
        raise ShapeError(f"a bound of k = {k} draws needs log weights of at least so many; there are {draws}.")
    groups = log_w[: draws // k * k].reshape(draws // k, k, n)
    return float(log_mean_exp(groups, axis=1).mean())


def log_mean_exp(a: np.ndarray, axis: int) -> np.ndarray:
    """log of the mean of exp a, without overflow."""
    top = a.max(axis, keepdims=True)
    return np.log(np.exp(a - top).mean(axis)) + top.squeeze(axis)


def plane(side: int) -> np.ndarray:
    """side² points (side², 2), row by row from the top left: the unit square in equal steps, through the inverse of the
    normal distribution function (Figure 4)."""
    from scipy.special import ndtri

    at = ndtri((np.arange(side) + 0.5) / side)
    return np.stack(np.meshgrid(at, -at), axis=-1).reshape(-1, 2).astype(np.float32)


def grey_levels(images: np.ndarray) -> int:
    """How many values the pixels of uint8 images take: 17 in the digits; 256 if more than 64 occur."""
    found = len(np.unique(images))
    return found if 2 <= found <= 64 else 256


MODEL = VAE
