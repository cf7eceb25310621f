"""One RMSprop step over many arrays as over one long row, in one pass over memory.

A tile of each array goes through the loops its options call for while it lies in the first-level cache (see
sgd/cpu.py). No fastmath, see adam/cpu.py.
"""

import math

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.table import PIECE, at, owner, tables
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run

TILE = 512


@njit(cache=True, error_model="numpy", nogil=True)
def _update(p, g, v, buf, avg, ema, lr, alpha, eps, momentum, weight_decay, scale, ema_rate, centered):
    real = p.dtype.type  # Python floats are float64: unconverted they would widen float32 arithmetic
    rate, keep, take, small, mu = real(lr), real(alpha), real(1.0 - alpha), real(eps), real(momentum)
    decay, clip, follow, zero = real(weight_decay), real(scale), real(ema_rate), real(0.0)
    direction = np.empty(min(TILE, p.size), p.dtype)
    for start in range(0, p.size, TILE):
        stop = min(start + TILE, p.size)
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


@njit(cache=True, error_model="numpy", nogil=True)
def _piece(addresses, starts, like, averaged, centered, scalars, first, last):
    """Numbers first:last of the long row."""
    lr, alpha, eps, momentum, decay, scale, ema_rate = scalars
    k = owner(starts, first)
    while first < last:
        stop = min(last, starts[k + 1])
        i, n, row = first - starts[k], stop - first, addresses[k]
        _update(at(row[0], i, n, like), at(row[1], i, n, like), at(row[2], i, n, like), at(row[3], i, n, like),
                at(row[4], i, n, like), at(row[5], i, n, like), lr, alpha, eps, momentum, decay, scale,
                ema_rate if averaged[k] else 0.0, centered[k])
        first, k = stop, k + 1


_pieces = loop(_piece)


@njit(cache=True, nogil=True)
def _all(team, pieces, n, *args):
    divide(team, pieces, n, _pieces(args))


def step(p, g, v, buf, avg, ema, lr, alpha, eps, momentum, weight_decay, scale, ema_decay, memo=None):
    """See the package's step. Arrays that are None are stood in for by p and not touched."""
    # floats throughout: an int or a NumPy scalar among them would compile everything once more
    scalars = float(lr), float(alpha), float(eps), float(momentum), float(weight_decay), float(scale)
    for t in tables("rmsprop", memo, p, g, v, buf, avg, ema):
        own = t.addresses != t.addresses[:, :1]  # False where the parameter stands in
        run(_all, int(t.starts[-1]), t.addresses, t.starts, t.like, own[:, 5].copy(), own[:, 4].copy(),
            (*scalars, 1.0 - float(ema_decay)), least=PIECE)
