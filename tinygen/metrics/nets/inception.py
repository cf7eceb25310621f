"""Inception-v3 (Szegedy et al. 2016) as FID knows it: TensorFlow's graph of 2015-12-05, in PyTorch's names.

    Conv2d_1a_3x3.conv.weight   Conv2d_1a_3x3.bn.{weight, bias, running_mean, running_var}   …   fc.weight   fc.bias

That is the network whose features Heusel et al. 2017 compare, as pytorch-fid's file has it. It differs from
torchvision's Inception-v3, silently and by a third of the features' size:
- average pools leave the padding out of the mean (Mixed_5b … 5d, 6b … 6e, 7b);
- Mixed_7c has a maximum where every other such block has a mean;
- 1008 classes, and no head in the middle; batch normalisation has eps = 0.001.

x N,299,299,3 in about [−1, 1] -> features at the taps
    64 N,73,73,64 and 192 N,35,35,192   after the first and the second maximum pool
    768 N,17,17,768                     after Mixed_6e
    spatial N,17,17,7                   the first channels of Mixed_6d's 1×1 branch: sFID's (Nash et al. 2021)
    2048 N,2048                         the mean over the last map: FID's
    logits N,1008; logits_unbiased      the same without their bias: what the Inception score is taken from
Smaller images pass too (from 75×75); their features are nobody's published ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tinygen import ops
from tinygen.errors import ConfigError, DataError, ShapeError
from tinygen.tensor import Tensor

from .layers import Conv, conv_relu, fold, join, pool, take

TAPS = ("64", "192", "768", "spatial", "2048", "logits_unbiased", "logits")
EPS = 0.001
LEAST = 75  # pixels, so that every pool has a window
Table = dict[str, tuple[int, int, int, int]]
Part = tuple[Tensor, Tensor | None]  # of a concatenation: a product, and the bias and ReLU that it still needs


def _table() -> Table:
    """F, C, kh, kw of every convolution."""
    t: Table = {}

    def add(block: str, *branches: tuple[str, int, int, int, int]) -> None:
        t.update({f"{block}.{name}" if block else name: (f, c, kh, kw) for name, c, f, kh, kw in branches})

    add("", ("Conv2d_1a_3x3", 3, 32, 3, 3), ("Conv2d_2a_3x3", 32, 32, 3, 3), ("Conv2d_2b_3x3", 32, 64, 3, 3),
        ("Conv2d_3b_1x1", 64, 80, 1, 1), ("Conv2d_4a_3x3", 80, 192, 3, 3))
    for name, c, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        add(name, ("branch1x1", c, 64, 1, 1), ("branch5x5_1", c, 48, 1, 1), ("branch5x5_2", 48, 64, 5, 5),
            ("branch3x3dbl_1", c, 64, 1, 1), ("branch3x3dbl_2", 64, 96, 3, 3), ("branch3x3dbl_3", 96, 96, 3, 3),
            ("branch_pool", c, pooled, 1, 1))
    add("Mixed_6a", ("branch3x3", 288, 384, 3, 3), ("branch3x3dbl_1", 288, 64, 1, 1),
        ("branch3x3dbl_2", 64, 96, 3, 3), ("branch3x3dbl_3", 96, 96, 3, 3))
    for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        add(name, ("branch1x1", 768, 192, 1, 1), ("branch7x7_1", 768, c, 1, 1), ("branch7x7_2", c, c, 1, 7),
            ("branch7x7_3", c, 192, 7, 1), ("branch7x7dbl_1", 768, c, 1, 1), ("branch7x7dbl_2", c, c, 7, 1),
            ("branch7x7dbl_3", c, c, 1, 7), ("branch7x7dbl_4", c, c, 7, 1), ("branch7x7dbl_5", c, 192, 1, 7),
            ("branch_pool", 768, 192, 1, 1))
    add("Mixed_7a", ("branch3x3_1", 768, 192, 1, 1), ("branch3x3_2", 192, 320, 3, 3), ("branch7x7x3_1", 768, 192, 1, 1),
        ("branch7x7x3_2", 192, 192, 1, 7), ("branch7x7x3_3", 192, 192, 7, 1), ("branch7x7x3_4", 192, 192, 3, 3))
    for name, c in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        add(name, ("branch1x1", c, 320, 1, 1), ("branch3x3_1", c, 384, 1, 1), ("branch3x3_2a", 384, 384, 1, 3),
            ("branch3x3_2b", 384, 384, 3, 1), ("branch3x3dbl_1", c, 448, 1, 1), ("branch3x3dbl_2", 448, 384, 3, 3),
            ("branch3x3dbl_3a", 384, 384, 1, 3), ("branch3x3dbl_3b", 384, 384, 3, 1), ("branch_pool", c, 192, 1, 1))
    return t


CONVOLUTIONS = _table()  # 94 of them
# without padding; every other convolution keeps the size of its input
VALID = {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3",
         "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4"}  # fmt: skip
STRIDE_2 = VALID - {"Conv2d_2a_3x3", "Conv2d_4a_3x3"}


class Inception:
    """The network with its weights: Inception(load_weights(path).arrays)(x, taps) -> {tap: Tensor}."""

    def __init__(self, arrays: Mapping[str, np.ndarray], path: Path | str = "the weights"):
        """arrays: the tensors in PyTorch's names and layouts; path: how sentences call them. Raises DataError."""
        if any(name.startswith("AuxLogits.") for name in arrays):
            raise DataError(f"{path} holds torchvision's own Inception-v3, which is another network than FID's: its "
                            "pools count padding. FID's file is pt_inception-2015-12-05-6726825d.pth.")
        unknown = [name for name in arrays if not _known(name)]
        if unknown:
            raise DataError(f"{path} has {unknown[0][:80]!r}, which FID's Inception has not; it holds the weights of "
                            "another network.")
        self.convs: dict[str, Conv] = {n: fold(arrays, n, shape, EPS, path) for n, shape in CONVOLUTIONS.items()}
        fc = take(arrays, "fc.weight", (None, 2048), path)
        self.fc = Tensor(np.ascontiguousarray(fc.T, np.float32))  # 2048, classes
        self.fc_bias = Tensor(take(arrays, "fc.bias", fc.shape[:1], path).astype(np.float32))

    def __call__(self, x: Tensor, taps: Collection[str] = ("2048",)) -> dict[str, Tensor]:
        """The features at `taps`, in that order; nothing beyond the deepest is computed. Raises ConfigError,
        ShapeError."""
        wrong = [t for t in taps if t not in TAPS]
        if wrong or not taps:
            raise ConfigError(f"unknown tap {', '.join(map(repr, wrong)) or 'of none'}; there are {', '.join(TAPS)}.")
        if x.ndim != 4 or x.shape[3] != 3 or min(x.shape[1:3]) < LEAST:
            raise ShapeError(f"Inception takes x N,H,W,3 of at least {LEAST}×{LEAST} pixels; got {x.shape}.")
        deepest = max(map(TAPS.index, taps))
        found: dict[str, Tensor] = {}
        for name, y in self._stages(x):
            found[name] = y
            if name in TAPS and TAPS.index(name) >= deepest:
                break
        return {t: found[t] for t in taps}

    def _stages(self, x: Tensor):
        c = self._conv
        x = c(c(c(x, "Conv2d_1a_3x3"), "Conv2d_2a_3x3"), "Conv2d_2b_3x3")  # N,147,147,64
        x = pool(x, "max", 3, 2)
        yield "64", x
        x = c(c(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3")  # N,71,71,192
        x = pool(x, "max", 3, 2)
        yield "192", x
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._a(x, name)  # N,35,35,256, then 288
        x = self._b(x, "Mixed_6a")  # N,17,17,768
        spatial = x
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._c(x, name)
            if name == "Mixed_6d":
                spatial = x[:, :, :, :7]  # the 1×1 branch comes first
        yield "768", x
        yield "spatial", spatial
        x = self._d(x, "Mixed_7a")  # N,8,8,1280
        x = self._e(x, "Mixed_7b", "mean")
        x = self._e(x, "Mixed_7c", "max")
        x = ops.global_avg_pool(x)
        yield "2048", x
        x = x @ self.fc
        yield "logits_unbiased", x
        yield "logits", x + self.fc_bias

    def _conv(self, x: Tensor, *path: str) -> Tensor:
        """Through the convolutions of `path`, one after the other."""
        for name in path:
            x = conv_relu(x, self.convs[name], *self._geometry(name))
        return x

    def _geometry(self, name: str) -> tuple[int, int | tuple[int, int]]:
        """(stride, padding)"""
        kh, kw = self.convs[name][0].shape[:2]
        return 2 if name in STRIDE_2 else 1, 0 if name in VALID else (kh // 2, kw // 2)

    def _branch(self, x: Tensor, block: str, *path: str) -> Part:
        """Through a path in a block: the last product, and the bias that is still to be added."""
        *before, last = (f"{block}.{name}" for name in path)
        (w, b), (stride, padding) = self.convs[last], self._geometry(last)
        return ops.conv2d(self._conv(x, *before), w, stride=stride, padding=padding), b

    def _pooled(self, x: Tensor, block: str) -> Part:
        """The branch conv(mean pool(x)), as mean pool(conv(x)): the two are linear and commute, and the bias, constant,
        is its own mean; there are 4 times fewer channels to pool behind the convolution than before it."""
        y, b = self._branch(x, block, "branch_pool")
        return pool(y, "mean", 3, 1, 1), b

    def _a(self, x: Tensor, block: str) -> Tensor:
        branch = partial(self._branch, x, block)
        return join([branch("branch1x1"), branch("branch5x5_1", "branch5x5_2"),
                     branch("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), self._pooled(x, block)])

    def _b(self, x: Tensor, block: str) -> Tensor:
        branch = partial(self._branch, x, block)
        return join([branch("branch3x3"), branch("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                     (pool(x, "max", 3, 2), None)])

    def _c(self, x: Tensor, block: str) -> Tensor:
        branch = partial(self._branch, x, block)
        return join([branch("branch1x1"), branch("branch7x7_1", "branch7x7_2", "branch7x7_3"),
                     branch(*(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))), self._pooled(x, block)])

    def _d(self, x: Tensor, block: str) -> Tensor:
        branch = partial(self._branch, x, block)
        return join([branch("branch3x3_1", "branch3x3_2"), branch(*(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))),
                     (pool(x, "max", 3, 2), None)])

    def _e(self, x: Tensor, block: str, kind: str) -> Tensor:
        branch = partial(self._branch, x, block)
        a = self._conv(x, f"{block}.branch3x3_1")
        b = self._conv(x, f"{block}.branch3x3dbl_1", f"{block}.branch3x3dbl_2")
        return join([
            branch("branch1x1"), self._branch(a, block, "branch3x3_2a"), self._branch(a, block, "branch3x3_2b"),
            self._branch(b, block, "branch3x3dbl_3a"), self._branch(b, block, "branch3x3dbl_3b"),
            self._pooled(x, block) if kind == "mean" else self._branch(pool(x, "max", 3, 1, 1), block, "branch_pool")])


def _known(name: str) -> bool:
    layer, _, last = name.rpartition(".")
    if layer == "fc":
        return True
    conv, _, kind = layer.rpartition(".")
    parts = ("weight",) if kind == "conv" else ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return conv in CONVOLUTIONS and kind in ("conv", "bn") and last in parts
