"""The activations that cost more than a pass over memory: SiLU, GELU, the rectifiers' slopes. Derivation: README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device. All take arrays
of any one shape, float32 or, on the CPU, float64 alike, and return a new contiguous one; other dtypes and kinds of
array raise TypeError.
"""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.cuda import is_device

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@cache
def _backend(kind: type) -> ModuleType:
    if issubclass(kind, np.ndarray):
        # Here, so that Numba is loaded by the first call and not by import.
        from tinygen.kernels.activation import cpu

        return cpu
    if is_device(kind):
        from tinygen.kernels.activation import cuda

        return cuda
    raise TypeError("the activation kernels run on NumPy's arrays and a device's, and were given a "
                    f"{kind.__module__}.{kind.__qualname__}; use the law (impl='law').")


def _module(x: Any) -> ModuleType:
    kind: Any = type(x)
    module = _backend(kind)
    if x.dtype not in _FLOATS:
        raise TypeError(f"the activation kernels take float32 or float64, not {x.dtype}: cast the input.")
    return module


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
