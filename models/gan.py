"""The generative adversarial network: G turns noise into images, D tells them from the data, and each learns
against the other. Both are perceptrons.

Goodfellow et al. 2014, "Generative Adversarial Nets". With D(x) = σ(logit) the probability that x comes from
the data,

    min_G max_D V = E log D(x) + E log(1 − D(G(z)))                                      (1)

Algorithm 1 with one step of D for each step of G (k = 1, as in the paper's experiments). For a fixed G the
best D is p_data/(p_data + p_G), and V is then −log 4 + 2·JSD(p_data, p_G) (Proposition 1, Theorem 1). G
descends on E log(1 − D(G(z))) itself ("saturating": flat where D wins) or, as §3 advises, on −E log D(G(z))
("non_saturating").

Later additions, as switches: a moving average of G's weights for sampling, and two penalties on D's slope.
The game alone does not settle: on a ring of eight Gaussians G keeps to a few of them
(tests/test_model_gan.py); with R1 (Mescheder et al. 2018) it finds all eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygen as tg
from tinygen import losses, nn, ops
from tinygen.config import field
from tinygen.nn import Linear, Module
from tinygen.optim import EMA, SGD, Adam, linear, step_decay
from tinygen.rng import Rng
from tinygen.tensor import Tensor

__all__ = ["GAN", "MODEL", "PRESETS", "Config", "Discriminator", "Generator", "Maxout"]

LOSSES = ("non_saturating", "saturating")
OUTPUTS = ("tanh", "sigmoid", "linear")


@dataclass(frozen=True)
class Config:
    image_size: int = field(8, "side of the images, in pixels; taken from the data")
    channels: int = field(1, "colour channels; taken from the data")
    latent: int = field(16, "dimensions of the noise z, which is standard normal")
    g_widths: tuple[int, ...] = field((256, 256), "units of G's hidden layers, ReLU")
    d_widths: tuple[int, ...] = field((256, 256), "units of D's hidden layers")
    pieces: int = field(1, "linear pieces of D's maxout units; 1: leaky ReLU instead")
    dropout: tuple[float, ...] = field((0.0, 0.0), "dropout of D's input, and of its hidden layers")
    output: str = field("tanh", "of G; sigmoid: D too sees images in 0..1; linear: for points in space",
                        choices=OUTPUTS)
    init: tuple[float, ...] = field((0.0, 0.0), "first weights of G and D from U(±this); 0: U(±1/√fan_in)")
    loss: str = field("non_saturating", "what G descends on", choices=LOSSES)
    r1: float = field(0.5, "γ of the R1 penalty γ/2·E‖∇D‖² at real images; 0: none")
    gradient_penalty: float = field(0.0, "λ of λ·E(‖∇D‖ − 1)² between real images and fakes; 0: none")
    optimizer: str = field("adam", "of both", choices=("adam", "sgd"))
    lr: float = field(1e-3, "learning rate of both")
    decay_steps: int = field(0, "let the learning rate fall to zero on a line over so many steps; 0: no")
    shrink: float = field(1.0, "divide the learning rate by this at each step")
    beta1: float = field(0.5, "of Adam; the momentum of SGD")
    beta2: float = field(0.99, "of Adam")
    batch_size: int = field(64, "images in a training step")
    ema: float = field(0.998, "decay of the moving average of G's weights, for sampling; 0: no average")


PRESETS = {
    "small": {},
    # The MNIST experiment, from the paper's §5 and the settings its authors published, for 28×28 digits. It
    # differs from them so: G's last bias starts at zero, not at the mean image; the momentum stays at 0.5
    # instead of rising to 0.7 over 250 epochs; D's loss is eq. 1, of which their code takes half. Expect
    # hours, and patience: there is no penalty.
    "paper": {
        "image_size": 28, "latent": 100, "g_widths": (1200, 1200), "d_widths": (240, 240), "pieces": 5,
        "dropout": (0.2, 0.5), "output": "sigmoid", "init": (0.05, 0.005), "r1": 0.0, "optimizer": "sgd",
        "lr": 0.1, "shrink": 1.000004, "batch_size": 100, "ema": 0.0,
    },
}  # fmt: skip


class Maxout(Module):
    """y = the largest of `pieces` linear functions of x, for each of its units (Goodfellow et al. 2013,
    "Maxout Networks"). x N,features_in -> N,units."""

    def __init__(self, features_in: int, units: int, pieces: int, rng=None):
        self.linear, self.pieces = Linear(features_in, units * pieces, rng=rng), pieces

    def forward(self, x: Tensor) -> Tensor:
        return ops.max(ops.reshape(self.linear(x), shape=(x.shape[0], -1, self.pieces)), axis=2)

    def describe(self) -> str:
        return f"{self.pieces} pieces"


class Generator(Module):
    """z N,latent -> images N,H,W,C."""

    def __init__(self, config: Config, rng: nn.Init):
        c = self._config = config
        self._shape = (c.image_size, c.image_size, c.channels)
        sizes = (c.latent, *c.g_widths, int(np.prod(self._shape)))
        self.layers = [Linear(a, b, rng=rng) for a, b in zip(sizes, sizes[1:])]
        _spread(self.layers, c.init[0], rng)

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            z = ops.relu(layer(z))
        x = ops.reshape(self.layers[-1](z), shape=(z.shape[0], *self._shape))
        match self._config.output:
            case "tanh":
                return ops.tanh(x)
            case "sigmoid":
                return 2.0 * ops.sigmoid(x) - 1.0
        return x


class Discriminator(Module):
    """Images N,H,W,C -> logits N,1: D(x) = σ(logit)."""

    def __init__(self, config: Config, rng: nn.Init):
        c = self._config = config
        sizes = (c.image_size**2 * c.channels, *c.d_widths)
        self.layers = [Maxout(a, b, c.pieces, rng=rng) if c.pieces > 1 else Linear(a, b, rng=rng)
                       for a, b in zip(sizes, sizes[1:])]
        self.layers.append(Linear(sizes[-1], 1, rng=rng))
        self.dropout = [nn.Dropout(c.dropout[k > 0], rng=rng) for k in range(len(sizes))]
        _spread([layer.linear if isinstance(layer, Maxout) else layer for layer in self.layers], c.init[1], rng)

    def forward(self, x: Tensor) -> Tensor:
        h = ops.reshape(x, shape=(x.shape[0], -1))
        if self._config.output == "sigmoid":
            h = 0.5 * h + 0.5
        for drop, layer in zip(self.dropout, self.layers[:-1]):
            h = layer(drop(h))
            if self._config.pieces == 1:
                h = ops.leaky_relu(h, slope=0.2)
        return self.layers[-1](self.dropout[-1](h))


def _spread(layers: list[Linear], bound: float, rng: nn.Init) -> None:
    """Start the weights from U(±bound) and the biases from zero, if bound is not 0."""
    for layer in layers if bound else ():
        layer.w, layer.b = rng.uniform(layer.w.shape, bound), nn.init.zeros(layer.w.shape[1:])


class GAN(Module):
    """Generative adversarial network of two perceptrons (Goodfellow et al. 2014).

    It learns points in space too: as images of one pixel, N,1,1,dimensions, with output="linear".
    """

    data, steps = "digits", 8000
    saved = ("iteration",)

    def __init__(self, config: Config, rng: Rng):
        c = self.config = config
        self.generator = Generator(c, nn.Init(rng, "gan.init.g"))
        self.discriminator = Discriminator(c, nn.Init(rng, "gan.init.d"))
        self.ema = EMA(self.generator, c.ema) if c.ema else None
        self.d_optimizer = self._optimizer(self.discriminator)
        self.g_optimizer = self._optimizer(self.generator, self.ema)
        self.iteration = 0
        self._loss = losses.GAN_LOSSES[c.loss]

    def _optimizer(self, net: Module, ema: EMA | None = None):
        c = self.config
        rate = linear(c.lr, c.decay_steps) if c.decay_steps else step_decay(c.lr, 1, 1 / c.shrink)
        if c.optimizer == "sgd":
            return SGD(net.parameters(), rate, momentum=c.beta1, ema=ema)
        return Adam(net.parameters(), rate, betas=(c.beta1, c.beta2), ema=ema)

    def noise(self, n: int, rng: Rng, name: str = "sample.z", step: int = 0) -> Tensor:
        """n latent vectors (n, latent)."""
        return rng.normal(name, step, (n, self.config.latent), device=self.generator.layers[0].w.device)

    def step(self, batch, rng: Rng) -> dict[str, Any]:
        """One round of Algorithm 1: D ascends against fakes that are constants to it; then G descends,
        through a D that stays as it is, on noise of its own."""
        x, k, D = batch.images, self.iteration, self.discriminator
        if not self.training:
            self.train()
        with nn.streams(rng, k):
            with tg.no_grad():
                fake = self.generator(self.noise(len(x), rng, "gan.z.d", k))
            on_real, on_fake, penalty = self._judge(x, fake, rng)
            d_loss = self._loss.d(on_real, on_fake)
            objective = d_loss if penalty is None else d_loss + penalty
            self.d_optimizer.step(tg.grad(objective, self.d_optimizer.params))

            g_loss = self._loss.g(D(self.generator(self.noise(len(x), rng, "gan.z.g", k))))
            self.g_optimizer.step(tg.grad(g_loss, self.g_optimizer.params))
        self.iteration += 1
        return {"d_loss": d_loss.scalar(), "g_loss": g_loss.scalar(),
                "d_real": losses.certainty(on_real), "d_fake": losses.certainty(on_fake)}

    def _judge(self, x: Tensor, fake: Tensor, rng: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """D's logits of real images and of fakes, and the penalties: γ/2·E‖∇D(x)‖² (Mescheder et al. 2018, eq. 9)
        + λ·E(‖∇D(x̂)‖ − 1)² (Gulrajani et al. 2017, eq. 3). R1 differentiates the pass that the loss needs anyway."""
        c, D, penalty = self.config, self.discriminator, None
        if c.r1:
            x = Tensor(x.data, requires_grad=True)
            on_real, on_fake = D(x), D(fake)
            slope = tg.grad(ops.sum(on_real), x, create_graph=True)
            penalty = (c.r1 / 2) * ops.mean(losses.per_sample(ops.square(slope)))
        else:
            logits = D(ops.concat(x, fake, axis=0))  # in one go: D treats each image by itself
            on_real, on_fake = logits[: len(x)], logits[len(x) :]
        if c.gradient_penalty:
            u = rng.uniform("gan.u", self.iteration, (len(x),), device=x.device)
            between = c.gradient_penalty * losses.gradient_penalty(D, losses.interpolate(x, fake, u))
            penalty = between if penalty is None else penalty + between
        return on_real, on_fake, penalty

    def sample(self, n: int, rng: Rng, *, average: bool = True) -> Tensor:
        """n images N,H,W,C in [−1, 1].

        average: use the moving average of G's weights, if there is one
        """
        self.eval()
        z = self.noise(n, rng)
        with tg.no_grad():
            if self.ema is None or not average:
                return self.generator(z)
            with self.ema.applied():
                return self.generator(z)

    Config, PRESETS = Config, PRESETS  # the annotations above mean the module's Config


MODEL = GAN
