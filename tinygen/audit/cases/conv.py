"""Cases of ops/conv.py."""

from typing import Any

from . import case

GEOMETRY: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}

case("conv2d", (2, 4, 3, 2), (3, 2, 2, 3), (3,), padding="same")
case("conv2d", (2, 4, 3, 4), (3, 2, 2, 4), (4,), **GEOMETRY)
case("conv2d", (1, 5, 4, 3), (3, 3, 1, 3), stride=2, padding=1, groups=3)  # depthwise, no bias
case("conv2d", (2, 3, 2, 3), (1, 1, 3, 2))
case("conv2d", (0, 4, 3, 2), (3, 3, 2, 3), padding=1)
case("conv2d_add", (2, 4, 3, 4), (3, 2, 2, 4), (4,), (2, 2, 4, 4), **GEOMETRY)
case("conv2d_add", make=lambda rng: (rng.standard_normal((2, 3, 2, 3)), rng.standard_normal((1, 1, 3, 2)), None,
                                     rng.standard_normal((2, 3, 2, 2))))
case("conv2d_input_grad", (2, 2, 4, 4), (3, 2, 2, 4), x_shape=(2, 4, 3, 4), **GEOMETRY)
case("conv2d_input_grad", (1, 2, 3, 2), (3, 3, 3, 2), x_shape=(1, 4, 5, 3))
case("conv2d_weight_grad", (2, 4, 3, 4), (2, 2, 4, 4), w_shape=(3, 2, 2, 4), **GEOMETRY)
case("conv2d_weight_grad", (1, 4, 5, 3), (1, 2, 3, 2), w_shape=(3, 3, 3, 2))
case("conv_transpose2d", (2, 3, 2, 2), (3, 3, 2, 3), (3,), stride=2, padding=1, output_padding=1)
case("conv_transpose2d", (1, 2, 3, 4), (2, 3, 2, 6), stride=(3, 1), padding=((0, 1), (1, 0)), dilation=(2, 1),
     output_padding=(2, 0), groups=2)
