"""Enlarging images by whole factors, nearest neighbour, and the adjoint of that, sums over blocks. README.md.

The functions here hand an array to the code for its device.
"""

from typing import Any

from tinygen.kernels.seam import Seam

_module = Seam("resize")


def nearest(x: Any, *, scale: tuple[int, int]) -> Any:
    """y[n, i, j, c] = x[n, ⌊i/s_h⌋, ⌊j/s_w⌋, c]: (N, H, W, C) -> (N, H·s_h, W·s_w, C)."""
    return _module(x).nearest(x, scale)


def block_sum(g: Any, *, scale: tuple[int, int]) -> Any:
    """The sum over each block of s_h × s_w pixels, the adjoint of `nearest`: (N, H·s_h, W·s_w, C) -> (N, H, W, C)."""
    return _module(g).block_sum(g, scale)
