"""Cases of ops/norm.py and ops/softmax_cross_entropy.py."""

from . import case

case("group_norm", (2, 3, 2, 6), (6,), (6,), groups=3, order=3)
case("group_norm", (2, 2, 4), (4,), (4,), groups=2, eps=0.1, silu=True, order=3)
case("group_norm", (2, 3, 4), groups=4, order=3)
case("group_norm", (0, 3, 4), (4,), (4,), groups=2)
case("layer_norm", (2, 3, 5), (5,), (5,), order=3)
case("layer_norm", (3, 4), eps=0.1, order=3)
case("layer_norm", (0, 4), (4,), (4,))
case("batch_norm", (3, 2, 2, 3), (3,), (3,), order=3)
case("batch_norm", (5, 2), eps=0.1, order=3)
case("softmax_cross_entropy", order=3,
     make=lambda rng: (rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))))
case("softmax_cross_entropy", make=lambda rng: (rng.standard_normal((0, 5)), rng.integers(0, 5, (0,))))
