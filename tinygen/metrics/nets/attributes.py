"""A small network that tells digits apart and reads shapes32: the embedded extractor that has learned something.

    x in [-1, 1] 32×32×3 · four times (conv 3×3, leaky ReLU 0.2), to 16, 32, 48 and 32 maps, the first three followed
    by a 2×2 mean pool · linear 512 -> 64, leaky ReLU: the features · a linear head for each attribute

68 thousand weights, trained by tinygen itself: `python bench/train_extractor.py` makes the file that lies beside this
one, and bench/results/train_extractor.json says what it reads of images that it was not trained on. It has seen the
training halves of both sets. Digits: UCI Optical Recognition of Handwritten Digits, CC BY 4.0; shapes: our own.

It knows what its attributes need and no more: cut digits into blocks and move the blocks about, and it notices a
seventh of what random filters notice (bench/results/extractors.json). Those, for their part, hardly see that shapes are
blurred. So the two stand beside each other, never alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinygen import ops
from tinygen.errors import ShapeError
from tinygen.modes import no_grad
from tinygen.tensor import Tensor

from .._arrays import Array, as_images
from ..resize import resize
from ..weights import WeightFile, load_weights
from .layers import take

SIDE, DIMS = 32, 64
WIDTHS = (16, 32, 48, 32)
HEADS = {"digit": 10, "shape": 6, "colour": 8, "size": 3, "cell": 9, "background": 4}
SLOPE = 0.2  # of leaky ReLU
FILE = Path(__file__).with_name("attributes.safetensors")
BLOCK = 128  # images at once

Weights = Mapping[str, Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight, in the engine's layout: kh,kw,C,F and in,out."""
    found: dict[str, tuple[int, ...]] = {}
    for k, (c, f) in enumerate(zip((3, *WIDTHS), WIDTHS)):
        found |= {f"conv{k}.w": (3, 3, c, f), f"conv{k}.b": (f,)}
    flat = (SIDE // 2 ** (len(WIDTHS) - 1)) ** 2 * WIDTHS[-1]
    found |= {"features.w": (flat, DIMS), "features.b": (DIMS,)}
    for name, classes in HEADS.items():
        found |= {f"{name}.w": (DIMS, classes), f"{name}.b": (classes,)}
    return found


def features(x: Tensor, w: Weights) -> Tensor:
    """x N,32,32,3 in [0, 1] -> N,64."""
    x = 2.0 * x - 1.0
    for k in range(len(WIDTHS)):
        x = ops.leaky_relu(ops.conv2d(x, w[f"conv{k}.w"], w[f"conv{k}.b"], padding=1), slope=SLOPE)
        if k < len(WIDTHS) - 1:
            x = ops.avg_pool2d(x, 2)
    return ops.leaky_relu(x.reshape((x.shape[0], -1)) @ w["features.w"] + w["features.b"], slope=SLOPE)


def head(f: Tensor, w: Weights, name: str) -> Tensor:
    """Features N,64 -> the logits of the attribute `name`, N,K."""
    return f @ w[f"{name}.w"] + w[f"{name}.b"]


def prepared(images: npt.ArrayLike) -> np.ndarray:
    """images N,H,W,C uint8 or float in [0, 1], grey (repeated) or RGB -> N,32,32,3 float32 in [0, 1].

    Other sizes are brought to 32×32 by the antialiased half-pixel bilinear of resize.py, which enlarges without
    antialiasing; sides that differ are stretched. Raises ShapeError, DtypeError, NonFiniteError.
    """
    x = as_images(images, "images").astype(np.float32)
    if x.shape[3] not in (1, 3) or min(x.shape[1:3]) < 8:
        raise ShapeError(f"attributes-v1 takes grey or RGB images of at least 8x8 pixels; got "
                         f"{'x'.join(map(str, x.shape[1:]))}.")
    if x.shape[1:3] != (SIDE, SIDE):
        x = resize(x, (SIDE, SIDE), "torchmetrics")
    return np.ascontiguousarray(np.broadcast_to(x, (*x.shape[:3], 3)))


class Attributes:
    """The extractor: extractor("attributes-v1")(images) -> N,64."""

    name = "attributes-v1"
    path = f"bilinear-aa {SIDE}x{SIDE}"

    @cached_property
    def _file(self) -> WeightFile:
        return load_weights(FILE)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {name: Tensor(take(self._file.arrays, name, shape, FILE).astype(np.float32))
                for name, shape in shapes().items()}

    @property
    def digest(self) -> str:
        """Of the file of weights, and of what is done with it."""
        definition = f"{self.name} {self._file.sha256} {self.path} leaky {SLOPE} features".encode()
        return "sha256:" + hashlib.sha256(definition).hexdigest()[:16]

    def __call__(self, images: npt.ArrayLike) -> Array:
        """images N,H,W,C uint8, or float in [0, 1], grey or RGB, sides >= 8 -> N,64 float64."""
        return self._run(images, lambda f: f, DIMS)

    def logits(self, images: npt.ArrayLike, attribute: str) -> Array:
        """What it makes of one of HEADS, N,K float64: of images of digits or shapes, that is."""
        return self._run(images, lambda f: head(f, self._weights, attribute), HEADS[attribute])

    def _run(self, images: npt.ArrayLike, last, width: int) -> Array:
        x = prepared(images)
        out = np.empty((len(x), width))
        with no_grad():
            for i in range(0, len(x), BLOCK):
                out[i : i + BLOCK] = last(features(Tensor(x[i : i + BLOCK]), self._weights)).data
        return out
