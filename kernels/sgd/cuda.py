"""Gradient descent on a GPU: one launch for all parameters of a dtype; see README.md and kernels/cuda/multi.py."""

from __future__ import annotations

from typing import Any

from tinygen.kernels.cuda.multi import BUILDS, table_of

__all__ = ["BUILDS", "step"]


def step(p: Any, g: Any, buf: Any, ema: Any, lr, momentum, nesterov, weight_decay, steps, scale, ema_decay,
         memo=None) -> None:
    """See the package's step. With a board in the memo, lr, t, scale and ema_decay are those that lie on it."""
    board, table, report, kept = table_of("sgd", memo, p, g, buf, ema, numbers=(lr, steps, 1.0 - ema_decay))
    board.run("sgd/cuda.cu", "sgd", table, board.numbers, report, scale, momentum, nesterov, weight_decay)
