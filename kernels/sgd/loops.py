"""One step of stochastic gradient descent with momentum, in plain Python: the definition.

Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML
2013, in the form in which the learning rate multiplies the velocity afterwards.
"""


def step(p, g, buf, ema, lr, momentum, nesterov, weight_decay, t, scale, ema_decay):
    """Update the 1-D arrays p and buf in place, and ema unless it is None; t counts from 1."""
    for i in range(p.size):
        d = scale * g[i] + weight_decay * p[i]
        if momentum != 0:
            buf[i] = d if t == 1 else momentum * buf[i] + d
            d = d + momentum * buf[i] if nesterov else buf[i]
        p[i] -= lr * d
        if ema is not None:
            ema[i] = ema_decay * ema[i] + (1 - ema_decay) * p[i]
