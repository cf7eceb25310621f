"""One Adam step over contiguous arrays: one loop, one pass over memory.

No fastmath: every element gets the same arithmetic wherever it lies, in a vector or in the rest of a loop,
whatever the thread count.
"""

import math

from numba import njit

from tinygen.kernels.adam.arrays import flat
from tinygen.kernels.threads import share

SHARE = 65536  # elements a thread takes at least: waking it costs what 20,000 do


@njit(cache=True, error_model="numpy", nogil=True)
def _element(p, g, m, v, b1, a1, b2, a2, rate, root, eps, l2, shrink, scale):
    """The new p, m and v of one element; a1 = 1 - b1, rate and root hold the bias corrections."""
    g = scale * g + l2 * p
    m = b1 * m + a1 * g
    v = b2 * v + a2 * g * g
    return shrink * p - rate * m / (math.sqrt(v) * root + eps), m, v


@njit(cache=True, error_model="numpy", nogil=True)
def _run(p, g, m, v, ema, b1, a1, b2, a2, rate, root, eps, l2, shrink, scale, ema_rate, first, last):
    real = p.dtype.type  # Python floats are float64: unconverted they would widen float32 arithmetic
    b1, a1, b2, a2, rate, root = real(b1), real(a1), real(b2), real(a2), real(rate), real(root)
    eps, l2, shrink, scale, follow = real(eps), real(l2), real(shrink), real(scale), real(ema_rate)
    p, g, m, v, ema = p[first:last], g[first:last], m[first:last], v[first:last], ema[first:last]
    if ema_rate == 0.0:  # ema is only a stand-in: touching it would cost the loop its vectors
        for i in range(p.size):
            p[i], m[i], v[i] = _element(
                p[i], g[i], m[i], v[i], b1, a1, b2, a2, rate, root, eps, l2, shrink, scale
            )
    else:
        for i in range(p.size):
            p[i], m[i], v[i] = _element(
                p[i], g[i], m[i], v[i], b1, a1, b2, a2, rate, root, eps, l2, shrink, scale
            )
            ema[i] += follow * (p[i] - ema[i])


def step(p, g, m, v, ema, lr, beta1, beta2, eps, weight_decay, decoupled, t, scale, ema_decay):
    """See the package's step. Without an EMA its rate is 0 and the array standing in for it is left alone."""
    p, g, m, v, average = flat("adam", p, g, m, v, ema)
    # floats throughout: an int or a NumPy scalar among them would compile everything once more
    lr, beta1, beta2, decay = float(lr), float(beta1), float(beta2), float(weight_decay)
    l2, shrink = (0.0, 1.0 - lr * decay) if decoupled else (decay, 1.0)
    rate, root = lr / (1.0 - beta1 ** int(t)), 1.0 / math.sqrt(1.0 - beta2 ** int(t))
    ema_rate = 0.0 if ema is None else 1.0 - float(ema_decay)
    betas = beta1, 1.0 - beta1, beta2, 1.0 - beta2
    scalars = *betas, rate, root, float(eps), l2, shrink, float(scale), ema_rate
    share(p.size, lambda first, last: _run(p, g, m, v, average, *scalars, first, last), least=SHARE)
