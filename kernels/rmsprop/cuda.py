"""RMSprop's steps on a GPU: one launch for all parameters of a dtype; see README.md and kernels/cuda/multi.py."""

from __future__ import annotations

from typing import Any

from tinygen.kernels.cuda.multi import BUILDS, table_of

__all__ = ["BUILDS", "step"]


def step(p: Any, g: Any, v: Any, buf: Any, avg: Any, ema: Any, lr, alpha, eps, momentum, weight_decay, scale, ema_decay,
         memo=None) -> None:
    """See the package's step. With a board in the memo, lr, scale and ema_decay are those that lie on it."""
    board, table, report, kept = table_of("rmsprop", memo, p, g, v, buf, avg, ema, numbers=(lr, 0, 1.0 - ema_decay))
    board.run("rmsprop/cuda.cu", "rmsprop", table, board.numbers, report, scale, alpha, eps, momentum, weight_decay)
