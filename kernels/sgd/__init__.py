"""Stochastic gradient descent: parameters, their velocities and optionally their moving averages, in one pass."""

from collections.abc import Sequence

import numpy as np

from tinygen.kernels.seam import Seam

_seam = Seam("sgd")

Arrays = np.ndarray | Sequence[np.ndarray]


def step(
    p: Arrays,
    g: Arrays,
    buf: Arrays | None,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    t: int,
    scale: float = 1.0,
    ema: np.ndarray | Sequence[np.ndarray | None] | None = None,
    ema_decay: float = 0.0,
    memo: dict | None = None,
) -> None:
    """Step number t (from 1) of gradient descent on p, in place, with the velocity buf and ema.

    p, g, buf and ema: one shape, one dtype, float32 or float64; all but g C-contiguous and writeable, and none
    sharing memory with another; or lists of such arrays, which cost one call together (memo: a dict kept by the
    caller, in which their addresses are remembered). buf may be None where momentum is 0; step 1 sets it to the
    gradient whatever it held. The gradient used is scale * g + weight_decay * p. Sutskever et al. 2013, in
    PyTorch's form. ema, if given, becomes ema_decay * ema + (1 - ema_decay) * p for the updated p. Raises
    ValueError or TypeError for arrays that do not fit.
    """
    kernels = _seam.of(type(p[0] if isinstance(p, list) else p))
    if buf is None and momentum != 0:
        raise ValueError(f"sgd with momentum {momentum} needs buf, an array like p for the velocity.")
    if nesterov and momentum == 0:
        raise ValueError("sgd: Nesterov's look-ahead needs momentum > 0.")
    kernels.step(p, g, buf, ema, lr, momentum, nesterov, weight_decay, t, scale, ema_decay, memo)
