"""One Adam step over many arrays as over one long row: one loop, one pass over memory.

No fastmath: every element gets the same arithmetic wherever it lies, in a vector or in the rest of a loop,
whatever the thread count.
"""

import math

from tinygen.kernels.jit import njit
from tinygen.kernels.table import PIECE, at, owner, tables
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run


@njit(cache=True, error_model="numpy", nogil=True)
def _element(p, g, m, v, b1, a1, b2, a2, rate, root, eps, l2, shrink, scale):
    """The new p, m and v of one element; a1 = 1 - b1, rate and root hold the bias corrections."""
    g = scale * g + l2 * p
    m = b1 * m + a1 * g
    v = b2 * v + a2 * g * g
    return shrink * p - rate * m / (math.sqrt(v) * root + eps), m, v


@njit(cache=True, error_model="numpy", nogil=True)
def _update(p, g, m, v, ema, b1, a1, b2, a2, rate, root, eps, l2, shrink, scale, ema_rate):
    real = p.dtype.type  # Python floats are float64: unconverted they would widen float32 arithmetic
    b1, a1, b2, a2, rate, root = real(b1), real(a1), real(b2), real(a2), real(rate), real(root)
    eps, l2, shrink, scale, follow = real(eps), real(l2), real(shrink), real(scale), real(ema_rate)
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


@njit(cache=True, error_model="numpy", nogil=True)
def _piece(addresses, starts, like, averaged, scalars, first, last):
    """Numbers first:last of the long row."""
    b1, a1, b2, a2, rate, root, eps, l2, shrink, scale, ema_rate = scalars
    k = owner(starts, first)
    while first < last:
        stop = min(last, starts[k + 1])
        i, n, row = first - starts[k], stop - first, addresses[k]
        _update(at(row[0], i, n, like), at(row[1], i, n, like), at(row[2], i, n, like), at(row[3], i, n, like),
                at(row[4], i, n, like), b1, a1, b2, a2, rate, root, eps, l2, shrink, scale,
                ema_rate if averaged[k] else 0.0)
        first, k = stop, k + 1


_pieces = loop(_piece)


@njit(cache=True, nogil=True)
def _all(team, pieces, n, *args):
    divide(team, pieces, n, _pieces(args))


def step(p, g, m, v, ema, lr, beta1, beta2, eps, weight_decay, decoupled, steps, scale, ema_decay, memo=None):
    """See the package's step. Where there is no EMA the parameter stands in for it and is left alone."""
    # floats throughout: an int or a NumPy scalar among them would compile everything once more
    lr, beta1, beta2, decay = float(lr), float(beta1), float(beta2), float(weight_decay)
    l2, shrink = (0.0, 1.0 - lr * decay) if decoupled else (decay, 1.0)
    rate, root = lr / (1.0 - beta1 ** int(steps)), 1.0 / math.sqrt(1.0 - beta2 ** int(steps))
    betas = beta1, 1.0 - beta1, beta2, 1.0 - beta2
    scalars = *betas, rate, root, float(eps), l2, shrink, float(scale), 1.0 - float(ema_decay)
    for t in tables("adam", memo, p, g, m, v, ema):
        averaged = t.addresses[:, 4] != t.addresses[:, 0]
        run(_all, int(t.starts[-1]), t.addresses, t.starts, t.like, averaged, scalars, least=PIECE)
