"""One RMSprop step over contiguous arrays in one pass over memory.

A tile of each array goes through the loops its options call for while it lies in the first-level cache (see
sgd/cpu.py). No fastmath, see adam/cpu.py.
"""

import math

import numpy as np
from numba import njit

from tinygen.kernels.adam.arrays import flat
from tinygen.kernels.threads import share

SHARE = 65536  # elements a thread takes at least: waking it costs what 20,000 do
TILE = 512


@njit(cache=True, error_model="numpy", nogil=True)
def _run(
    p, g, v, buf, avg, ema, lr, alpha, eps, momentum, centered, weight_decay, scale, ema_rate, first, last
):
    real = p.dtype.type  # Python floats are float64: unconverted they would widen float32 arithmetic
    rate, keep, take, small, mu = real(lr), real(alpha), real(1.0 - alpha), real(eps), real(momentum)
    decay, clip, follow, zero = real(weight_decay), real(scale), real(ema_rate), real(0.0)
    direction = np.empty(min(TILE, last - first), p.dtype)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        pt, gt, vt, d = p[start:stop], g[start:stop], v[start:stop], direction[: stop - start]
        for i in range(pt.size):
            d[i] = clip * gt[i] + decay * pt[i]
            vt[i] = keep * vt[i] + take * d[i] * d[i]
        if centered:
            at = avg[start:stop]
            for i in range(pt.size):
                at[i] = keep * at[i] + take * d[i]
                d[i] /= math.sqrt(max(vt[i] - at[i] * at[i], zero)) + small
        else:
            for i in range(pt.size):
                d[i] /= math.sqrt(vt[i]) + small
        if momentum != 0.0:
            bt = buf[start:stop]
            for i in range(pt.size):
                bt[i] = mu * bt[i] + d[i]
                pt[i] -= rate * bt[i]
        else:
            for i in range(pt.size):
                pt[i] -= rate * d[i]
        if ema_rate != 0.0:
            et = ema[start:stop]
            for i in range(pt.size):
                et[i] += follow * (pt[i] - et[i])


def step(p, g, v, buf, avg, ema, lr, alpha, eps, momentum, weight_decay, scale, ema_decay):
    """See the package's step. Arrays that are None are stood in for by p and not touched."""
    p, g, v, velocity, mean, average = flat("rmsprop", p, g, v, buf, avg, ema)
    ema_rate = 0.0 if ema is None else 1.0 - float(ema_decay)
    # floats throughout: an int or a NumPy scalar among them would compile everything once more
    rates = float(lr), float(alpha), float(eps), float(momentum)
    scalars = avg is not None, float(weight_decay), float(scale), ema_rate
    args = p, g, v, velocity, mean, average, *rates, *scalars
    share(p.size, lambda first, last: _run(*args, first, last), least=SHARE)
