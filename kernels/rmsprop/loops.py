"""One step of RMSprop, in plain Python: the definition.

Tieleman and Hinton, "Lecture 6.5: RMSprop", Coursera 2012; the centred form is Graves, "Generating sequences
with recurrent neural networks", arXiv:1308.0850, eq. 38-45, with eps outside the root.
"""

import math


def step(p, g, v, buf, avg, ema, lr, alpha, eps, momentum, weight_decay, scale, ema_decay):
    """Update the 1-D arrays p and v in place, and buf, avg, ema where they are not None."""
    for i in range(p.size):
        d = scale * g[i] + weight_decay * p[i]
        v[i] = alpha * v[i] + (1 - alpha) * d * d
        variance = v[i]
        if avg is not None:
            avg[i] = alpha * avg[i] + (1 - alpha) * d
            variance = max(v[i] - avg[i] * avg[i], 0.0)
        d /= math.sqrt(variance) + eps
        if momentum != 0:
            buf[i] = momentum * buf[i] + d
            d = buf[i]
        p[i] -= lr * d
        if ema is not None:
            ema[i] = ema_decay * ema[i] + (1 - ema_decay) * p[i]
