"""Layer normalisation over the last axis (Ba, Kiros and Hinton 2016, eq. 4). Derivation: README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device.
"""

from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.cuda import is_device


def _module(x: Any) -> ModuleType:
    if isinstance(x, np.ndarray):
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(f"the layer-norm kernel takes float32 or float64, not {x.dtype}; cast the input.")
        from tinygen.kernels.layer_norm import cpu  # here: Numba is loaded by the first call, not by import

        return cpu
    if is_device(type(x)):
        if x.dtype != np.float32:
            raise TypeError(f"on a GPU the layer-norm kernel takes float32, not {x.dtype}; use the law (impl='law').")
        from tinygen.kernels.layer_norm import cuda

        return cuda
    raise TypeError(f"the layer-norm kernel runs on numpy arrays and was given a {type(x).__module__}."
                    f"{type(x).__qualname__}; move the data to the cpu or the GPU in use, or use the law (impl='law').")


def forward(x: Any, w: Any, b: Any, *, eps: float) -> tuple[Any, Any]:
    """y = (x − mean) / √(var + eps) · w + b, mean and biased var over the last axis.

    x …,C float32, or on the CPU float64; w, b (C,) of the same dtype. Returns y (shape and dtype of x) and the saved
    statistics, opaque, for `backward`. Raises TypeError for other dtypes and kinds of array.
    """
    return _module(x).forward(x, w, b, eps=eps)


def backward(g: Any, x: Any, w: Any, b: Any, *, eps: float, hint: Any) -> tuple[Any, Any, Any]:
    """Gradients (gx, gw, gb) of sum(g·y) for x, w, b; g has x's shape and dtype; hint is what `forward`
    returned."""
    return _module(x).backward(g, x, w, b, eps=eps, hint=hint)
