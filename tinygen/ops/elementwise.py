"""Arithmetic and the pointwise functions, each with its rule. Operands broadcast as in NumPy.

The gradient of a broadcast operand is summed over the axes along which it was repeated (`unbroadcast`).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import GradientError
from ..tape import op
from ..tensor import Tensor


def broadcast_size(*arrays) -> int:
    """Number of elements of the broadcast result."""
    return math.prod(np.broadcast_shapes(*(np.shape(a) for a in arrays)))


# ---- shapes that broadcasting changes


@op(flops=lambda x, shape: 0)
def broadcast_to(xp, x, *, shape):
    """y = x repeated along new axes and axes of length 1, to `shape` (a view)."""
    return xp.broadcast_to(x, shape)


@op(flops=lambda x, shape: x.size)
def sum_to(xp, x, *, shape):
    """y = x summed over the axes along which `shape` would be broadcast to x.shape; the adjoint of broadcast_to."""
    extra = x.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and x.shape[i + extra] != 1))
    return x.sum(axis=axes, keepdims=True).reshape(shape) if axes else x


broadcast_to.vjp(x=lambda g, x_shape: sum_to(g, shape=x_shape))
sum_to.vjp(x=lambda g, x_shape: broadcast_to(g, shape=x_shape))


def unbroadcast(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """g, summed down to `shape`."""
    return g if g.shape == shape else sum_to(g, shape=shape)


# ---- arithmetic


@op(flops=broadcast_size)
def add(xp, a, b):
    """y = a + b"""
    return xp.add(a, b)


add.vjp(a=lambda g, a_shape: unbroadcast(g, a_shape), b=lambda g, b_shape: unbroadcast(g, b_shape))


@op(flops=broadcast_size)
def sub(xp, a, b):
    """y = a − b"""
    return xp.subtract(a, b)


sub.vjp(a=lambda g, a_shape: unbroadcast(g, a_shape), b=lambda g, b_shape: unbroadcast(neg(g), b_shape))


@op(flops=lambda x: x.size)
def neg(xp, x):
    """y = −x"""
    return xp.negative(x)


neg.vjp(x=lambda g: neg(g))


@op(flops=broadcast_size)
def mul(xp, a, b):
    """y = a · b"""
    return xp.multiply(a, b)


mul.vjp(
    a=lambda g, b, a_shape: unbroadcast(g * b, a_shape),
    b=lambda g, a, b_shape: unbroadcast(g * a, b_shape),
)


@op(flops=broadcast_size)
def div(xp, a, b):
    """y = a / b"""
    return xp.true_divide(a, b)


div.vjp(
    a=lambda g, b, a_shape: unbroadcast(g / b, a_shape),
    b=lambda g, b, y, b_shape: unbroadcast(neg(g * y / b), b_shape),
)


@op(flops=lambda x: x.size)
def alias(xp, x):
    """y = x, the same array under a new node: tells apart two uses of one tensor."""
    return x


alias.vjp(x=lambda g: g)
