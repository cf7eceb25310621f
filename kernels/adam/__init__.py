"""Adam and AdamW: parameters, their two moments and optionally their moving averages, in one pass."""

from collections.abc import Sequence

import numpy as np

from tinygen.kernels.seam import Seam

_seam = Seam("adam")

Arrays = np.ndarray | Sequence[np.ndarray]


def step(
    p: Arrays,
    g: Arrays,
    m: Arrays,
    v: Arrays,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    t: int,
    scale: float = 1.0,
    ema: np.ndarray | Sequence[np.ndarray | None] | None = None,
    ema_decay: float = 0.0,
    memo: dict | None = None,
) -> None:
    """Step number t (from 1) of Adam (Kingma and Ba 2015, algorithm 1) on p, in place, with m, v and ema.

    p, g, m, v and ema: arrays of one shape, one dtype, float32 or float64; all but g C-contiguous and writeable,
    and none sharing memory with another; or lists of such arrays, which cost one call together (memo: a dict kept
    by the caller, in which their addresses are remembered). m and v are zero before the first step. The gradient
    used is scale * g. weight_decay: added to the gradient as an L2 penalty, or with `decoupled` taken off p itself
    as in AdamW (Loshchilov and Hutter 2019). ema, if given, becomes ema_decay * ema + (1 - ema_decay) * p for the
    updated p. Raises ValueError or TypeError for arrays that do not fit.
    """
    kernels = _seam.of(type(p[0] if isinstance(p, list) else p))
    if t < 1:
        raise ValueError(f"adam counts its steps from 1, but t={t}: its bias correction divides by zero.")
    kernels.step(p, g, m, v, ema, lr, beta1, beta2, eps, weight_decay, decoupled, t, scale, ema_decay, memo)
