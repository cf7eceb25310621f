"""The activations that cost more than a pass over memory: SiLU, GELU, the rectifiers' slopes. Derivation: README.md.

The functions here hand an array to the code for its device. All take arrays
of any one shape, float32 or, on the CPU, float64 alike, and return a new contiguous one; other dtypes and kinds of
array raise TypeError.
"""

from typing import Any

import numpy as np

from tinygen.kernels.seam import Seam

_module = Seam("activation")


def silu_forward(x: Any) -> Any:
    """y = x·σ(x) (Elfwing et al. 2018)."""
    return _module(x).gated(x, 1.0, 0.0)


def silu_backward(g: Any, x: Any) -> Any:
    """g·s·(1 + x·(1 − s)), s = σ(x)."""
    return _module(x).gated_slope(g, x, 1.0, 0.0)


def gelu_forward(x: Any, *, approximate: str) -> Any:
    """y = x·Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016); with approximate="tanh",
    x/2·(1 + tanh u), u = √(2/π)·(x + 0.044715·x³)."""
    return _module(x).gelu(x) if approximate == "none" else _module(x).gated(x, *TANH)


def gelu_backward(g: Any, x: Any, *, approximate: str) -> Any:
    """g·(Φ(x) + x·φ(x)); with approximate="tanh", g·(s + x·s·(1 − s)·2u′), s = σ(2u)."""
    return _module(x).gelu_slope(g, x) if approximate == "none" else _module(x).gated_slope(g, x, *TANH)


def relu(x: Any) -> Any:
    """y = max(x, 0); NaN stays NaN."""
    return _module(x).relu(x)


def gate(x: Any, by: Any, *, slope: float) -> Any:
    """y = x where by > 0, else slope·x. With by = x the leaky rectifier, with x a cotangent its gradient."""
    return _module(x).gate(x, by, slope)


# ½(1 + tanh u) = σ(2u), and 2u = x·(linear + cubic·x²): README eq. 3.
_LINEAR = 2.0 * (2.0 / np.pi) ** 0.5
TANH = (_LINEAR, 0.044715 * _LINEAR)
