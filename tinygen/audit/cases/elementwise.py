"""Cases of ops/elementwise.py."""

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
