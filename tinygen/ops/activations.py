"""The activations: sigmoid and its relatives, the rectifiers, SiLU and GELU.

The last two stand in every block of a diffusion network, so they are fused: one pass over memory forward, one
backward that computes again from x what it needs instead of keeping it (kernels/activation). Their laws are plain
operations. Buffers come from empty_like, since a ufunc of a 0-d array returns a scalar without out=.
"""

from __future__ import annotations

import math

import numpy as np

from .. import backend
from ..errors import ShapeError
from ..fused import fused
from ..kernels import activation as kernel
from ..tape import op
from .elementwise import _COST, _erf, erf, neg, tanh, where


def _one_plus_exp_neg(xp, x):
    """1 + e^(−x) in a new buffer; where it overflows, its infinity is the right thing to divide by."""
    y = xp.negative(x, out=xp.empty_like(x))
    with np.errstate(over="ignore"):
        xp.exp(y, out=y)
    y += 1.0
    return y


def _sigmoid(xp, x):
    """1 / (1 + e^(−x)) in a new buffer."""
    y = _one_plus_exp_neg(xp, x)
    return xp.reciprocal(y, out=y)


def _softplus(xp, x):
    """log(1 + eˣ) = max(x, 0) + log(1 + e^(−|x|))"""
    y = xp.absolute(x, out=xp.empty_like(x))
    xp.negative(y, out=y)
    xp.exp(y, out=y)
    xp.log1p(y, out=y)
    y += xp.maximum(x, 0.0)
    return y


# ---- sigmoid and its relatives; none overflows, for any x


@op(flops=lambda x: (_COST + 3) * x.size)
def sigmoid(xp, x):
    """y = 1 / (1 + e^(−x))"""
    return _sigmoid(xp, x)


sigmoid.vjp(x=lambda g, y: g * (y * (1.0 - y)))


@op(flops=lambda x: (2 * _COST + 4) * x.size)
def softplus(xp, x):
    """y = log(1 + eˣ)"""
    return _softplus(xp, x)


softplus.vjp(x=lambda g, x: g * sigmoid(x))


@op(flops=lambda x: (2 * _COST + 5) * x.size)
def log_sigmoid(xp, x):
    """y = log sigmoid x = −log(1 + e^(−x))"""
    y = _softplus(xp, xp.negative(x))
    return xp.negative(y, out=y)


log_sigmoid.vjp(x=lambda g, x: g * sigmoid(neg(x)))


# ---- rectifiers: their rules need only the sign of y, which the next layer keeps anyway


def _slope_not_negative(x, *, slope):
    if slope < 0:
        raise ShapeError(f"leaky_relu needs slope >= 0; {slope}.")
    return {"slope": slope}


def _alpha_not_negative(x, *, alpha):
    if alpha < 0:
        raise ShapeError(f"elu needs alpha >= 0; {alpha}.")
    return {"alpha": alpha}


@op(flops=lambda x, by, slope: 2 * x.size)
def gate(xp, x, by, *, slope=0.0):
    """y = x where by > 0, else slope·x: the adjoint of leaky_relu"""
    if x.dtype == np.float32 == by.dtype and x.shape == by.shape:
        return kernel.gate(x, by, slope=slope)
    y = xp.greater(by, 0.0).astype(x.dtype)  # a product: where() mispredicts a branch at random signs
    if slope:
        y *= 1.0 - slope
        y += slope
    y *= x
    return y


gate.vjp(x=lambda g, by, slope: gate(g, by, slope=slope), by=None)


@op(flops=lambda x: x.size)
def relu(xp, x):
    """y = max(x, 0), with derivative 0 at 0"""
    if x.dtype == np.float32:
        return kernel.relu(x)
    return xp.maximum(x, 0.0)


relu.vjp(x=lambda g, y: gate(g, y))


@op(flops=lambda x, slope: 2 * x.size, prepare=_slope_not_negative)
def leaky_relu(xp, x, *, slope=0.01):
    """y = x where x > 0, else slope·x, with derivative slope at 0"""
    if x.dtype == np.float32:
        return kernel.gate(x, x, slope=slope)
    y = xp.multiply(x, slope, out=xp.empty_like(x))
    return xp.maximum(x, y, out=y) if slope <= 1 else xp.minimum(x, y, out=y)


leaky_relu.vjp(x=lambda g, y, slope: gate(g, y, slope=slope))


@op(flops=lambda x, alpha: (_COST + 4) * x.size, prepare=_alpha_not_negative)
def elu(xp, x, *, alpha=1.0):
    """y = x where x > 0, else alpha·(eˣ − 1) (Clevert et al. 2016), with derivative alpha at 0"""
    y = xp.minimum(x, 0.0, out=xp.empty_like(x))
    xp.expm1(y, out=y)
    y *= alpha
    y += xp.maximum(x, 0.0)
    return y


elu.vjp(x=lambda g, y, alpha: g * where(y > 0.0, 1.0, y + alpha))


# ---- SiLU


def _silu_law(x):
    """y = x · sigmoid x (Elfwing et al. 2018; "swish")"""
    return x * sigmoid(x)


def _silu_forward(x):
    xp = backend.array_module([x])
    if xp is np or x.dtype == np.float32:
        return kernel.silu_forward(x), None
    y = _one_plus_exp_neg(xp, x)
    return xp.divide(x, y, out=y), None


def _silu_backward(g, x, *, hint):
    """g·s·(1 + x − x·s), with s = sigmoid x"""
    xp = backend.array_module([x])
    if xp is np or x.dtype == np.float32:
        return (kernel.silu_backward(g, x),)
    s = _sigmoid(xp, x)
    gx = xp.multiply(x, s, out=xp.empty_like(s))
    xp.subtract(x, gx, out=gx)
    gx += 1.0
    gx *= s
    gx *= g
    return (gx,)


silu = fused(_silu_law, name="silu", forward=_silu_forward, vjp={("x",): _silu_backward},
             flops=lambda x: (_COST + 4) * x.size)


# ---- GELU


_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_PI = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def _gelu_law(x, *, approximate="none"):
    """y = x·Φ(x), Φ the normal distribution function (Hendrycks & Gimpel 2016): x/2·(1 + erf(x/√2)); with
    approximate="tanh", x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))"""
    if approximate == "tanh":
        return 0.5 * x * (1.0 + tanh(_SQRT_2_PI * (x + _CUBIC * x * x * x)))
    return 0.5 * x * (1.0 + erf(_SQRT_HALF * x))


def _gelu_kind(x, *, approximate):
    if approximate not in ("none", "tanh"):
        raise ShapeError(f"gelu needs approximate to be 'none' or 'tanh'; {approximate!r}.")
    return {"approximate": approximate}


def _gelu_inner(xp, x, approximate):
    """(the new buffer of what multiplies x/2 less 1): erf(x/√2), or tanh(√(2/π)·(x + 0.044715·x³))"""
    t = xp.empty_like(x)
    if approximate == "none":
        xp.multiply(x, _SQRT_HALF, out=t)
        return _erf(xp)(t, out=t)
    xp.square(x, out=t)
    t *= _CUBIC * _SQRT_2_PI
    t += _SQRT_2_PI
    t *= x
    return xp.tanh(t, out=t)


def _gelu_forward(x, *, approximate):
    xp = backend.array_module([x])
    if xp is np or x.dtype == np.float32:
        return kernel.gelu_forward(x, approximate=approximate), None
    y = _gelu_inner(xp, x, approximate)
    y += 1.0
    y *= 0.5
    y *= x
    return y, None


def _gelu_backward(g, x, *, approximate, hint):
    """g·(Φ + x·φ), φ the derivative of Φ"""
    xp = backend.array_module([x])
    if xp is np or x.dtype == np.float32:
        return (kernel.gelu_backward(g, x, approximate=approximate),)
    t = _gelu_inner(xp, x, approximate)
    gx = xp.square(x, out=xp.empty_like(t))
    if approximate == "none":  # φ = e^(−x²/2) / √(2π)
        gx *= -0.5
        xp.exp(gx, out=gx)
        gx *= 0.5 * _SQRT_2_PI
    else:  # φ = (1 − t²)/2 · √(2/π)·(1 + 3·0.044715·x²)
        gx *= 1.5 * _CUBIC * _SQRT_2_PI
        gx += 0.5 * _SQRT_2_PI
        gx *= 1.0 - t * t
    gx *= x
    t += 1.0
    t *= 0.5
    gx += t
    gx *= g
    return (gx,)


gelu = fused(_gelu_law, name="gelu", forward=_gelu_forward, vjp={("x",): _gelu_backward}, prepare=_gelu_kind,
             flops=lambda x, approximate: (_COST + 5) * x.size)
