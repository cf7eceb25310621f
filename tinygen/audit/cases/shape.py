"""Cases of ops/shape.py."""

from . import case

case("reshape", (2, 3, 4), shape=(4, -1))
case("reshape", (2, 3), shape=6)
case("reshape", (1, 1), shape=())
case("reshape", (0, 3), shape=(3, 0))
case("transpose", (2, 3, 4))
case("transpose", (2, 3, 4), axes=(1, -1, 0))
case("transpose", (0, 3))
case("transpose", ())
for axis in (0, 1, -1):
    case("concat", (2, 3, 4), (2, 3, 4), (2, 3, 4), axis=axis)
    case("stack", (2, 3), (2, 3), (2, 3), axis=axis)
case("concat", (2, 1, 4), (2, 3, 4), (2, 0, 4), axis=1)
case("concat", (0, 3), (2, 3), axis=0)
case("concat", (3,))
case("stack", (), ())
case("stack", (0, 3), (0, 3))
case("split", (2, 6), sections=3)
case("split", (2, 6), sections=(1, 0, 3, 2), axis=1)
case("split", (5, 2), sections=(2, 3), axis=0)
case("split", (0, 6), sections=2)
for mode in ("zero", "reflect", "edge"):
    for widths in (((1, 2), (0, 1), 3), (0, (2, 0), (0, 0))):
        case("pad", (3, 3, 4), widths=widths, mode=mode)
        case("unpad", (6, 5, 11), widths=widths, mode=mode)
    case("pad", (0, 3), widths=(0, 1), mode=mode)
case("pad", (2, 3), widths=(1, (0, 2)), value=1.5)
case("flip", (2, 3, 4))
case("flip", (2, 3, 4), axis=-1)
case("flip", (2, 0, 4), axis=(0, 2))
case("roll", (2, 3, 4), shift=2, axis=1)
case("roll", (2, 3, 4), shift=(-1, 5), axis=(0, -1))
case("roll", (0, 3), shift=1, axis=0)
for name in ("tril", "triu"):
    case(name, (3, 3))
    case(name, (2, 3, 4), k=1)
    case(name, (2, 4, 3), k=-1)
