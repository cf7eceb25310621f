"""The normalisations: each a law in plain operations, and kernels for its value and its first gradient.

All of them are u = (x − mean) / √(var + eps), y = u · w + b; they differ in what is averaged over. The
statistics are functions of x, and the law says so: every derivative beyond the first is taken from it.
"""

from __future__ import annotations

import math

from .. import backend
from ..errors import DtypeError, ShapeError
from ..fused import fused
from ..kernels import batch_norm as batch_kernel
from ..kernels import group_norm as group_kernel
from ..kernels import layer_norm as layer_kernel
from ..tensor import Tensor
from .activations import silu as silu_op
from .elementwise import rsqrt, square
from .reduce import mean as mean_op
from .shape import reshape


def _normalise(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(u, mean, var), the statistics with length-1 axes."""
    mean = mean_op(x, axis=axes, keepdims=True)
    d = x - mean
    var = mean_op(square(d), axis=axes, keepdims=True)
    return d * rsqrt(var + eps), mean, var


def _affine(u: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    u = u if w is None else u * w
    return u if b is None else u + b


def _check(name: str, x, w, b) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{name} needs x (N, …, C), at least two axes; x has {x.ndim}.")
    if x.dtype.kind != "f":
        raise DtypeError(f"{name} needs floats, not {x.dtype}; cast with .astype().")
    for letter, p in (("w", w), ("b", b)):
        if p is None:
            continue
        if getattr(p, "shape", None) != x.shape[-1:]:
            got = getattr(p, "shape", p)
            raise ShapeError(f"{name} needs {letter} of shape (C,) = {x.shape[-1:]}; got {got}.")
        if p.dtype != x.dtype:
            raise DtypeError(f"float types are not mixed: {x.dtype} and {p.dtype} meet; "
                             "cast one with .astype().")


def _flops(x, w=None, b=None, **attrs) -> int:
    """Each element: mean 1, centring 1, variance 2, scaling 1, w 1, b 1; SiLU 5."""
    return (5 + (w is not None) + (b is not None) + (5 if attrs.get("silu") else 0)) * x.size


def _with_parameters(forward, backward):
    """The kernels take w and b as arrays; here None stands for w = 1, b = 0, without a gradient."""

    def full(x, w, b):
        xp = backend.array_module([x])
        C = x.shape[-1]
        return xp.ones(C, x.dtype) if w is None else w, xp.zeros(C, x.dtype) if b is None else b

    def forward_(x, w, b, **attrs):
        return forward(x, *full(x, w, b), **attrs)

    def backward_(g, x, w, b, **attrs):
        gx, gw, gb = backward(g, x, *full(x, w, b), **attrs)
        return gx, None if w is None else gw, None if b is None else gb

    return forward_, {("x", "w", "b"): backward_}


# ---- over the channels of a group, and all positions, of one sample


def group_norm_law(x, w=None, b=None, *, groups, eps=1e-5, silu=False):
    """y = (x − mean) / √(var + eps) · w + b, with mean and (biased) var of each sample over all positions and
    the channels of one group (Wu and He 2018, "Group Normalization", eq. 1-3, 7); with silu=True, y·σ(y) of
    that.

    x (N, …, C); w, b (C,) or None for 1 and 0 → y like x. groups equal runs of C/groups channels each;
    groups=1 normalises a whole sample, groups=C each channel (instance norm). Raises ShapeError, DtypeError.
    """
    N, C = x.shape[0], x.shape[-1]
    grouped = reshape(x, shape=(N, math.prod(x.shape[1:-1]), groups, C // groups))
    u, _, _ = _normalise(grouped, (1, 3), eps)
    y = _affine(reshape(u, shape=x.shape), w, b)
    return silu_op(y) if silu else y


def _prepare_group(x, w=None, b=None, *, groups, eps=1e-5, silu=False) -> dict:
    _check("group_norm", x, w, b)
    if not isinstance(groups, int) or groups < 1 or x.shape[-1] % groups:
        raise ShapeError(f"group_norm needs groups to divide x.C; {groups!r} does not divide {x.shape[-1]}.")
    return {"groups": groups, "eps": eps, "silu": bool(silu)}


_forward, _vjp = _with_parameters(group_kernel.forward, group_kernel.backward)
group_norm = fused(group_norm_law, name="group_norm", forward=_forward, vjp=_vjp, flops=_flops,
                   prepare=_prepare_group)


def instance_norm(x: Tensor, w: Tensor | None = None, b: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """group_norm with one channel a group: each channel of each sample over its positions (Ulyanov et al.
    2016, "Instance Normalization", eq. 1). x (N, …, C); w, b (C,) or None."""
    return group_norm(x, w, b, groups=x.shape[-1], eps=eps)


# ---- over the last axis


def layer_norm_law(x, w=None, b=None, *, eps=1e-5):
    """y = (x − mean) / √(var + eps) · w + b, with mean and (biased) var over the last axis (Ba, Kiros and
    Hinton 2016, "Layer Normalization", eq. 4).

    x (…, C), at least two axes; w, b (C,) or None for 1 and 0 → y like x. Raises ShapeError, DtypeError.
    """
    u, _, _ = _normalise(x, (x.ndim - 1,), eps)
    return _affine(u, w, b)


def _prepare_layer(x, w=None, b=None, *, eps=1e-5) -> dict:
    _check("layer_norm", x, w, b)
    return {"eps": eps}


_forward, _vjp = _with_parameters(layer_kernel.forward, layer_kernel.backward)
layer_norm = fused(layer_norm_law, name="layer_norm", forward=_forward, vjp=_vjp, flops=_flops,
                   prepare=_prepare_layer)


# ---- over the batch


def batch_norm_law(x, w=None, b=None, *, eps=1e-5):
    """y = (x − mean) / √(var + eps) · w + b, with mean and (biased) var of each channel over all axes but the
    last (Ioffe and Szegedy 2015, "Batch Normalization", Algorithm 1).

    x (N, …, C); w, b (C,) or None for 1 and 0 → y like x, mean (C,), var (C,). All three are differentiable;
    running averages are made of the last two (`batch_norm_inference` takes them). Raises ShapeError,
    DtypeError.
    """
    u, mean, var = _normalise(x, tuple(range(x.ndim - 1)), eps)
    C = x.shape[-1:]
    return _affine(u, w, b), reshape(mean, shape=C), reshape(var, shape=C)


def _prepare_batch(x, w=None, b=None, *, eps=1e-5) -> dict:
    _check("batch_norm", x, w, b)
    if math.prod(x.shape[:-1]) == 0:
        raise ShapeError(f"batch_norm needs at least one position to take statistics of; x is {x.shape}.")
    return {"eps": eps}


_forward, _vjp = _with_parameters(batch_kernel.forward, batch_kernel.backward)
batch_norm = fused(batch_norm_law, name="batch_norm", forward=_forward, vjp=_vjp, flops=_flops,
                   prepare=_prepare_batch, outputs=3)


def batch_norm_inference(x: Tensor, w: Tensor | None, b: Tensor | None, mean: Tensor, var: Tensor,
                         eps: float = 1e-5) -> Tensor:
    """y = (x − mean) / √(var + eps) · w + b with given statistics (Ioffe and Szegedy 2015, Algorithm 2, step
    11).

    x (N, …, C); mean, var (C,); w, b (C,) or None. Plain operations: a scale and a shift for each channel.
    """
    scale = rsqrt(var + eps)
    scale = scale if w is None else scale * w
    shift = -mean * scale if b is None else b - mean * scale
    return x * scale + shift


# ---- over the channels of one position


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """y = x / √(mean(x²) + eps) over the last axis (Karras et al. 2018, "Progressive Growing of GANs",
    §4.2)."""
    return x * rsqrt(mean_op(square(x), axis=-1, keepdims=True) + eps)


__all__ = ["batch_norm", "batch_norm_inference", "group_norm", "instance_norm", "layer_norm", "pixel_norm"]
