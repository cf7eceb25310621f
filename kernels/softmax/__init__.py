"""Softmax, its logarithm, and cross-entropy over the last axis, one pass of each row. Derivation: README.md.

The functions here hand an array to the code for its device. Arrays (…, K) are float32, or on the CPU float64; other
dtypes and kinds of array raise TypeError.
"""

from typing import Any

from tinygen.kernels.seam import Seam

_module = Seam("softmax")


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
