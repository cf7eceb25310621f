"""Softmax and cross-entropy in one operation, which keeps two numbers a row and never the probabilities."""

from __future__ import annotations

from .. import backend
from ..errors import DtypeError, ShapeError
from ..fused import fused
from ..kernels import softmax as kernel
from .index import take_along_axis
from .reduce import logsumexp
from .shape import reshape


def softmax_cross_entropy_law(logits, labels):
    """y = log Σ_k exp(logits_k) − logits_label = −log softmax(logits)_label, in nats (Bishop 2006, eq. 4.108)

    logits (…, K) float; labels (…) integers in [0, K) → y (…). Raises ShapeError, DtypeError.
    """
    chosen = take_along_axis(logits, reshape(labels, shape=(*labels.shape, 1)), axis=-1)
    return logsumexp(logits, axis=-1) - reshape(chosen, shape=labels.shape)


def _prepare(logits, labels) -> dict:
    if logits.dtype.kind != "f":
        raise DtypeError(f"softmax_cross_entropy needs float logits, not {logits.dtype}.")
    if labels.dtype.kind not in "iu":
        raise DtypeError(f"softmax_cross_entropy needs integer labels, not {labels.dtype}.")
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ShapeError(f"softmax_cross_entropy needs labels of the logits' shape without the last axis, "
                         f"{logits.shape[:-1]}; got {labels.shape}.")
    if labels.size and backend.cupy is None:  # asking a GPU would stop it
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[-1]:
            raise ShapeError(f"softmax_cross_entropy needs 0 ≤ label < {logits.shape[-1]}, the number of "
                             f"classes; got {low if low < 0 else high}.")
    return {}


def _backward(g, logits, labels, *, hint):
    """g · (softmax − onehot)"""
    return (kernel.cross_entropy_backward(g, logits, labels, hint=hint),)


softmax_cross_entropy = fused(softmax_cross_entropy_law, name="softmax_cross_entropy",
                              forward=kernel.cross_entropy_forward, vjp={("logits",): _backward},
                              flops=lambda logits, labels: 14 * logits.size, prepare=_prepare)


__all__ = ["softmax_cross_entropy"]
