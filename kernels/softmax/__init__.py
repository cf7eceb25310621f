"""Softmax, its logarithm, and cross-entropy over the last axis, one pass of each row. Derivation: README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device. Arrays (…, K) are
float32, or on the CPU float64; other dtypes and kinds of array raise TypeError.
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
        from tinygen.kernels.softmax import cpu

        return cpu
    if is_device(kind):
        from tinygen.kernels.softmax import cuda

        return cuda
    raise TypeError(f"the softmax kernels run on numpy arrays and were given a {kind.__module__}.{kind.__qualname__}; "
                    "move the data to the cpu or the GPU in use, or use the law (impl='law').")


def _module(x: Any) -> ModuleType:
    kind: Any = type(x)
    module = _backend(kind)
    if x.dtype not in _FLOATS:
        raise TypeError(f"the softmax kernels take float32 or float64, not {x.dtype}: cast the input.")
    return module


def softmax(x: Any) -> Any:
    """y = eˣ / Σ eˣ over the last axis; 0 where every x of a row is −∞."""
    return _module(x).softmax(x)


def softmax_pull(g: Any, y: Any) -> Any:
    """y·(g − Σ g·y): the gradient at x of sum(g·softmax(x)), from y = softmax(x). g, y of one shape."""
    return _module(y).softmax_pull(g, y)


def log_softmax(x: Any) -> Any:
    """y = x − log Σ eˣ over the last axis; −∞ where every x of a row is."""
    return _module(x).log_softmax(x)


def log_softmax_pull(g: Any, y: Any) -> Any:
    """g − e^y·Σ g: the gradient at x of sum(g·log_softmax(x)), from y = log_softmax(x). g, y of one shape."""
    return _module(y).log_softmax_pull(g, y)


def cross_entropy_forward(x: Any, labels: Any) -> tuple[Any, Any]:
    """y = log Σ eˣ − x[label], in nats. x (…, K), labels (…) integers in [0, K) → y (…) of x's dtype, and what
    `cross_entropy_backward` needs, opaque."""
    return _module(x).cross_entropy_forward(x, labels)


def cross_entropy_backward(g: Any, x: Any, labels: Any, *, hint: Any) -> Any:
    """g·(softmax(x) − onehot(label)), (…, K); g (…)."""
    return _module(x).cross_entropy_backward(g, x, labels, hint=hint)
