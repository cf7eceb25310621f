"""SSIM's windows in one pass over a pair of images: no intermediate picture is ever stored."""

from typing import Any

import numpy as np
from numba import njit

_FAST = {"contract", "reassoc", "nsz"}
_FLAGS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy", "nogil": True, "cache": True}


def _window_sums(taps: int) -> Any:
    """The loop for a symmetric window of so many taps: with the number known, its inner loops unroll."""
    half = taps // 2

    @njit(**_FLAGS)
    def sums(x, y, w, unbias, c1, c2, out):
        """x, y: H,W,C. Writes, for each channel, the sums over the valid pixels of l·c·s and of c·s: out C,2."""
        height, width, channels = x.shape
        n = width - taps + 1
        fields = np.empty((4, width))  # of one row: x, y, x² + y², x·y
        ring = np.empty((4, taps, n))  # the last rows of those, filtered along the row
        for c in range(channels):
            full, both = 0.0, 0.0
            for r in range(height):
                for i in range(width):
                    p, q = float(x[r, i, c]), float(y[r, i, c])
                    fields[0, i] = p
                    fields[1, i] = q
                    fields[2, i] = p * p + q * q
                    fields[3, i] = p * q
                for f in range(4):
                    row, line = fields[f], ring[f, r % taps]
                    for i in range(n):
                        a = w[half] * row[i + half]
                        for k in range(half):
                            a += w[k] * (row[i + k] + row[i + taps - 1 - k])
                        line[i] = a
                if r < taps - 1:
                    continue
                for i in range(n):
                    mx = w[half] * ring[0, (r - half) % taps, i]
                    my = w[half] * ring[1, (r - half) % taps, i]
                    ss = w[half] * ring[2, (r - half) % taps, i]
                    xy = w[half] * ring[3, (r - half) % taps, i]
                    for k in range(half):
                        j, m = (r - taps + 1 + k) % taps, (r - k) % taps
                        mx += w[k] * (ring[0, j, i] + ring[0, m, i])
                        my += w[k] * (ring[1, j, i] + ring[1, m, i])
                        ss += w[k] * (ring[2, j, i] + ring[2, m, i])
                        xy += w[k] * (ring[3, j, i] + ring[3, m, i])
                    squares, product = mx * mx + my * my, mx * my
                    cs = (2 * unbias * (xy - product) + c2) / (unbias * (ss - squares) + c2)
                    both += cs
                    full += cs * (2 * product + c1) / (squares + c1)
            out[c, 0] = full
            out[c, 1] = both

    return sums


sums7 = _window_sums(7)
sums11 = _window_sums(11)
