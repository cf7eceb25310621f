"""FID's Inception-v3 in PyTorch, written from the published architecture, with the published names: the other side of
bench/inception.py, and what tests/test_metric_networks.py compares with where pytorch-fid is not installed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def conv(c: int, f: int, k: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0) -> nn.Module:
    """Convolution, batch normalisation, ReLU; children `conv` and `bn`."""
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(c, f, k, stride, padding, bias=False))
    block.add_module("bn", nn.BatchNorm2d(f, eps=0.001))
    block.add_module("relu", nn.ReLU(inplace=True))
    return block


class Mixed(nn.Module):
    """Branches by name; `paths` says which follow one another, an inner tuple which stand side by side; `pooling` what
    comes before branch_pool, or is a branch itself."""

    def __init__(self, branches: dict[str, nn.Module], paths: list[tuple], pooling: str):
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.paths, self.pooling = paths, pooling

    def forward(self, x):
        done = [self.along(x, path) for path in self.paths]
        if self.pooling == "down":
            return torch.cat([*done, F.max_pool2d(x, 3, 2)], 1)
        mean = self.pooling == "mean"
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if mean else F.max_pool2d(x, 3, 1, 1)
        return torch.cat([*done, self.branch_pool(x)], 1)

    def along(self, x, path):
        for name in path:
            x = torch.cat([getattr(self, n)(x) for n in name], 1) if isinstance(name, tuple) else getattr(self, name)(x)
        return x


def block_a(c: int, pooled: int) -> Mixed:
    return Mixed({"branch1x1": conv(c, 64, 1), "branch5x5_1": conv(c, 48, 1), "branch5x5_2": conv(48, 64, 5, 1, 2),
                  "branch3x3dbl_1": conv(c, 64, 1), "branch3x3dbl_2": conv(64, 96, 3, 1, 1),
                  "branch3x3dbl_3": conv(96, 96, 3, 1, 1), "branch_pool": conv(c, pooled, 1)},
                 [("branch1x1",), ("branch5x5_1", "branch5x5_2"),
                  ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")], "mean")  # fmt: skip


def block_b() -> Mixed:
    return Mixed({"branch3x3": conv(288, 384, 3, 2), "branch3x3dbl_1": conv(288, 64, 1),
                  "branch3x3dbl_2": conv(64, 96, 3, 1, 1), "branch3x3dbl_3": conv(96, 96, 3, 2)},
                 [("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")], "down")


def block_c(c: int) -> Mixed:
    row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return Mixed({"branch1x1": conv(768, 192, 1), "branch7x7_1": conv(768, c, 1), "branch7x7_2": conv(c, c, *row),
                  "branch7x7_3": conv(c, 192, *column), "branch7x7dbl_1": conv(768, c, 1),
                  "branch7x7dbl_2": conv(c, c, *column), "branch7x7dbl_3": conv(c, c, *row),
                  "branch7x7dbl_4": conv(c, c, *column), "branch7x7dbl_5": conv(c, 192, *row),
                  "branch_pool": conv(768, 192, 1)},
                 [("branch1x1",), tuple(f"branch7x7_{i}" for i in (1, 2, 3)),
                  tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))], "mean")  # fmt: skip


def block_d() -> Mixed:
    return Mixed({"branch3x3_1": conv(768, 192, 1), "branch3x3_2": conv(192, 320, 3, 2),
                  "branch7x7x3_1": conv(768, 192, 1), "branch7x7x3_2": conv(192, 192, (1, 7), 1, (0, 3)),
                  "branch7x7x3_3": conv(192, 192, (7, 1), 1, (3, 0)), "branch7x7x3_4": conv(192, 192, 3, 2)},
                 [("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))], "down")


def block_e(c: int, pooling: str) -> Mixed:
    row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    return Mixed({"branch1x1": conv(c, 320, 1), "branch3x3_1": conv(c, 384, 1), "branch3x3_2a": conv(384, 384, *row),
                  "branch3x3_2b": conv(384, 384, *column), "branch3x3dbl_1": conv(c, 448, 1),
                  "branch3x3dbl_2": conv(448, 384, 3, 1, 1), "branch3x3dbl_3a": conv(384, 384, *row),
                  "branch3x3dbl_3b": conv(384, 384, *column), "branch_pool": conv(c, 192, 1)},
                 [("branch1x1",), ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
                  ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))], pooling)  # fmt: skip


class Inception(nn.Module):
    """x N,3,299,299 -> the taps 64, 192, 768, 2048 and logits, by name."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = conv(3, 32, 3, 2), conv(32, 32, 3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = conv(32, 64, 3, 1, 1), conv(64, 80, 1)
        self.Conv2d_4a_3x3 = conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(block_c, (128, 160, 160, 192))
        self.Mixed_7a = block_d()
        self.Mixed_7b, self.Mixed_7c = block_e(1280, "mean"), block_e(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def features(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        yield "64", (x := F.max_pool2d(x, 3, 2))
        yield "192", (x := F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        yield "768", (x := self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))))
        yield "2048", (x := self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3)))
        yield "logits", self.fc(x)

    def forward(self, x):
        return dict(self.features(x))


def folded(net: Inception) -> Inception:
    """The same function with each batch normalisation folded into its convolution, as for serving."""
    for block in net.modules():
        if isinstance(block, nn.Sequential) and hasattr(block, "bn"):
            block.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.bn)
            block.bn = nn.Identity()
    return net
