"""Batch norm on a GPU: sums of every channel in two stages, then one pass for the result, both ways. README.md."""

from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready
from tinygen.kernels.cuda.columns import divide

PATH = "batch_norm/cuda.cu"
BUILDS: tuple[dict, ...] = ({"WIDE": 4}, {"WIDE": 1})


def forward(x: Any, w: Any, b: Any, *, eps: float) -> tuple[tuple[Any, Any, Any], Any]:
    """x N,…,C; w, b (C,). Returns (y, mean, var) and the hint (mean, rstd), float64 (C,)."""
    C = x.shape[-1]
    M = x.size // C
    x, d = ready(x), divide(1, M, C)
    parts, (mean, rstd) = empty((2, d.splits, C), np.float64), (empty((C,), np.float64), empty((C,), np.float64))
    mean_out, var_out, constants = empty((C,), np.float32), empty((C,), np.float32), empty((4, C), np.float32)
    y = empty(x.shape, np.float32)
    launch(PATH, "sums", (d.blocks,), d.block, (x, None, None, parts, M, C, d.splits, d.rows), WIDE=d.wide)
    args = (parts, x, ready(w), ready(b), mean, rstd, mean_out, var_out, constants, M, C, d.splits, eps)
    launch(PATH, "finish_forward", (ceildiv(C, 32),), (32, 8), args, WIDE=d.wide)
    launch(PATH, "combine", (d.blocks,), d.block, (None, x, constants, y, M, C, d.splits, d.rows), WIDE=d.wide)
    return (y, mean_out, var_out), (mean, rstd)


def backward(g: tuple[Any, Any, Any], x: Any, w: Any, b: Any, *, eps: float, hint: Any) -> tuple[Any, Any, Any]:
    """g = cotangents of (y, mean, var); hint from forward. Returns gx like x, gw, gb (C,)."""
    (gy, g_mean, g_var), (mean, rstd) = g, hint
    C = x.shape[-1]
    M = x.size // C
    x, gy, d = ready(x), ready(gy), divide(1, M, C)
    parts, constants = empty((2, d.splits, C), np.float64), empty((4, C), np.float32)
    gx, gw, gb = empty(x.shape, np.float32), empty((C,), np.float32), empty((C,), np.float32)
    launch(PATH, "sums", (d.blocks,), d.block, (x, gy, mean, parts, M, C, d.splits, d.rows), WIDE=d.wide)
    args = (parts, ready(w), mean, rstd, ready(g_mean), ready(g_var), gw, gb, constants, M, C, d.splits)
    launch(PATH, "finish_backward", (ceildiv(C, 32),), (32, 8), args, WIDE=d.wide)
    launch(PATH, "combine", (d.blocks,), d.block, (gy, x, constants, gx, M, C, d.splits, d.rows), WIDE=d.wide)
    return gx, gw, gb
