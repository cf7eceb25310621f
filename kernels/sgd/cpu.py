"""One step of gradient descent over contiguous arrays in one pass over memory.

A tile of each array goes through the loops its options call for while it lies in the first-level cache: each
loop then touches few arrays, and no stand-in, and becomes vectors. No fastmath, see adam/cpu.py.
"""

from numba import njit

from tinygen.kernels.adam.arrays import flat
from tinygen.kernels.threads import share

SHARE = 65536  # elements a thread takes at least: waking it costs what 20,000 do
TILE = 512


@njit(cache=True, error_model="numpy", nogil=True)
def _run(p, g, buf, ema, lr, momentum, begin, nesterov, weight_decay, scale, ema_rate, first, last):
    real = p.dtype.type  # Python floats are float64: unconverted they would widen float32 arithmetic
    rate, mu, decay, clip, follow = real(lr), real(momentum), real(weight_decay), real(scale), real(ema_rate)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
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


def step(p, g, buf, ema, lr, momentum, nesterov, weight_decay, t, scale, ema_decay):
    """See the package's step. Arrays that are None are stood in for by p and not touched."""
    p, g, velocity, average = flat("sgd", p, g, buf, ema)
    ema_rate = 0.0 if ema is None else 1.0 - float(ema_decay)
    # floats throughout: an int or a NumPy scalar among them would compile everything once more
    scalars = float(lr), float(momentum), bool(t == 1), bool(nesterov), float(weight_decay), float(scale)
    share(p.size, lambda first, last: _run(p, g, velocity, average, *scalars, ema_rate, first, last), least=SHARE)
