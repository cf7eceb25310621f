"""The models: one readable file each. `names()` lists them, `load(name)` gives the class."""

from __future__ import annotations

import difflib
import importlib

# name -> what it is, in a line; kept here so that listing the models imports none of them
MODELS: dict[str, str] = {
    "gan": "the generative adversarial network, of perceptrons (Goodfellow et al. 2014)",
    "dcgan": "the convolutional GAN (Radford et al. 2016)",
    "vae": "the variational autoencoder, of perceptrons (Kingma & Welling 2014)",
    "conv_vae": "the variational autoencoder, of convolutions",
    "ddpm": "denoising diffusion with a U-Net (Ho et al. 2020; DDIM, Song et al. 2021)",
}


def names() -> list[str]:
    """The names of all models."""
    return list(MODELS)


def load(name: str):
    """The model class called `name`. Raises ConfigError, with the nearest name, for an unknown one."""
    from ..errors import ConfigError

    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no model {name!r}; there are {', '.join(MODELS)}.{hint}")
    return importlib.import_module(f".{name}", __name__).MODEL
