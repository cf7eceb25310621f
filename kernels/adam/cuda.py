"""Adam's steps on a GPU: one launch for all parameters of a dtype; see README.md and kernels/cuda/multi.py."""

from __future__ import annotations

import math
from typing import Any

from tinygen.kernels.cuda.multi import BUILDS, table_of

__all__ = ["BUILDS", "numbers", "step"]


def numbers(lr: float, beta1: float, beta2: float, weight_decay: float, decoupled: bool, steps: int,
            ema_decay: float) -> tuple[float, ...]:
    """What changes from step to step, as the kernel reads it."""
    shrink = 1.0 - lr * weight_decay if decoupled else 1.0
    return (lr, steps, 1.0 - ema_decay, lr / (1.0 - beta1**steps), 1.0 / math.sqrt(1.0 - beta2**steps), shrink)


def step(p: Any, g: Any, m: Any, v: Any, ema: Any, lr, beta1, beta2, eps, weight_decay, decoupled, steps, scale,
         ema_decay, memo=None) -> None:
    """See the package's step. With a board in the memo, lr, t, scale and ema_decay are those that lie on it."""
    changing = numbers(lr, beta1, beta2, weight_decay, decoupled, steps, ema_decay)
    board, table, report, kept = table_of("adam", memo, p, g, m, v, ema, numbers=changing)
    l2 = 0.0 if decoupled else weight_decay
    board.run("adam/cuda.cu", "adam", table, board.numbers, report, scale, beta1, beta2, eps, l2)
