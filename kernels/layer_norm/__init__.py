"""Layer normalisation over the last axis (Ba, Kiros and Hinton 2016, eq. 4). Derivation: README.md.

The functions here hand an array to the code for its device.
"""

from typing import Any

from tinygen.kernels.seam import Seam

_module = Seam("layer_norm")


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
