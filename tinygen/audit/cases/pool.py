"""Cases of ops/pool.py."""

from typing import Any

import numpy as np

from ... import ops
from . import case

image = (2, 7, 5, 3)


def _distinct(rng):
    return (rng.permutation(210).reshape(image) / 10,)


def _with_maxima(rng, window):
    (x,) = _distinct(rng)
    return x, ops.max_pool2d(x, **window).data


none, both = ((0, 0), (0, 0)), ((1, 1), (1, 1))
for size, stride, padding, out in (((2, 2), (2, 2), none, (3, 2)), ((3, 3), (2, 2), both, (4, 3)),
                                   ((2, 3), (1, 2), ((1, 0), (0, 2)), (7, 3)),
                                   ((1, 2), (2, 3), none, (4, 2))):
    window: dict[str, Any] = {"size": size, "stride": stride, "padding": padding}
    case("sum_pool2d", image, **window)
    case("sum_unpool2d", (2, *out, 3), shape=image, **window)
    case("max_pool2d", make=_distinct, **window)
    case("max_pool2d_taps", make=lambda rng, w=window: _with_maxima(rng, w), **window)
    taps = np.arange(6 * np.prod(out)).reshape(2, *out, 3) % np.prod(size)
    case("pick_pool2d", make=lambda rng, taps=taps: (rng.standard_normal(image), taps), **window)
    case("pick_unpool2d", make=lambda rng, taps=taps: (rng.standard_normal(taps.shape), taps), shape=image,
         **window)
case("sum_pool2d", (0, 4, 4, 3), size=2)
case("max_pool2d", (0, 4, 4, 3), size=2)
case("sum_unpool2d", (2, 2, 2, 3), shape=(2, 6, 4, 3), size=(3, 2), stride=(3, 2), padding=((0, 0), (0, 0)))
