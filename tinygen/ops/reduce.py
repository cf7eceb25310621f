"""Reductions over axes, softmax, cumulative sums. `axis` is an integer, a tuple of them or None for all axes.

Sums of float32 are accurate however long they are (summation.py).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ShapeError
from ..kernels import softmax as kernel
from ..tape import op
from .elementwise import _COST, exp, expand, neg
from .summation import total


def positive_axis(name: str, axis: int, ndim: int) -> int:
    """`axis` counted from the front. Raises ShapeError if there is no such axis."""
    if not -ndim <= axis < ndim:
        there = f"{-ndim} to {ndim - 1}" if ndim else "none"
        raise ShapeError(f"{name} needs an axis that is there; {axis} is not among {there}.")
    return axis % ndim


def positive_axes(name: str, axis, ndim: int) -> tuple[int, ...]:
    """`axis`, an integer, several, or None for all, as an ascending tuple counted from the front."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int:
        return (positive_axis(name, axis, ndim),)
    if hasattr(axis, "__index__"):
        return (positive_axis(name, int(axis), ndim),)
    axes = sorted([positive_axis(name, int(a), ndim) for a in axis])
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{name} needs each axis once; {tuple(axis)}.")
    return tuple(axes)


def _axes(name):
    """prepare: the axes as an ascending tuple."""

    def prepare(x, *, axis, **attrs):
        return {"axis": positive_axes(name, axis, x.ndim), **attrs}

    return prepare


def _axis(name):
    """prepare: one axis, counted from the front."""

    def prepare(x, *, axis, **attrs):
        return {"axis": positive_axis(name, axis, x.ndim), **attrs}

    return prepare


def _kept(shape, axis) -> tuple[int, ...]:
    """`shape` with length 1 along `axis`."""
    return tuple([1 if i in axis else n for i, n in enumerate(shape)])


def _count(shape, axis) -> int:
    """How many elements each result is made of."""
    return math.prod([shape[i] for i in axis])


# ---- sums


@op(flops=lambda x, axis, keepdims: x.size, prepare=_axes("sum"))
def sum(xp, x, *, axis=None, keepdims=False):
    """y = Σ x over `axis`"""
    return total(xp, x, axis, keepdims)


@op(flops=lambda x, shape, axis: 0)
def spread(xp, x, *, shape, axis):
    """y = x repeated along the axes `axis`, a tuple, to `shape`; the adjoint of sum"""
    return expand(xp, x.reshape(_kept(shape, axis)), shape)


sum.vjp(x=lambda g, x_shape, axis: spread(g, shape=x_shape, axis=axis))
spread.vjp(x=lambda g, axis, shape, x_shape: sum(g, axis=axis, keepdims=len(x_shape) == len(shape)))


@op(flops=lambda x, axis, keepdims: x.size, prepare=_axes("mean"))
def mean(xp, x, *, axis=None, keepdims=False):
    """y = Σ x / n over `axis`, where n elements share one result; float32 for integers and booleans"""
    if x.dtype.kind != "f":
        x = x.astype(xp.float32)
    return total(xp, x, axis, keepdims) * (1.0 / (_count(x.shape, axis) or math.nan))


mean.vjp(x=lambda g, x_shape, axis: spread(g * (1.0 / _count(x_shape, axis)), shape=x_shape, axis=axis))


@op(flops=lambda x, axis, keepdims, correction: 4 * x.size, prepare=_axes("var"))
def var(xp, x, *, axis=None, keepdims=False, correction=0):
    """y = Σ (x − mean x)² / (n − correction) over `axis`: biased unless correction=1"""
    n = _count(x.shape, axis)
    d = x - total(xp, x, axis, True) * (1.0 / (n or math.nan))
    return total(xp, xp.square(d), axis, keepdims) * (1.0 / ((n - correction) or math.nan))


def _var_rule(g, x, axis, correction):
    scale = 2.0 / (_count(x.shape, axis) - correction)
    return spread(g * scale, shape=x.shape, axis=axis) * (x - mean(x, axis=axis, keepdims=True))


var.vjp(x=_var_rule)


@op(flops=lambda x, axis, keepdims, eps: 2 * x.size, prepare=_axes("norm"))
def norm(xp, x, *, axis=None, keepdims=False, eps=1e-12):
    """y = √(Σ x² + eps) over `axis`. With eps = 0 the gradient at x = 0 is NaN."""
    return xp.sqrt(total(xp, xp.square(x), axis, keepdims) + eps)


norm.vjp(x=lambda g, x, y, x_shape, axis: spread(g / y, shape=x_shape, axis=axis) * x)


# ---- extremes: elements that tie share the gradient equally


@op(flops=lambda x, axis, keepdims: x.size, prepare=_axes("max"))
def max(xp, x, *, axis=None, keepdims=False):
    """y = the largest x over `axis`; k elements that are the largest get 1/k of the gradient each"""
    return x.max(axis=axis, keepdims=keepdims)


@op(flops=lambda x, axis, keepdims: x.size, prepare=_axes("min"))
def min(xp, x, *, axis=None, keepdims=False):
    """y = the smallest x over `axis`; k elements that are the smallest get 1/k of the gradient each"""
    return x.min(axis=axis, keepdims=keepdims)


@op(flops=lambda x, m, axis: 3 * x.size)
def ties(xp, x, m, *, axis):
    """y = 1/k at the k elements of x that equal m, the extreme over `axis`, and 0 elsewhere"""
    same = x == m.reshape(_kept(x.shape, axis))
    return same / same.sum(axis=axis, keepdims=True, dtype=x.dtype)


def _extreme_rule(g, x, y, x_shape, axis):
    return spread(g, shape=x_shape, axis=axis) * ties(x, y, axis=axis)


max.vjp(x=_extreme_rule)
min.vjp(x=_extreme_rule)
ties.vjp(x=None, m=None)


def _axis_or_none(name):
    def prepare(x, *, axis, keepdims):
        return {"axis": axis if axis is None else positive_axis(name, axis, x.ndim), "keepdims": keepdims}

    return prepare


@op(flops=lambda x, axis, keepdims: x.size, prepare=_axis_or_none("argmax"))
def argmax(xp, x, *, axis=None, keepdims=False):
    """y = the index of the first largest x along `axis`, or in the flattened x"""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


@op(flops=lambda x, axis, keepdims: x.size, prepare=_axis_or_none("argmin"))
def argmin(xp, x, *, axis=None, keepdims=False):
    """y = the index of the first smallest x along `axis`, or in the flattened x"""
    return xp.argmin(x, axis=axis, keepdims=keepdims)


argmax.vjp(x=None)
argmin.vjp(x=None)


# ---- log-sum-exp and softmax


def _shifted(xp, x, axis):
    """(m, x − m), with m the largest x over `axis`, or 0 where that is infinite."""
    m = x.max(axis=axis, keepdims=True)
    m = xp.where(xp.isfinite(m), m, xp.zeros_like(m))
    d = xp.subtract(x, m, out=xp.empty_like(x))
    return m, d


def _along_rows(x, axis) -> bool:
    """Is it for the kernel: float32 numbers, over the last axis of an array?"""
    return x.dtype == np.float32 and axis == (x.ndim - 1,)


@op(flops=lambda x, axis, keepdims: (_COST + 3) * x.size, prepare=_axes("logsumexp"))
def logsumexp(xp, x, *, axis=None, keepdims=False):
    """y = log Σ eˣ over `axis`. Where every x is −∞, y is −∞ and the gradient 0."""
    m, d = _shifted(xp, x, axis)
    with np.errstate(divide="ignore"):
        y = xp.log(total(xp, xp.exp(d, out=d), axis, True)) + m
    return y if keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in axis])


@op(flops=lambda x, axis: (_COST + 4) * x.size, prepare=_axes("softmax"))
def softmax(xp, x, *, axis=-1):
    """y = eˣ / Σ eˣ over `axis`; 0, with the gradient 0, where every x is −∞"""
    if _along_rows(x, axis):
        return kernel.softmax(x)
    _, e = _shifted(xp, x, axis)
    xp.exp(e, out=e)
    s = total(xp, e, axis, True)
    e /= s + (s == 0)
    return e


@op(flops=lambda x, axis: (_COST + 4) * x.size, prepare=_axes("log_softmax"))
def log_softmax(xp, x, *, axis=-1):
    """y = x − log Σ eˣ over `axis`; −∞ where every x is"""
    if _along_rows(x, axis):
        return kernel.log_softmax(x)
    _, d = _shifted(xp, x, axis)
    s = total(xp, xp.exp(d), axis, True)
    d -= xp.log(s + (s == 0))
    return d


logsumexp.vjp(x=lambda g, x, x_shape, axis: spread(g, shape=x_shape, axis=axis) * softmax(x, axis=axis))
softmax.vjp(x=lambda g, y, axis: softmax_pull(g, y, axis=axis))
log_softmax.vjp(x=lambda g, y, axis: log_softmax_pull(g, y, axis=axis))


@op(flops=lambda c, p, axis: 4 * p.size)
def softmax_pull(xp, c, p, *, axis):
    """y = p·(c − Σ c·p) over `axis`: the cotangent c pulled back through p = softmax x"""
    if _along_rows(c, axis) and p.dtype == c.dtype and p.shape == c.shape:
        return kernel.softmax_pull(c, p)
    y = c - total(xp, c * p, axis, True)
    y *= p
    return y


@op(flops=lambda c, log_p, axis: (_COST + 3) * c.size)
def log_softmax_pull(xp, c, log_p, *, axis):
    """y = c − p·Σ c over `axis`, p = exp(log_p): the cotangent c pulled back through log_p = log_softmax x"""
    if _along_rows(c, axis) and log_p.dtype == c.dtype and log_p.shape == c.shape:
        return kernel.log_softmax_pull(c, log_p)
    return c - xp.exp(log_p) * total(xp, c, axis, True)


def _along(axis, x):
    return sum(x, axis=axis, keepdims=True)


# softmax has a symmetric Jacobian, so the adjoint of its pull with respect to c is that pull again
softmax_pull.vjp(
    c=lambda g, p, axis: softmax_pull(g, p, axis=axis),
    p=lambda g, c, p, axis: g * (c - _along(axis, c * p)) - c * _along(axis, g * p),
)
log_softmax_pull.vjp(
    c=lambda g, log_p, axis: g - _along(axis, g * exp(log_p)),
    log_p=lambda g, c, log_p, axis: neg(g * exp(log_p) * _along(axis, c)),
)


# ---- cumulative sums


@op(flops=lambda x, axis, reverse: x.size, prepare=_axis("cumsum"))
def cumsum(xp, x, *, axis=-1, reverse=False):
    """yᵢ = Σ xⱼ over j ≤ i along `axis`; with reverse over j ≥ i. float32 is summed in float64."""
    if reverse:
        x = xp.flip(x, axis)
    wide = xp.float64 if x.dtype.kind == "f" else None
    y = xp.cumsum(x, axis=axis, dtype=wide).astype(x.dtype if wide else xp.int64, copy=False)
    return xp.ascontiguousarray(xp.flip(y, axis)) if reverse else y


cumsum.vjp(x=lambda g, axis, reverse: cumsum(g, axis=axis, reverse=not reverse))
