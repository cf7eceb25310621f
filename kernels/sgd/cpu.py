"""One step of gradient descent over many arrays as over one long row, in one pass over memory.

A tile of each array goes through the loops its options call for while it lies in the first-level cache: each
loop then touches few arrays, and no stand-in, and becomes vectors. No fastmath, see adam/cpu.py.
"""


from tinygen.kernels.jit import njit
from tinygen.kernels.table import PIECE, at, owner, tables
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run

TILE = 512


@njit(cache=True, error_model="numpy", nogil=True)
def _update(p, g, buf, ema, lr, momentum, weight_decay, scale, ema_rate, begin, nesterov):
    real = p.dtype.type  # Python floats are float64: unconverted they would widen float32 arithmetic
    rate, mu, decay, clip, follow = real(lr), real(momentum), real(weight_decay), real(scale), real(ema_rate)
    for start in range(0, p.size, TILE):
        stop = min(start + TILE, p.size)
        pt, gt = p[start:stop], g[start:stop]
        if momentum == 0.0:
            for i in range(pt.size):
                pt[i] -= rate * (clip * gt[i] + decay * pt[i])
        else:
            bt = buf[start:stop]
            if begin:
                bt[:] = real(0.0)  # its contents are not looked at, so that an uninitialised buffer will do
            for i in range(pt.size):
                d = clip * gt[i] + decay * pt[i]
                bt[i] = mu * bt[i] + d
                pt[i] -= rate * (d + mu * bt[i] if nesterov else bt[i])
        if ema_rate != 0.0:
            et = ema[start:stop]
            for i in range(pt.size):
                et[i] += follow * (pt[i] - et[i])


@njit(cache=True, error_model="numpy", nogil=True)
def _piece(addresses, starts, like, averaged, scalars, begin, nesterov, first, last):
    """Numbers first:last of the long row."""
    lr, momentum, decay, scale, ema_rate = scalars
    k = owner(starts, first)
    while first < last:
        stop = min(last, starts[k + 1])
        i, n, row = first - starts[k], stop - first, addresses[k]
        _update(at(row[0], i, n, like), at(row[1], i, n, like), at(row[2], i, n, like), at(row[3], i, n, like),
                lr, momentum, decay, scale, ema_rate if averaged[k] else 0.0, begin, nesterov)
        first, k = stop, k + 1


_pieces = loop(_piece)


@njit(cache=True, nogil=True)
def _all(team, pieces, n, *args):
    divide(team, pieces, n, _pieces(args))


def step(p, g, buf, ema, lr, momentum, nesterov, weight_decay, steps, scale, ema_decay, memo=None):
    """See the package's step. Arrays that are None are stood in for by p and not touched."""
    # floats throughout: an int or a NumPy scalar among them would compile everything once more
    scalars = float(lr), float(momentum), float(weight_decay), float(scale), 1.0 - float(ema_decay)
    for t in tables("sgd", memo, p, g, buf, ema):
        averaged = t.addresses[:, 3] != t.addresses[:, 0]
        run(_all, int(t.starts[-1]), t.addresses, t.starts, t.like, averaged, scalars, bool(steps == 1),
            bool(nesterov), least=PIECE)
