"""A model that trains in a moment, for the tests of what surrounds models: an autoencoder with batch norm, Adam and
a moving average, that draws random numbers as it learns. It can be told to break."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

import tinygen as tg
from tinygen import nn, ops
from tinygen.config import field
from tinygen.data.image import to_uint8


@dataclass(frozen=True)
class Config:
    image_size: int = field(8, "side of the images")
    channels: int = field(1, "colour channels")
    classes: int = field(0, "classes to tell apart; 0: none")
    width: int = field(8, "hidden units")
    depths: tuple[int, ...] = field((1, 2), "of nothing in particular")
    lr: float = field(1e-2, "learning rate")
    noise: float | None = field(None, "noise on the input, or none")
    act: str = field("tanh", "non-linearity", choices=("tanh", "relu"))
    mirror: bool = field(False, "mirror nothing")
    batch_size: int = field(16, "images in a step")
    break_at: int = field(-1, "the step that breaks")
    broken: str = field("forward", "how it breaks", choices=("forward", "backward", "update", "inf"))
    wait: float = field(0.0, "seconds that a step takes longer")


class Tiny(nn.Module):
    """An autoencoder."""

    Config = Config
    PRESETS = {"small": {}, "paper": {"width": 16, "lr": 1e-3}}
    data, steps = "digits", 12
    saved = ("iteration",)

    def __init__(self, config: Config, rng: tg.Rng):
        init = nn.Init(rng, "tiny")
        self.config, self.size = config, config.image_size**2 * config.channels
        self.enter = nn.Linear(self.size, config.width, rng=init)
        self.norm = nn.BatchNorm(config.width)
        self.leave = nn.Linear(config.width, self.size, rng=init)
        self.ema = tg.optim.EMA(self, 0.9)
        self.optimizer = tg.optim.Adam(self.parameters(), lr=config.lr, ema=self.ema)
        self.iteration = 0

    def forward(self, x):
        return self.leave(ops.tanh(self.norm(self.enter(x))))

    def step(self, batch, rng):
        time.sleep(self.config.wait)
        x = batch.images.reshape((len(batch), self.size))
        x = x + 0.1 * rng.normal("tiny.noise", self.iteration, x.shape)
        y = self(x)
        loss = ops.mean((y - x) ** 2)
        breaks = self.iteration == self.config.break_at
        if breaks and self.config.broken == "forward":
            loss = loss + ops.mean(ops.log(y - 1000.0))
        if breaks and self.config.broken == "backward":
            loss = loss + ops.mean(ops.sqrt(0.0 * y))
        if breaks and self.config.broken == "inf":
            loss = loss + ops.mean(ops.exp(y + 1000.0))
        self.optimizer.step(tg.grad(loss, self.optimizer.params))
        if breaks and self.config.broken == "update":
            self.enter.w.data[0, 0] = np.nan
        self.iteration += 1
        return {"loss": loss.item(), "lr": self.config.lr}

    def sample(self, n, rng, *, temperature: float = 1.0, label: int | None = None):
        """n images.

        temperature: of the noise
        """
        with self.ema.applied():
            y = self(temperature * rng.normal("tiny.sample", 0, (n, self.size)))
        return ops.clip(y, -1.0, 1.0).reshape((n, self.config.image_size, self.config.image_size, self.config.channels))

    def figures(self, rng):
        return {"one_sample": to_uint8(self.sample(1, rng).numpy()[0])}

    def evaluate(self, dataset, rng):
        return {"images": len(dataset)}


MODEL = Tiny


def install() -> None:
    """Make `tinygen train tiny` work in this process."""
    from tinygen import models

    sys.modules["tinygen.models.tiny"] = sys.modules[__name__]
    models.MODELS["tiny"] = "an autoencoder for tests"


if __name__ == "__main__":  # python tiny_model.py train tiny …: the command line with this model in it
    sys.modules["tiny_model"] = sys.modules[__name__]
    install()
    from tinygen.cli import main

    sys.exit(main())
