"""Arithmetic and the pointwise functions, each with its rule. Operands broadcast as in NumPy.

The gradient of a broadcast operand is summed over the axes along which it was repeated (`unbroadcast`).
float32 in, float32 out; Python numbers take the dtype of the tensor they meet.
"""

from __future__ import annotations

import math

import numpy as np

from .. import backend
from ..errors import ShapeError
from ..tape import Op, op, recording
from ..tensor import Tensor
from .summation import total

_COST = 6  # FLOPs counted for exp, log, sin, … of one element


def broadcast_size(*arrays) -> int:
    """Number of elements of the broadcast result."""
    return math.prod(np.broadcast_shapes(*(np.shape(a) for a in arrays)))


# ---- shapes that broadcasting changes


def expand(xp, x, shape):
    """x broadcast to shape: a view, but a copy of what is small, which NumPy makes five times sooner."""
    if math.prod(shape) > 4096:
        return xp.broadcast_to(x, shape)
    y = xp.empty(shape, x.dtype)
    y[...] = x
    return y


@op(flops=lambda x, shape: 0)
def broadcast_to(xp, x, *, shape):
    """y = x repeated along new axes and axes of length 1, to `shape` (a view, where it is large)."""
    return expand(xp, x, shape)


@op(flops=lambda x, shape: x.size)
def sum_to(xp, x, *, shape):
    """y = x summed over the axes along which `shape` broadcasts to x.shape: the adjoint of broadcast_to."""
    extra = x.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and x.shape[i + extra] != 1))
    return total(xp, x, axes).reshape(shape) if axes else x


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


# ---- powers


_NUMBERS = frozenset({int, float, bool})
_POWERS = {  # exponents that need no pow(), which is slow
    1: lambda xp, a: a,
    2: lambda xp, a: xp.square(a),
    3: lambda xp, a: a * xp.square(a),
    0.5: lambda xp, a: xp.sqrt(a),
    -0.5: lambda xp, a: xp.reciprocal(xp.sqrt(a)),
    -1: lambda xp, a: xp.reciprocal(a),
    -2: lambda xp, a: xp.reciprocal(xp.square(a)),
}


@op(flops=lambda a, b: _COST * broadcast_size(a, b))
def power(xp, a, b):
    """y = aᵇ, with 0⁰ = 1"""
    if type(b) in _NUMBERS and b in _POWERS and hasattr(a, "dtype") and a.dtype.kind == "f":
        return _POWERS[b](xp, a)
    return xp.power(a, b)


def _power_base(g, a, b, a_shape):
    """∂y/∂a = b·aᵇ⁻¹, and 0 at a = b = 0, where y is 1 for every a."""
    if type(b) in _NUMBERS:
        return g * (b * power(a, b - 1)) if b != 0 else g * 0.0
    constant = logical_and(equal(a, 0.0), equal(b, 0.0))
    return unbroadcast(g * b * power(a, where(constant, 0.0, b - 1.0)), a_shape)


def _power_exponent(g, a, b, y, b_shape):
    """∂y/∂b = y·log a, and 0 at a = 0, b ≥ 0; NaN for a < 0, where aᵇ is not a function of real b."""
    if type(a) in _NUMBERS:
        return g * y * (math.log(a) if a > 0 else 0.0 if a == 0 else math.nan)
    constant = logical_and(equal(a, 0.0), greater_equal(b, 0.0))
    return unbroadcast(g * y * log(where(constant, 1.0, a)), b_shape)


power.vjp(a=_power_base, b=_power_exponent)


@op(flops=lambda x: x.size)
def square(xp, x):
    """y = x²"""
    return xp.square(x)


square.vjp(x=lambda g, x: g * (2.0 * x))


@op(flops=lambda x: x.size)
def sqrt(xp, x):
    """y = √x"""
    return xp.sqrt(x)


sqrt.vjp(x=lambda g, y: g / (2.0 * y))


@op(flops=lambda x: 2 * x.size)
def rsqrt(xp, x):
    """y = 1 / √x"""
    return xp.reciprocal(xp.sqrt(x))


rsqrt.vjp(x=lambda g, y: g * (-0.5 * power(y, 3)))


# ---- exponentials and trigonometry


@op(flops=lambda x: _COST * x.size)
def exp(xp, x):
    """y = eˣ"""
    return xp.exp(x)


exp.vjp(x=lambda g, y: g * y)


@op(flops=lambda x: _COST * x.size)
def expm1(xp, x):
    """y = eˣ − 1, exact near 0"""
    return xp.expm1(x)


expm1.vjp(x=lambda g, y: g * (y + 1.0))


@op(flops=lambda x: _COST * x.size)
def log(xp, x):
    """y = ln x"""
    return xp.log(x)


log.vjp(x=lambda g, x: g / x)


@op(flops=lambda x: _COST * x.size)
def log1p(xp, x):
    """y = ln(1 + x), exact near 0"""
    return xp.log1p(x)


log1p.vjp(x=lambda g, x: g / (x + 1.0))


@op(flops=lambda x: _COST * x.size)
def sin(xp, x):
    """y = sin x"""
    return xp.sin(x)


@op(flops=lambda x: _COST * x.size)
def cos(xp, x):
    """y = cos x"""
    return xp.cos(x)


sin.vjp(x=lambda g, x: g * cos(x))
cos.vjp(x=lambda g, x: neg(g * sin(x)))


@op(flops=lambda x: _COST * x.size)
def tanh(xp, x):
    """y = tanh x"""
    return xp.tanh(x)


tanh.vjp(x=lambda g, y: g * (1.0 - y * y))


def _erf(xp):
    """The error function of arrays."""
    if xp is np:
        from scipy.special import erf as function

        return function
    return backend.special().erf


@op(flops=lambda x: _COST * x.size)
def erf(xp, x):
    """y = 2/√π ∫₀ˣ e^(−t²) dt"""
    return _erf(xp)(x)


erf.vjp(x=lambda g, x: g * (2.0 / math.sqrt(math.pi) * exp(neg(square(x)))))


# ---- comparison: piecewise constant, so no gradient


@op(flops=broadcast_size)
def less(xp, a, b):
    """y = a < b"""
    return xp.less(a, b)


@op(flops=broadcast_size)
def less_equal(xp, a, b):
    """y = a ≤ b"""
    return xp.less_equal(a, b)


@op(flops=broadcast_size)
def greater(xp, a, b):
    """y = a > b"""
    return xp.greater(a, b)


@op(flops=broadcast_size)
def greater_equal(xp, a, b):
    """y = a ≥ b"""
    return xp.greater_equal(a, b)


@op(flops=broadcast_size)
def equal(xp, a, b):
    """y = (a = b)"""
    return xp.equal(a, b)


@op(flops=broadcast_size)
def not_equal(xp, a, b):
    """y = (a ≠ b)"""
    return xp.not_equal(a, b)


@op(flops=broadcast_size)
def logical_and(xp, a, b):
    """y = a ∧ b"""
    return xp.logical_and(a, b)


@op(flops=broadcast_size)
def logical_or(xp, a, b):
    """y = a ∨ b"""
    return xp.logical_or(a, b)


@op(flops=lambda x: x.size)
def logical_not(xp, x):
    """y = ¬x"""
    return xp.logical_not(x)


@op(flops=lambda x: x.size)
def isfinite(xp, x):
    """y = x is neither infinite nor NaN"""
    return xp.isfinite(x)


@op(flops=lambda x, low, high: 2 * x.size)
def within(xp, x, *, low=None, high=None):
    """y = (low ≤ x ≤ high); None is no bound"""
    if low is None:
        return xp.less_equal(x, xp.inf if high is None else high)
    return xp.greater_equal(x, low) if high is None else xp.logical_and(x >= low, x <= high)


@op(flops=lambda a, b: 3 * broadcast_size(a, b))
def step(xp, a, b):
    """y = 1 where a > b, ½ where a = b, 0 where a < b: the derivative of max(a, b) with respect to a"""
    y = xp.add(xp.greater(a, b), xp.greater_equal(a, b), dtype=xp.result_type(a, b))
    y *= 0.5
    return y


for _op in (less, less_equal, greater, greater_equal, equal, not_equal, logical_and, logical_or, step):
    _op.vjp(a=None, b=None)
for _op in (logical_not, isfinite, within):
    _op.vjp(x=None)


# ---- choice


@op(flops=broadcast_size)
def where(xp, cond, a, b):
    """y = a where cond, else b. The branch not taken gets the gradient 0, so its value does not matter as
    long as its own derivative is finite: write log(where(x > 0, x, 1.0)), not where(x > 0, log(x), 0.0)."""
    y = xp.where(cond, a, b)
    if y.dtype == xp.float64 and type(a) in _NUMBERS and type(b) in _NUMBERS:
        return y.astype(xp.float32)  # two Python numbers have no dtype to give
    return y


where.vjp(
    cond=None,
    a=lambda g, cond, a_shape: unbroadcast(where(cond, g, 0.0), a_shape),
    b=lambda g, cond, b_shape: unbroadcast(where(cond, 0.0, g), b_shape),
)


@op(flops=broadcast_size)
def maximum(xp, a, b):
    """y = max(a, b). Where they are equal, each gets half of the gradient."""
    return xp.maximum(a, b)


@op(flops=broadcast_size)
def minimum(xp, a, b):
    """y = min(a, b). Where they are equal, each gets half of the gradient."""
    return xp.minimum(a, b)


maximum.vjp(
    a=lambda g, a, b, a_shape: unbroadcast(g * step(a, b), a_shape),
    b=lambda g, a, b, b_shape: unbroadcast(g * step(b, a), b_shape),
)
minimum.vjp(
    a=lambda g, a, b, a_shape: unbroadcast(g * step(b, a), a_shape),
    b=lambda g, a, b, b_shape: unbroadcast(g * step(a, b), b_shape),
)


def _bounds(x, *, low, high):
    if low is not None and high is not None and low > high:
        raise ShapeError(f"clip needs low <= high; {low} > {high}.")
    return {"low": low, "high": high}


@op(flops=lambda x, low, high: 2 * x.size, prepare=_bounds)
def clip(xp, x, *, low=None, high=None):
    """y = min(max(x, low), high); None is no bound. The derivative is 1 inside and at the bounds, else 0."""
    y = x if low is None else xp.maximum(x, low)
    return y if high is None else xp.minimum(y, high)


clip.vjp(x=lambda g, x, low, high: g * within(x, low=low, high=high))


@op(flops=lambda x: x.size)
def abs(xp, x):
    """y = |x|, with derivative 0 at 0"""
    return xp.absolute(x)


@op(flops=lambda x: x.size)
def sign(xp, x):
    """y = −1, 0 or 1"""
    return xp.sign(x)


@op(flops=lambda x: x.size)
def floor(xp, x):
    """y = the largest integer ≤ x"""
    return xp.floor(x)


@op(flops=lambda x: x.size)
def round(xp, x):
    """y = the nearest integer; halves go to the even one"""
    return xp.rint(x)


abs.vjp(x=lambda g, x: g * sign(x))
for _op in (sign, floor, round):
    _op.vjp(x=None)


# ---- dtype and device


class _Cast(Op):
    """A cast to the dtype a tensor has is no operation, and one to integers or booleans has no gradient."""

    def __call__(self, x, dtype):
        dtype = np.dtype(dtype)
        if isinstance(x, Tensor) and x.dtype == dtype:
            return x
        if dtype.kind == "f":
            return super().__call__(x, dtype=dtype)
        with recording(False):
            return super().__call__(x, dtype=dtype)


def _cast(xp, x, *, dtype):
    """y = x in another dtype"""
    return xp.asarray(x).astype(dtype)


cast = _Cast(_cast, flops=lambda x, dtype: 0, name="cast")
cast.vjp(x=lambda g, x_dtype: cast(g, dtype=x_dtype))


def _from(x, *, device, source):
    return {"device": device, "source": backend.device_of(x)}


@op(flops=lambda x, device, source: 0, prepare=_from)
def to_device(xp, x, *, device, source=None):
    """y = x on `device`, "cpu" or "cuda:i". `source`, where x is, is found by the operation itself."""
    return backend.move(x, device)


to_device.vjp(x=lambda g, source: to_device(g, device=source))
