"""Cases of ops/linalg.py."""

from . import case

for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)),
             ((4,), (2, 4, 3)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((0, 3, 4), (4, 5))):
    case("matmul", a, b)
case("matmul", (2, 4, 3), (4, 5), ta=True)
case("matmul", (2, 3, 4), (5, 4), tb=True)
case("matmul", (4, 3), (2, 5, 4), ta=True, tb=True)
