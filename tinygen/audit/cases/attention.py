"""Cases of ops/attention.py."""

import numpy as np

from . import case

Q, K, V = (2, 1, 3, 2), (2, 1, 4, 2), (2, 1, 4, 3)


def _masked(rng: np.random.Generator) -> tuple:
    """A boolean mask under which one query may attend to nothing."""
    mask = rng.random((2, 1, 3, 4)) < 0.6
    mask[0, 0, 1] = False
    return (*(rng.standard_normal(s) for s in (Q, K, V)), mask)


case("attention", Q, K, V, order=3)
case("attention", Q, K, V, causal=True, scale=0.3, order=3)
case("attention", K, Q, (2, 1, 3, 3), causal=True, order=2)  # more queries than keys: the first sees nothing
case("attention", make=_masked, order=3)
case("attention", (0, 1, 3, 2), (0, 1, 4, 2), (0, 1, 4, 3))
