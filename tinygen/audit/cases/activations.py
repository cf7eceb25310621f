"""Cases of ops/activations.py."""

from typing import Any

from . import case
from .elementwise import away

for name in ("sigmoid", "softplus", "log_sigmoid"):
    case(name, (3, 5))
    case(name, (3, 5), low=-8.0, high=8.0)
    case(name, ())
    case(name, (0, 3))
kinked: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}), ("leaky_relu", {}), ("leaky_relu", {"slope": 0.2}), ("leaky_relu", {"slope": 1.5}), ("elu", {}),
    ("elu", {"alpha": 0.7}),
]  # fmt: skip
for name, attrs in kinked:
    case(name, make=away((3, 5)), **attrs)
    case(name, make=away((0, 3)), **attrs)
for slope in (0.0, 0.2, 1.5):
    case("gate", make=away((3, 5), (3, 5)), slope=slope)
for shape in ((3, 5), (), (0, 3)):
    case("silu", shape, order=3)
    case("gelu", shape, order=3)
    case("gelu", shape, order=3, approximate="tanh")
