"""The convolutional parts of three classifiers, whose layers LPIPS compares; torchvision's names, "features.0.weight".

    alex      AlexNet (Krizhevsky 2014, "one weird trick")      64 192 384 256 256 channels after its five ReLUs
    vgg       VGG-16 (Simonyan and Zisserman 2015)              64 128 256 512 512 after relu1_2 … relu5_3
    squeeze   SqueezeNet 1.1 (Iandola et al. 2016)              64 128 256 384 384 512 512 after its fire modules

Each is a list of steps in the order of torchvision's `features`, whose numbers the steps carry.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygen import ops
from tinygen.errors import ConfigError, ShapeError
from tinygen.tensor import Tensor

from .layers import Conv, conv_relu, conv_weights, join, pool, take


@dataclass(frozen=True)
class Layer:
    """A convolution with ReLU; or, with `squeezed`, a fire module: 1×1 to so many, then 1×1 beside 3×3."""

    index: int
    into: int  # channels of the input
    out: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    tap: bool = False
    squeezed: int = 0


@dataclass(frozen=True)
class Pool:
    size: int
    ceil: bool = False


def _fire(index: int, into: int, squeezed: int, out: int, tap: bool = False) -> Layer:
    return Layer(index, into, out, tap=tap, squeezed=squeezed)


_CEIL = Pool(3, ceil=True)
STEPS: dict[str, tuple[Layer | Pool, ...]] = {
    "alex": (
        Layer(0, 3, 64, 11, 4, 2, tap=True), Pool(3), Layer(3, 64, 192, 5, 1, 2, tap=True), Pool(3),
        Layer(6, 192, 384, tap=True), Layer(8, 384, 256, tap=True), Layer(10, 256, 256, tap=True),
    ),
    "vgg": (
        Layer(0, 3, 64), Layer(2, 64, 64, tap=True), Pool(2), Layer(5, 64, 128), Layer(7, 128, 128, tap=True), Pool(2),
        Layer(10, 128, 256), Layer(12, 256, 256), Layer(14, 256, 256, tap=True), Pool(2),
        Layer(17, 256, 512), Layer(19, 512, 512), Layer(21, 512, 512, tap=True), Pool(2),
        Layer(24, 512, 512), Layer(26, 512, 512), Layer(28, 512, 512, tap=True),
    ),
    "squeeze": (
        Layer(0, 3, 64, 3, 2, 0, tap=True), _CEIL, _fire(3, 64, 16, 128), _fire(4, 128, 16, 128, tap=True), _CEIL,
        _fire(6, 128, 32, 256), _fire(7, 256, 32, 256, tap=True), _CEIL, _fire(9, 256, 48, 384, tap=True),
        _fire(10, 384, 48, 384, tap=True), _fire(11, 384, 64, 512, tap=True), _fire(12, 512, 64, 512, tap=True),
    ),
}  # fmt: skip
NETS = tuple(STEPS)
LEAST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels, so that every pool has a window


def check_net(net: str) -> str:
    """`net`, if it is one of NETS. Raises ConfigError."""
    if net not in NETS:
        near = difflib.get_close_matches(str(net), NETS, 1, 0.4)
        raise ConfigError(f"unknown network {net!r}; there are {', '.join(NETS)}" + (
            f"; did you mean {near[0]!r}?" if near else "."))
    return net


def channels(net: str) -> list[int]:
    """Of each tap."""
    return [s.out for s in STEPS[net] if isinstance(s, Layer) and s.tap]


class Trunk:
    """One of NETS with its weights: Trunk("vgg", load_weights(path).arrays)(x) -> the taps."""

    def __init__(self, net: str, arrays: Mapping[str, np.ndarray], path: Path | str = "the weights"):
        """arrays: tensors in torchvision's names; those of the classifier are left. Raises ConfigError, DataError."""
        self.net, self.convs = check_net(net), dict[str, Conv]()
        for step in STEPS[net]:
            if isinstance(step, Layer):
                for name, shape in _convolutions(step):
                    w, b = take(arrays, f"{name}.weight", shape, path), take(arrays, f"{name}.bias", shape[:1], path)
                    self.convs[name] = conv_weights(w, b)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """x N,H,W,3, normalised -> the taps N,h,w,C. Raises ShapeError."""
        least = LEAST[self.net]
        if x.ndim != 4 or x.shape[3] != 3 or min(x.shape[1:3]) < least:
            raise ShapeError(f"{self.net} takes x N,H,W,3 of at least {least}×{least} pixels; got {x.shape}.")
        taps = []
        for step in STEPS[self.net]:
            if isinstance(step, Pool):
                x = pool(x, "max", step.size, 2, ceil=step.ceil)
                continue
            x = self._fired(x, step.index) if step.squeezed else conv_relu(
                x, self.convs[f"features.{step.index}"], step.stride, step.padding)
            if step.tap:
                taps.append(x)
        return taps

    def _fired(self, x: Tensor, index: int) -> Tensor:
        squeeze, *expand = (self.convs[f"features.{index}.{part}"] for part in ("squeeze", "expand1x1", "expand3x3"))
        x = conv_relu(x, squeeze)
        return join([(ops.conv2d(x, w, padding=p), b) for p, (w, b) in enumerate(expand)])


def _convolutions(step: Layer) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """(name, (F, C, kh, kw)) of each convolution of a layer."""
    name = f"features.{step.index}"
    if step.squeezed:
        yield f"{name}.squeeze", (step.squeezed, step.into, 1, 1)
        yield f"{name}.expand1x1", (step.out // 2, step.squeezed, 1, 1)
        yield f"{name}.expand3x3", (step.out // 2, step.squeezed, 3, 3)
    else:
        yield name, (step.out, step.into, step.size, step.size)
