"""Cases of ops/elementwise.py."""

import numpy as np

from . import case

for name in ("add", "sub", "mul"):
    case(name, (3, 4), (3, 4))
    case(name, (2, 3, 1), (1, 5))  # both operands broadcast
    case(name, (3, 4), ())
    case(name, (0, 3), (3,))  # an empty batch
case("div", (3, 4), (3, 4), low=0.5, high=2.0)
case("div", (2, 3, 1), (1, 5), low=0.5, high=2.0)
case("neg", (3, 4))
case("alias", (3, 4))
case("broadcast_to", (3, 1), shape=(2, 3, 4))
case("broadcast_to", (), shape=(2, 3))
case("sum_to", (2, 3, 4), shape=(3, 1))
case("sum_to", (2, 3), shape=())


def away(*shapes):
    """make: inputs at least 0.1 from 0 and from ±1, of either sign."""

    def draw(rng):
        return tuple(rng.uniform(0.1, 0.9, s) + rng.choice([-2, -1, 0, 1], s) for s in shapes)

    return draw


def apart(*shapes):
    """make: two inputs, nowhere closer to each other than 0.5."""

    def draw(rng):
        return rng.integers(-2, 3, shapes[0]) * 1.0, rng.integers(-2, 3, shapes[1]) + 0.5

    return draw


case("power", (2, 3, 1), (1, 5), low=0.5, high=2.0)
case("power", (3, 4), (), low=0.5, high=2.0)
for exponent in (0, 1, 2, 3, -1, -2, 0.5, -0.5, 1.7):
    case("power", make=lambda rng, p=exponent: (rng.uniform(0.5, 2.0, (2, 3)), p), order=3)
for exponent in (2, 3, -1):
    case("power", make=lambda rng, p=exponent: (-rng.uniform(0.5, 2.0, (2, 3)), p))
case("power", make=lambda rng: (1.7, rng.standard_normal((2, 3))))
case("power", make=lambda rng: (np.zeros((2, 3)), 2))
case("power", (0, 3), (3,))
for name in ("sqrt", "rsqrt", "log"):
    case(name, (3, 5), low=0.5, high=2.0)
    case(name, (0, 3), low=0.5, high=2.0)
for name in ("square", "exp", "expm1", "sin", "cos", "tanh", "erf"):
    case(name, (3, 5))
    case(name, ())
    case(name, (0, 3))
case("log1p", (3, 5), low=-0.5, high=2.0)
case("log1p", (0, 3))

for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "step"):
    case(name, make=apart((3, 4), (3, 4)))
    case(name, make=apart((2, 3, 1), (1, 5)))
    case(name, (0, 3), (3,))
for name in ("logical_and", "logical_or"):
    case(name, make=lambda rng: (rng.random((2, 3, 1)) < 0.5, rng.random((1, 5)) < 0.5))
case("logical_not", make=lambda rng: (rng.random((2, 3)) < 0.5,))
case("isfinite", (3, 4))
case("isfinite", make=lambda rng: (np.array([0, 1]),))
case("within", make=away((3, 4)), low=-1.0, high=1.0)
case("within", make=away((3, 4)), high=0.0)
case("within", make=away((3, 4)), low=0.0)

case("where", make=lambda rng: (rng.random((3, 4)) < 0.5, *rng.standard_normal((2, 3, 4))))
case("where", make=lambda rng: (rng.random((3, 1)) < 0.5, rng.standard_normal((1, 5)), np.array(0.7)))
case("where", make=lambda rng: (rng.random((3, 4)) < 0.5, rng.standard_normal((3, 4)), 0.0))
case("where", make=lambda rng: (rng.random((3, 4)) < 0.5, 1.0, rng.standard_normal((3, 4))))
case("where", make=lambda rng: (np.ones((0, 3), bool), rng.standard_normal((0, 3)), rng.standard_normal(3)))
for name in ("maximum", "minimum"):
    case(name, make=apart((3, 4), (3, 4)))
    case(name, make=apart((2, 3, 1), (1, 5)))
    case(name, make=lambda rng: (*away((3, 4))(rng), 0.0))
    case(name, (0, 3), (3,))
case("clip", make=away((3, 4)), low=-1.0, high=1.0)
case("clip", make=away((3, 4)), high=0.0)
case("clip", make=away((3, 4)), low=0.0)
case("clip", make=away((0, 4)), low=0.0)
for name in ("abs", "sign", "floor"):
    case(name, make=away((3, 5)))
    case(name, make=away((0, 3)))
case("round", make=lambda rng: (rng.integers(-3, 3, (3, 5)) + rng.uniform(-0.4, 0.4, (3, 5)),))
case("cast", (3, 4), dtype=np.float64)
case("cast", make=lambda rng: (rng.integers(-3, 3, (3, 4)),), dtype=np.float64)
case("to_device", (3, 4), device="cpu")
