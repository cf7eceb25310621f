"""One Adam or AdamW step, in plain Python: the definition.

Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1;
Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.
"""

import math


def step(p, g, m, v, ema, lr, beta1, beta2, eps, weight_decay, decoupled, t, scale, ema_decay):
    """Update the 1-D arrays p, m, v in place, and ema unless it is None; t counts from 1."""
    for i in range(p.size):
        gi = scale * g[i]
        if decoupled:
            p[i] -= lr * weight_decay * p[i]
        else:
            gi += weight_decay * p[i]
        m[i] = beta1 * m[i] + (1 - beta1) * gi
        v[i] = beta2 * v[i] + (1 - beta2) * gi * gi
        m_hat = m[i] / (1 - beta1**t)
        v_hat = v[i] / (1 - beta2**t)
        p[i] -= lr * m_hat / (math.sqrt(v_hat) + eps)
        if ema is not None:
            ema[i] = ema_decay * ema[i] + (1 - ema_decay) * p[i]
