"""RMSprop: parameters, their state and optionally their moving averages, in one pass."""

from collections.abc import Sequence

import numpy as np

from tinygen.kernels.seam import Seam

_seam = Seam("rmsprop")

Arrays = np.ndarray | Sequence[np.ndarray]


def step(
    p: Arrays,
    g: Arrays,
    v: Arrays,
    buf: Arrays | None,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    scale: float = 1.0,
    avg: Arrays | None = None,
    ema: np.ndarray | Sequence[np.ndarray | None] | None = None,
    ema_decay: float = 0.0,
    memo: dict | None = None,
) -> None:
    """One step of RMSprop (Tieleman and Hinton 2012) on p, in place, with its state and ema; PyTorch's form.

    p, g, v, buf, avg and ema: one shape, one dtype, float32 or float64; all but g C-contiguous and writeable, and
    none sharing memory with another; or lists of such arrays, which cost one call together (memo: a dict kept by
    the caller, in which their addresses are remembered). v, buf and avg are zero before the first step. buf, the
    velocity, may be None where momentum is 0; avg, the mean gradient, makes it the centred form (Graves 2013) where
    it is given. The gradient used is scale * g + weight_decay * p. ema, if given, becomes ema_decay * ema + (1 -
    ema_decay) * p for the updated p. Raises ValueError or TypeError for arrays that do not fit.
    """
    kernels = _seam.of(type(p[0] if isinstance(p, list) else p))
    if buf is None and momentum != 0:
        raise ValueError(f"rmsprop with momentum {momentum} needs buf, an array like p for the velocity.")
    kernels.step(p, g, v, buf, avg, ema, lr, alpha, eps, momentum, weight_decay, scale, ema_decay, memo)
