"""Products of matrices on either side: NumPy's, shared among threads, or our own on a GPU. README.md draws the latter.

A captured CUDA graph cannot hold CuPy's products, which are cuBLAS's; these it can. Precision: "float32", or "tf32" or
"bf16", which round both operands as they enter the product and add in float32.
"""

from __future__ import annotations

import numpy as np

from ..cuda import is_device
from ..threads import matmul as _shared

__all__ = ["matmul", "round_to"]


def matmul(a, b, precision: str = "float32", bias=None):
    """np.matmul(a, b) + bias, bias (N,) or None: batches broadcast, vectors count as a row or a column.

    On the GPU both operands float32 or both float64. Raises ValueError for shapes that do not fit or a precision that
    is not known, TypeError for other types."""
    if is_device(type(a)):
        from . import cuda

        return cuda.matmul(a, b, precision, bias)
    if precision != "float32":
        a, b = round_to(a, precision), round_to(b, precision)
    y = _shared(a, b)
    if bias is not None:
        y = y + bias
    return y


def round_to(a: np.ndarray, precision: str) -> np.ndarray:
    """a, float32 with the numbers that `precision` can hold: "tf32", 10 bits of mantissa, to nearest, ties away from
    zero; "bf16", 7 bits, to nearest, ties to even; "float32", a itself. float64 is not rounded: it is there to be
    exact. Raises ValueError for another precision."""
    if precision not in ("float32", "tf32", "bf16"):
        raise ValueError(f'precision is "float32", "tf32" or "bf16", not {precision!r}.')
    if precision == "float32" or a.dtype != np.float32:
        return a
    u = np.ascontiguousarray(a).view(np.uint32)
    if precision == "tf32":
        r = u + np.uint32(0x1000) & np.uint32(0xFFFFE000)
    else:
        r = u + (np.uint32(0x7FFF) + (u >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    infinite = u & np.uint32(0x7F800000) == np.uint32(0x7F800000)
    return np.where(infinite, a, r.view(np.float32).reshape(a.shape))
