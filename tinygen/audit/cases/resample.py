"""Cases of ops/resample.py."""

import numpy as np

from . import case

image = (2, 7, 5, 3)
for images in (image, (0, 7, 5, 3)):
    case("resize_nearest", images, scale=2)
    case("resize_bilinear", images, size=(9, 3))
case("resize_nearest", (1, 2, 3, 2), scale=(3, 1))
case("depth_to_space", (2, 3, 1, 8), block=2)
case("space_to_depth", (2, 6, 3, 2), block=3)
case("resize_bilinear", image, size=(3, 11), align_corners=True)
case("resize_bilinear", image, size=(3, 2), antialias=True)
case("resize_bilinear", (1, 4, 3, 6), size=8)
case("resize_bilinear_adjoint", (2, 3, 9, 5), size=(4, 6), align_corners=False, antialias=False)
case("resize_bilinear_adjoint", (2, 3, 4, 1), size=(6, 9), align_corners=False, antialias=True)

taps = tuple(np.array([1.0, 3.0, 2.5, 0.5]) / 7)
case("fir", image, kernel=taps, padding=((2, 1), (2, 1)))
case("fir", image, kernel=taps, up=2, padding=((2, 1), (2, 1)))
case("fir", image, kernel=taps, down=2, padding=1)
case("fir", image, kernel=taps, up=(3, 1), down=(2, 3), padding=((-1, 4), (3, 0)))
case("fir", image, kernel=taps[:3], padding=((1, 1), (-1, -1)))
case("fir", (1, 66, 3, 2), kernel=taps, up=(1, 2), padding=((2, 1), (2, 1)))
case("fir", (0, 4, 4, 3), kernel=taps, padding=1)
