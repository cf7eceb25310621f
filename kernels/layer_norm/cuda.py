"""Layer norm on a GPU: a row is one team of threads' (rows.py), read once, written once; gw and gb in two stages.

float32. See README.md; the functions are those of cpu.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready, zeros
from tinygen.kernels.cuda.rows import LENGTHS, plan

_SOURCE = "layer_norm/cuda.cu"
# Threads of the backward pass, whose blocks each have a part of gw and gb: 16 warps for every multiprocessor of an
# H200. A fixed number, so that every GPU adds up in the same order.
_THREADS = 132 * 16 * 32
BUILDS: tuple[dict, ...] = tuple(plan(C, least=32) for C in LENGTHS)


def _rows(x: Any) -> tuple[int, int]:
    """(R, C): how many rows, how long."""
    C = x.shape[-1]
    return (x.size // C if C else 0), C


def forward(x: Any, w: Any, b: Any, *, eps: float) -> tuple[Any, Any]:
    """x …,C; w, b (C,). Returns y like x, and the hint (mean, rstd), (rows,) each."""
    R, C = _rows(x)
    y, mean, rstd = empty(x.shape, np.float32), empty((R,), np.float32), empty((R,), np.float32)
    if x.size:
        how = plan(C, least=32)
        grid = (ceildiv(R, how["THREADS"] // how["LANES"]),)
        args = ready(x), ready(w), ready(b), y, mean, rstd, R, C, eps
        launch(_SOURCE, "forward", grid, how["THREADS"], args, **how)
    return y, (mean, rstd)


def backward(g: Any, x: Any, w: Any, b: Any, *, eps: float, hint: Any) -> tuple[Any, Any, Any]:
    """g like x …,C; hint from forward. Returns gx like x, gw, gb (C,)."""
    R, C = _rows(x)
    if not x.size:
        return empty(x.shape, np.float32), zeros((C,), np.float32), zeros((C,), np.float32)
    how = plan(C, least=32)
    teams, held = how["THREADS"] // how["LANES"], how["HELD"] > 0
    blocks = min(_THREADS // how["THREADS"], ceildiv(R, 2 * teams)) if held else R
    parts = blocks if held else min(16, R)
    gx, gwb, part = empty(x.shape, np.float32), empty((2, C), np.float32), empty((2, parts, C), np.float32)
    g, x = ready(g), ready(x)
    launch(_SOURCE, "backward", (blocks,), how["THREADS"], (g, x, ready(w), *hint, gx, part, R, C),
           shared=8 * C if held else 0, **how)
    if not held:
        launch(_SOURCE, "columns", (ceildiv(C, 128), parts), 128, (g, x, *hint, part, R, C), **how)
    launch(_SOURCE, "total", (ceildiv(C, 32), 2), 256, (part, gwb, parts, C), **how)
    return gx, gwb[0], gwb[1]
