"""Two arrays side by side along an inner axis, in one pass over the result. README.md.

The seam: the function here looks at what kind of array came and hands it to the code for that device.
"""

from typing import Any

import numpy as np


def forward(a: Any, b: Any, *, axis: int) -> Any:
    """y = a, then b, along `axis` (counted from the front); shapes equal but for that axis, one dtype, float32 or
    float64. Raises TypeError for other dtypes and kinds of array."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"the concat kernel runs on numpy arrays and was given a {type(a).__module__}."
                        f"{type(a).__qualname__}; move the data to the cpu.")
    if a.dtype not in (np.float32, np.float64) or a.dtype != b.dtype:
        raise TypeError(f"the concat kernel takes two arrays of float32 or of float64, not {a.dtype} and {b.dtype}.")
    from tinygen.kernels.concat import cpu  # here: Numba is loaded by the first call, not by import

    return cpu.forward(a, b, axis)
