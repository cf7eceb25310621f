"""What PyTorch calls our operations: one function for each, over torch tensors, with our attributes.

Written with PyTorch's own function of that name where there is one, in our order of axes, and otherwise as a short
composition of its functions that reads like the definition. The adjoints (scatter, unpad, …) are PyTorch's gradients of
the twins of what they are adjoint to. Imported only where PyTorch is installed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# Operations without a twin, and why.
NO_TWIN = {
    "to_device": "moves between devices; with one device there is nothing to compare",
}


# ---- helpers


def adjoint(twin, shape, g, **attrs):
    """PyTorch's gradient, at cotangent g, of a linear twin of an x of `shape`; itself differentiable."""
    x = torch.zeros(shape, dtype=g.dtype, requires_grad=True)
    return torch.autograd.grad(twin(x, **attrs), x, g, create_graph=True)[0]


def over(f, x, axis, keepdims):
    """f(x, dims, keepdims) with axis None for all axes, and () for none (which PyTorch takes for all)."""
    dims = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    return f(x, dims, keepdims) if dims else f(x[..., None], (-1,), False)


def gathered(x, positions):
    """The elements of x at flat positions (an integer NumPy array of the result's shape); −1 is a zero."""
    positions = np.asarray(positions)
    flat = torch.cat([x.reshape(-1), x.new_zeros(1)])
    return flat[torch.tensor(positions.reshape(-1))].reshape(positions.shape)


def places(shape):
    return np.arange(math.prod(shape)).reshape(shape)


def pair(v):
    return (v, v) if isinstance(v, int) else tuple(v)


def pads(p):
    """((top, bottom), (left, right))"""
    return tuple(pair(v) for v in pair(p))


def nchw(f, x):
    return f(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def framed(x, padding, value=0.0):
    """x (N, H, W, C) with margins; negative ones crop."""
    (top, bottom), (left, right) = padding
    return nchw(lambda t: F.pad(t, (left, right, top, bottom), value=value), x)


def windows(x, size, stride, padding, value=0.0):
    """N, OH, OW, kh·kw, C"""
    size = pair(size)
    stride = size if stride is None else pair(stride)
    x = framed(x, pads(padding), value)
    x = x.unfold(1, size[0], stride[0]).unfold(2, size[1], stride[1])  # N, OH, OW, C, kh, kw
    return x.flatten(4).transpose(3, 4)


# ---- indexing and shape


def getitem(x, index):
    return gathered(x, places(x.shape)[index])


def put(x, values, index):
    target = places(x.shape)[index]
    source = np.broadcast_to(places(values.shape), target.shape)
    owner = np.full(x.numel(), -1)
    owner[target.reshape(-1)] = source.reshape(-1)  # where a place is named twice, the last stays
    owner = torch.tensor(owner.reshape(x.shape))
    return torch.where(owner >= 0, gathered(values, owner.numpy()), x)


def take(x, indices, axis):
    axis %= x.ndim
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, indices.reshape(-1) % x.shape[axis]).reshape(shape)


def scatter(values, indices, axis, size):
    ndim = values.ndim - indices.ndim + 1
    axis %= ndim
    shape = (*values.shape[:axis], size, *values.shape[axis + indices.ndim :])
    return adjoint(lambda x: take(x, indices, axis), shape, values)


def scatter_along_axis(values, indices, axis, size):
    shape = list(values.shape)
    shape[axis] = size
    return adjoint(lambda x: torch.take_along_dim(x, indices, axis), shape, values)


def _widths(ndim, widths):
    return [pair(w) for w in (widths if not isinstance(widths, int) else [widths] * ndim)]


def pad(x, widths, mode, value=0.0):
    how = {"mode": "constant", "constant_values": -1} if mode == "zero" else {"mode": mode}
    positions = np.pad(places(x.shape), _widths(x.ndim, widths), **how)
    y = gathered(x, positions)
    return torch.where(torch.tensor(positions >= 0), y, value) if value else y


def unpad(x, widths, mode):
    shape = [n - sum(w) for n, w in zip(x.shape, _widths(x.ndim, widths))]
    return adjoint(lambda t: pad(t, widths, mode), shape, x)


def depth_to_space(x, block):
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, block, block, c // block**2)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, h * block, w * block, c // block**2)


def split(x, sections, axis):
    sizes = x.shape[axis] // sections if isinstance(sections, int) else list(sections)
    return torch.split(x, sizes, dim=axis) if sizes else (x,) * sections


# ---- pooling and resampling


def pick_pool2d(x, taps, size, stride, padding):
    return windows(x, size, stride, padding).gather(3, taps[:, :, :, None, :])[:, :, :, 0]


def max_pool2d(x, size, stride, padding):
    stride = size if stride is None else stride
    return nchw(lambda t: F.max_pool2d(t, pair(size), pair(stride)), framed(x, pads(padding), -math.inf))


def resize_nearest(x, scale):
    rows, columns = pair(scale)
    return x.repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def resize_bilinear(x, size, align_corners, antialias):
    if not len(x):
        return x.new_zeros((0, *pair(size), x.shape[3])) + x.sum()
    return nchw(lambda t: F.interpolate(t, size=pair(size), mode="bilinear", align_corners=align_corners,
                                        antialias=antialias), x)


def resize_bilinear_adjoint(values, size, **how):
    n, h, w, c = values.shape
    return adjoint(lambda x: resize_bilinear(x, (h, w), **how), (n, *pair(size), c), values)


def fir(x, kernel, up, down, padding):
    n, h, w, c = x.shape
    (uh, uw), (dh, dw) = pair(up), pair(down)
    x = F.pad(x.reshape(n, h, 1, w, 1, c), (0, 0, 0, uw - 1, 0, 0, 0, uh - 1)).reshape(n, h * uh, w * uw, c)
    x = framed(x, pads(padding))
    taps = torch.tensor(kernel, dtype=x.dtype).flip(0)
    taps = (taps[:, None] * taps).expand(c, 1, len(taps), len(taps))
    return nchw(lambda t: F.conv2d(t, taps, groups=c), x)[:, ::dh, ::dw]


# ---- convolutions: w (kh, kw, C/groups, F)


def conv2d(x, w, b=None, *, stride, padding, dilation, groups, impl=None):
    stride, dilation = pair(stride), pair(dilation)
    if padding == "same":
        total = [max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
                 for n, s, d, k in zip(x.shape[1:3], stride, dilation, w.shape)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    x = framed(x, pads(padding))
    return nchw(lambda t: F.conv2d(t, w.permute(3, 2, 0, 1), b, stride, 0, dilation, groups), x)


def conv2d_input_grad(gy, w, *, x_shape, **attrs):
    return adjoint(lambda x: conv2d(x, w, **attrs), x_shape, gy)


def conv2d_weight_grad(x, gy, *, w_shape, **attrs):
    return adjoint(lambda w: conv2d(x, w, **attrs), w_shape, gy)


def conv_transpose2d(x, w, b=None, *, stride, padding, output_padding, dilation, groups, impl=None):
    kh, kw, c, f = w.shape
    theirs = w.reshape(kh, kw, c, groups, f // groups).permute(3, 2, 4, 0, 1).reshape(c * groups, f // groups, kh, kw)
    y = nchw(lambda t: F.conv_transpose2d(t, theirs, None, pair(stride), 0, pair(output_padding), groups,
                                          pair(dilation)), x)
    y = framed(y, [(-a, -b) for a, b in pads(padding)])
    return y if b is None else y + b


# ---- norms and attention


def group_norm(x, w=None, b=None, *, groups, eps, silu):
    y = F.group_norm(x.movedim(-1, 1), groups, w, b, eps).movedim(1, -1)
    return F.silu(y) if silu else y


def batch_norm(x, w=None, b=None, *, eps):
    y = F.batch_norm(x.movedim(-1, 1), None, None, w, b, True, 0.0, eps).movedim(1, -1)
    axes = tuple(range(x.ndim - 1))
    return y, x.mean(axes), x.var(axes, correction=0)


def attention(q, k, v, mask=None, *, causal, scale):
    rows, columns = q.shape[2], k.shape[2]
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    allowed = torch.ones(rows, columns, dtype=torch.bool)
    if causal:
        allowed = allowed.tril(columns - rows)
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
        mask = None
    if mask is None and bool(allowed.any(-1).all()):
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second gradient
            return F.scaled_dot_product_attention(q, k, v, allowed, scale=scale)
    scores = q @ k.mT * scale + (0.0 if mask is None else mask)  # here a query may see nothing: it gets 0
    p = torch.where(allowed, torch.where(allowed, scores, -1e300).softmax(-1), 0.0)
    return p @ v


def softmax_cross_entropy(logits, labels):
    flat = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none")
    return flat.reshape(labels.shape)


# ---- reductions


def _log_softmax(x, axis):
    return over(lambda t, dims, _: t - t.logsumexp(dims, keepdim=True), x, axis, True)


def _arg(f):
    return lambda x, axis, keepdims: f(x, dim=axis, keepdim=keepdims) if axis is not None else f(x)


def ties(x, m, axis):
    hit = (x == m.reshape([1 if i in axis else n for i, n in enumerate(x.shape)])).double()
    return hit / hit.sum(axis, keepdim=True)


def cumsum(x, axis, reverse):
    return x.flip(axis).cumsum(axis).flip(axis) if reverse else x.cumsum(axis)


def within(x, low, high):
    return (x >= (-math.inf if low is None else low)) & (x <= (math.inf if high is None else high))


TWINS = {
    # elementwise
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg, "power": torch.pow,
    "square": torch.square, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "exp": torch.exp, "expm1": torch.expm1,
    "log": torch.log, "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "erf": torch.erf,
    "abs": torch.abs, "sign": torch.sign, "floor": torch.floor, "round": torch.round, "maximum": torch.maximum,
    "minimum": torch.minimum, "where": torch.where, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt,
    "greater_equal": torch.ge, "equal": torch.eq, "not_equal": torch.ne, "logical_and": torch.logical_and,
    "logical_or": torch.logical_or, "logical_not": torch.logical_not, "isfinite": torch.isfinite, "within": within,
    "alias": torch.clone, "step": lambda a, b: torch.heaviside((a - b).detach(), torch.tensor(0.5, dtype=a.dtype)),
    "clip": lambda x, low, high: x if low is None and high is None else x.clamp(low, high),
    "cast": lambda x, dtype: x.to(torch.float64), "broadcast_to": lambda x, shape: x.broadcast_to(shape),
    "sum_to": lambda x, shape: x.sum_to_size(shape) if shape else x.sum(),
    # activations
    "sigmoid": torch.sigmoid, "softplus": F.softplus, "log_sigmoid": F.logsigmoid, "relu": F.relu, "silu": F.silu,
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope), "elu": lambda x, alpha: F.elu(x, alpha),
    "gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
    "gate": lambda x, by, slope: torch.where(by > 0, x, slope * x),
    # reductions
    "sum": lambda x, axis, keepdims: over(torch.sum, x, axis, keepdims),
    "mean": lambda x, axis, keepdims: over(torch.mean, x, axis, keepdims),
    "var": lambda x, axis, keepdims, correction: over(
        lambda t, d, k: torch.var(t, d, correction=correction, keepdim=k), x, axis, keepdims),
    "norm": lambda x, axis, keepdims, eps: (over(torch.sum, x.square(), axis, keepdims) + eps).sqrt(),
    "max": lambda x, axis, keepdims: over(torch.amax, x, axis, keepdims),
    "min": lambda x, axis, keepdims: over(torch.amin, x, axis, keepdims),
    "argmax": _arg(torch.argmax), "argmin": _arg(torch.argmin), "ties": ties,
    "logsumexp": lambda x, axis, keepdims: over(torch.logsumexp, x, axis, keepdims),
    "softmax": lambda x, axis: _log_softmax(x, axis).exp(), "log_softmax": _log_softmax, "cumsum": cumsum,
    "softmax_pull": lambda c, p, axis: p * (c - (c * p).sum(axis, keepdim=True)),
    "log_softmax_pull": lambda c, log_p, axis: c - log_p.exp() * c.sum(axis, keepdim=True),
    "spread": lambda x, shape, axis: adjoint(
        lambda t: t.sum(axis, keepdim=x.ndim == len(shape)), shape, x),
    # shape
    "reshape": lambda x, shape: x.reshape(shape), "concat": lambda *xs, axis: torch.cat(xs, axis),
    "transpose": lambda x, axes: x.permute(tuple(range(x.ndim))[::-1] if axes is None else axes),
    "stack": lambda *xs, axis: torch.stack(xs, axis), "split": split, "pad": pad, "unpad": unpad,
    "flip": lambda x, axis: x.flip(tuple(range(x.ndim)) if axis is None else axis),
    "roll": lambda x, shift, axis: x.roll(shift, axis), "tril": lambda x, k: x.tril(k), "triu": lambda x, k: x.triu(k),
    # indexing
    "getitem": getitem, "scatter_at": lambda values, index, shape: adjoint(getitem, shape, values, index=index),
    "take": take, "scatter": scatter, "scatter_along_axis": scatter_along_axis, "put": put,
    "take_along_axis": lambda x, indices, axis: torch.take_along_dim(x, indices, axis),
    "one_hot": lambda ids, classes, dtype: F.one_hot(ids, classes).to(getattr(torch, np.dtype(dtype).name)),
    "argsort": lambda x, axis: x.argsort(dim=axis, stable=True),
    # linear algebra
    "linear": lambda x, w, b: x @ w if b is None else x @ w + b,
    "matmul": lambda a, b, ta, tb: torch.matmul(a.mT if ta else a, b.mT if tb else b),
    "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
    "cholesky": lambda a: torch.linalg.cholesky((a + a.mT) / 2), "solve": torch.linalg.solve, "inv": torch.linalg.inv,
    "solve_triangular": lambda a, b, lower, transpose: torch.linalg.solve_triangular(
        (a.tril() if lower else a.triu()).mT if transpose else a, b, upper=lower == transpose),
    "det": torch.linalg.det, "slogdet": lambda a: tuple(torch.linalg.slogdet(a)),
    # pooling and resampling
    "sum_pool2d": lambda x, **window: windows(x, **window).sum(3), "max_pool2d": max_pool2d,
    "sum_unpool2d": lambda values, shape, **window: adjoint(
        lambda x: windows(x, **window).sum(3), shape, values),
    "max_pool2d_taps": lambda x, y, **window: windows(x, **window, value=-math.inf).argmax(3),
    "pick_pool2d": pick_pool2d,
    "pick_unpool2d": lambda values, taps, shape, **window: adjoint(
        lambda x: pick_pool2d(x, taps, **window), shape, values),
    "depth_to_space": depth_to_space,
    "space_to_depth": lambda x, block: adjoint(
        lambda t: depth_to_space(t, block),
        (x.shape[0], x.shape[1] // block, x.shape[2] // block, x.shape[3] * block**2), x),
    "resize_nearest": resize_nearest, "resize_bilinear": resize_bilinear, "fir": fir,
    "resize_bilinear_adjoint": resize_bilinear_adjoint,
    # convolutions, norms, attention
    "conv2d": conv2d, "conv2d_input_grad": conv2d_input_grad, "conv2d_weight_grad": conv2d_weight_grad,
    "conv2d_add": lambda x, w, b, r, **attrs: conv2d(x, w, b, **attrs) + r,
    "conv_transpose2d": conv_transpose2d, "group_norm": group_norm, "batch_norm": batch_norm,
    "layer_norm": lambda x, w=None, b=None, *, eps: F.layer_norm(x, x.shape[-1:], w, b, eps), "attention": attention,
    "softmax_cross_entropy": softmax_cross_entropy,
}  # fmt: skip
