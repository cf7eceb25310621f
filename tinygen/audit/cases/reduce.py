"""Cases of ops/reduce.py."""

import numpy as np

from . import case


def spaced(*shape):
    """make: distinct values, 0.1 apart, in random order."""
    return lambda rng: (0.1 * rng.permutation(int(np.prod(shape))).reshape(shape),)


for name in ("sum", "mean", "norm", "logsumexp"):
    case(name, (2, 3, 4))
    case(name, (2, 3, 4), axis=-1)
    case(name, (2, 3, 4), axis=(0, 2), keepdims=True)
    case(name, (3, 4), axis=())
    case(name, (0, 3), axis=1)
    case(name, ())
case("sum", (0, 3))
case("norm", (2, 3), axis=1, eps=0.5)
for correction in (0, 1):
    case("var", (2, 3, 4), correction=correction)
    case("var", (2, 3, 4), axis=1, correction=correction)
    case("var", (2, 3, 4), axis=(0, -1), keepdims=True, correction=correction)
    case("var", (0, 3), axis=1, correction=correction)
case("spread", (2, 4), shape=(2, 3, 4), axis=(1,))
case("spread", (2, 1, 4), shape=(2, 3, 4), axis=(1,))
case("spread", (), shape=(2, 3), axis=(0, 1))
for name in ("max", "min"):
    case(name, make=spaced(2, 3, 4))
    case(name, make=spaced(2, 3, 4), axis=-2)
    case(name, make=spaced(2, 3, 4), axis=(0, 2), keepdims=True)
    case(name, make=spaced(0, 3), axis=1)
case("ties", make=lambda rng: (np.array([[1, 2, 2], [3, 0, 1]]), np.array([2, 3])), axis=(1,))
for name in ("argmax", "argmin"):
    case(name, make=spaced(2, 3, 4))
    case(name, make=spaced(2, 3, 4), axis=-1, keepdims=True)
for name in ("softmax", "log_softmax"):
    case(name, (3, 5), order=3)
    case(name, (2, 3, 4), axis=1)
    case(name, (2, 3, 4), axis=(0, 2))
    case(name, (2, 3), axis=None)
    case(name, (0, 3))
for name in ("softmax_pull", "log_softmax_pull"):
    case(name, (3, 5), (3, 5), axis=(1,))
    case(name, (2, 3, 4), (2, 3, 4), axis=(0, 2))
    case(name, (0, 3), (0, 3), axis=(1,))
for reverse in (False, True):
    case("cumsum", (2, 3, 4), axis=1, reverse=reverse)
    case("cumsum", (5,), reverse=reverse)
    case("cumsum", (0, 3), reverse=reverse)
