"""The convolutions. conv2d, its gradient in the image and its gradient in the weights are each other's rules,
so the family is closed: a gradient of any order is again a convolution and needs no law.

    y[n, i, j, f] = Σ_{u, v, c} x[n, i·s + u·d − p, j·s + v·d − p, c] · w[u, v, c, f]

That sum is linear in x and in w. All three forms are one trilinear expression, Σ g·y, short of one factor:
conv2d leaves out g, conv2d_input_grad x, conv2d_weight_grad w; the derivative of one of them in one of its
operands leaves out that operand instead. (Cross-correlation, as everywhere in deep learning; the geometry
follows Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning".)

Everywhere: x (N, H, W, C); w (kh, kw, C/groups, F); y and gy (N, OH, OW, F). stride and dilation: a number,
or (rows, columns). padding with zeros: a number; (rows, columns); ((top, bottom), (left, right)); or "same",
for OH = ⌈H / stride⌉ with the odd row or column at the bottom or right.
"""

from __future__ import annotations

import math

from ..errors import DtypeError, ShapeError
from ..kernels import conv2d as kernel
from ..modes import precise
from ..tape import op
from ..tensor import Tensor
from .elementwise import sum_to
from .shape import reshape

Pair = tuple[int, int]
Padding = int | str | Pair | tuple[Pair, Pair]

# ---- geometry


def _pair(name: str, what: str, value) -> Pair:
    """(rows, columns), both at least 1, from one number or two."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ShapeError(f"{name} needs {what} to be a whole number ≥ 1, or (rows, columns); got {value!r}.")
    return pair


def _pads(name: str, padding, image, kernel_size, stride, dilation) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) from any of the spellings."""
    if padding == "same":
        total = [max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
                 for n, k, s, d in zip(image, kernel_size, stride, dilation)]
        return tuple((t // 2, t - t // 2) for t in total)  # type: ignore[return-value]
    if isinstance(padding, int):
        pads: tuple = ((padding, padding), (padding, padding))
    elif isinstance(padding, str) or len(padding) != 2:
        pads = ()
    else:
        pads = tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
    if not pads or not all(len(p) == 2 and isinstance(p[0], int) and p[0] >= 0 and p[1] >= 0 for p in pads):
        raise ShapeError(f"{name} needs padding ≥ 0 as a number, (rows, columns), ((top, bottom), (left, "
                         f"right)) or 'same'; got {padding!r}.")
    return pads


def _geometry(name, image, w_shape, stride, padding, dilation) -> tuple[Pair, tuple[Pair, Pair], Pair, Pair]:
    """(stride, padding, dilation), spelled out, and (OH, OW)."""
    stride, dilation = _pair(name, "stride", stride), _pair(name, "dilation", dilation)
    padding = _pads(name, padding, image, w_shape[:2], stride, dilation)
    out = []
    for n, k, s, d, pad in zip(image, w_shape, stride, dilation, padding):
        room = n + pad[0] + pad[1] - (d * (k - 1) + 1)
        if room < 0:
            (t, b), (l, r) = padding
            (kh, kw), (dh, dw) = w_shape[:2], dilation
            raise ShapeError(f"{name} needs a kernel no larger than the padded image; {dh * (kh - 1) + 1}×"
                             f"{dw * (kw - 1) + 1} > {image[0] + t + b}×{image[1] + l + r}.")
        out.append(room // s + 1)
    return stride, padding, dilation, (out[0], out[1])


def _check(name: str, x_shape, w_shape, groups: int, dtypes) -> None:
    """Raise unless the image and the weights fit each other."""
    if len(x_shape) != 4 or len(w_shape) != 4:
        raise ShapeError(f"{name} needs x (N, H, W, C) and w (kh, kw, C/groups, F); they have {len(x_shape)} "
                         f"and {len(w_shape)} axes.")
    if not isinstance(groups, int) or groups < 1 or w_shape[3] % groups:
        raise ShapeError(f"{name} needs groups to divide w.F; {groups!r} does not divide {w_shape[3]}.")
    if x_shape[3] != w_shape[2] * groups:
        if groups == 1:
            raise ShapeError(f"{name} needs x.C == w.C; {x_shape[3]} ≠ {w_shape[2]}.")
        raise ShapeError(f"{name} needs x.C == w.C·groups; {x_shape[3]} ≠ {w_shape[2]}·{groups}.")
    for dtype in dtypes:
        if dtype.kind != "f":
            raise DtypeError(f"{name} needs floats, not {dtype}; cast with .astype().")
    if len(set(dtypes)) > 1:
        both = " and ".join(sorted(str(d) for d in set(dtypes)))
        raise DtypeError(f"float types are not mixed: {both} meet; cast one with .astype().")


def _check_impl(name: str, impl, w_shape, stride, dilation, groups) -> None:
    try:
        kernel.choose(impl, w_shape[:2], stride, dilation, groups, 0, (0, 0), 1, 1)
    except ValueError as error:
        raise ShapeError(str(error).replace("conv2d", name, 1)) from None


def _check_bias(name: str, b, F: int) -> None:
    if b is not None and getattr(b, "shape", None) != (F,):
        raise ShapeError(f"{name} needs b of shape (F,) = ({F},); got {getattr(b, 'shape', b)}.")


def _prepare(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, impl=None, precision=None,
             name="conv2d") -> dict:
    _check(name, x.shape, w.shape, groups, [a.dtype for a in (x, w, b) if hasattr(a, "dtype")])
    _check_bias(name, b, w.shape[3])
    stride, padding, dilation, _ = _geometry(name, x.shape[1:3], w.shape, stride, padding, dilation)
    if impl is not None:
        _check_impl(name, impl, w.shape, stride, dilation, groups)
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "impl": impl,
            "precision": precise(precision, x.dtype)}


def _prepare_grad(name, a, gy, x_shape, w_shape, stride=1, padding=0, dilation=1, groups=1, impl=None,
                  precision=None) -> dict:
    """The same for the two gradients, which know one shape by an attribute; a is the operand at hand."""
    _check(name, x_shape, w_shape, groups, [a.dtype, gy.dtype])
    stride, padding, dilation, out = _geometry(name, x_shape[1:3], w_shape, stride, padding, dilation)
    y_shape = (x_shape[0], *out, w_shape[3])
    if gy.shape != y_shape:
        raise ShapeError(f"{name} needs gy (N, OH, OW, F) = {y_shape}, the shape of conv2d's result; "
                         f"got {gy.shape}.")
    if impl is not None:
        _check_impl(name, impl, w_shape, stride, dilation, groups)
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "impl": impl,
            "precision": precise(precision, a.dtype)}


# ---- the three forms


def _flops(x, w, b=None, **attrs) -> int:
    """Two for each product, those with the padding's zeros included; one for each bias added."""
    attrs = _prepare(x, w, b, **attrs)
    out = _geometry("conv2d", x.shape[1:3], w.shape, attrs["stride"], attrs["padding"], attrs["dilation"])[3]
    return (2 * math.prod(w.shape[:3]) + (b is not None)) * x.shape[0] * math.prod(out) * w.shape[3]


@op(flops=_flops, prepare=_prepare)
def conv2d(xp, x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, impl=None, precision=None):
    """y[n,i,j,f] = b[f] + Σ_{u,v,c} x[n, i·s + u·d − p, j·s + v·d − p, c] · w[u,v,c,f]

    x (N, H, W, C); w (kh, kw, C/groups, F); b (F,) or None → y (N, OH, OW, F), with
    OH = ⌊(H + top + bottom − d·(kh − 1) − 1) / s⌋ + 1. Output channels come in `groups` equal runs; run k
    sees the k-th run of C/groups input channels. impl names an algorithm (kernels/conv2d/choice.py); None takes the
    fastest for the shape. precision: see `tinygen.precision`. Raises ShapeError, DtypeError.
    """
    return kernel.forward(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl, bias=b,
                          precision=precision)


def _prepare_add(x, w, b, r, **attrs) -> dict:
    attrs = _prepare(x, w, b, name="conv2d_add", **attrs)
    out = _geometry("conv2d_add", x.shape[1:3], w.shape, attrs["stride"], attrs["padding"], attrs["dilation"])[3]
    shape = (x.shape[0], *out, w.shape[3])
    if getattr(r, "shape", None) != shape or r.dtype != x.dtype:
        raise ShapeError(f"conv2d_add needs r like the convolution's result, {shape} {x.dtype}; got "
                         f"{getattr(r, 'shape', r)} {getattr(r, 'dtype', '')}.")
    return attrs


@op(flops=lambda x, w, b, r, **attrs: _flops(x, w, b, **attrs) + r.size, prepare=_prepare_add)
def conv2d_add(xp, x, w, b, r, *, stride=1, padding=0, dilation=1, groups=1, impl=None, precision=None):
    """y = conv2d(x, w, b) + r, in one pass over y: the end of a residual block (He et al. 2016, eq. 1).

    r (N, OH, OW, F), like the result; b may be None; the rest as in conv2d. Raises ShapeError, DtypeError.
    """
    return kernel.forward(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl, bias=b,
                          residual=r, precision=precision)


def _prepare_input_grad(gy, w, *, x_shape, **attrs) -> dict:
    x_shape = tuple(x_shape)
    return {"x_shape": x_shape, **_prepare_grad("conv2d_input_grad", w, gy, x_shape, w.shape, **attrs)}


@op(flops=lambda gy, w, **attrs: 2 * gy.size * math.prod(w.shape[:3]), prepare=_prepare_input_grad)
def conv2d_input_grad(xp, gy, w, *, x_shape, stride=1, padding=0, dilation=1, groups=1, impl=None, precision=None):
    """gx[n,h,k,c] = Σ gy[n,i,j,f] · w[u,v,c,f] over the (i,j,u,v,f) with h = i·s + u·d − p and
    k = j·s + v·d − p: conv2d's gradient in x, which is the transposed convolution.

    gy (N, OH, OW, F); w (kh, kw, C/groups, F) → gx (N, H, W, C) = x_shape. Raises ShapeError, DtypeError.
    """
    return kernel.input_grad(gy, w, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation,
                             groups=groups, impl=impl, precision=precision)


def _prepare_weight_grad(x, gy, *, w_shape, **attrs) -> dict:
    w_shape = tuple(w_shape)
    return {"w_shape": w_shape, **_prepare_grad("conv2d_weight_grad", x, gy, x.shape, w_shape, **attrs)}


@op(flops=lambda x, gy, w_shape, **attrs: 2 * gy.size * math.prod(w_shape[:3]), prepare=_prepare_weight_grad)
def conv2d_weight_grad(xp, x, gy, *, w_shape, stride=1, padding=0, dilation=1, groups=1, impl=None, precision=None):
    """gw[u,v,c,f] = Σ_{n,i,j} x[n, i·s + u·d − p, j·s + v·d − p, c] · gy[n,i,j,f]: conv2d's gradient in w.

    x (N, H, W, C); gy (N, OH, OW, F) → gw (kh, kw, C/groups, F) = w_shape. Raises ShapeError, DtypeError.
    """
    return kernel.weight_grad(x, gy, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation,
                              groups=groups, impl=impl, precision=precision)


for _op in (conv2d, conv2d_add):
    _op.vjp(
        x=lambda g, w, x_shape, stride, padding, dilation, groups, impl, precision: conv2d_input_grad(
            g, w, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
            precision=precision),
        w=lambda g, x, w_shape, stride, padding, dilation, groups, impl, precision: conv2d_weight_grad(
            x, g, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
            precision=precision),
        b=lambda g, b_shape: sum_to(g, shape=b_shape),
    )
conv2d_add.vjp(r=lambda g: g)
conv2d_input_grad.vjp(
    gy=lambda g, w, stride, padding, dilation, groups, impl, precision: conv2d(
        g, w, None, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
        precision=precision),
    w=lambda g, gy, w_shape, stride, padding, dilation, groups, impl, precision: conv2d_weight_grad(
        g, gy, w_shape=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
        precision=precision),
)
conv2d_weight_grad.vjp(
    x=lambda g, gy, x_shape, stride, padding, dilation, groups, impl, precision: conv2d_input_grad(
        gy, g, x_shape=x_shape, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
        precision=precision),
    gy=lambda g, x, stride, padding, dilation, groups, impl, precision: conv2d(
        x, g, None, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
        precision=precision),
)


# ---- transposed


def _prepare_transpose(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1,
                       impl=None, precision=None) -> dict:
    name = "conv_transpose2d"
    _check(name, x.shape, w.shape, groups, [a.dtype for a in (x, w, b) if hasattr(a, "dtype")])
    _check_bias(name, b, w.shape[3])
    stride, dilation = _pair(name, "stride", stride), _pair(name, "dilation", dilation)
    if padding == "same":
        raise ShapeError(f"{name} takes padding in numbers; 'same' does not determine the result's size.")
    padding = _pads(name, padding, x.shape[1:3], w.shape[:2], stride, dilation)
    extra = (output_padding, output_padding) if isinstance(output_padding, int) else tuple(output_padding)
    if len(extra) != 2 or not all(0 <= e < s for e, s in zip(extra, stride)):
        raise ShapeError(f"{name} needs 0 ≤ output_padding < stride; got {output_padding!r} with stride "
                         f"{stride}.")
    attrs = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation,
             "groups": groups}
    out = _transpose_shape(x.shape, w.shape, **attrs)
    if min(out[1:3]) < 1:
        raise ShapeError(f"{name} needs a result of at least 1×1; the padding {padding} leaves "
                         f"{out[1]}×{out[2]}.")
    if impl is not None:
        _check_impl(name, impl, w.shape, stride, dilation, groups)
    return attrs | {"impl": impl, "precision": precise(precision, x.dtype)}


def _transpose_shape(x_shape, w_shape, stride, padding, output_padding, dilation, groups, **unused) -> tuple:
    """(N, OH, OW, F) of the transposed convolution."""
    size = ((n - 1) * s - sum(p) + d * (k - 1) + e + 1
            for n, k, s, p, d, e in zip(x_shape[1:3], w_shape, stride, padding, dilation, output_padding))
    return (x_shape[0], *size, w_shape[3])


def _swap(w, groups):
    """w, the channel axes exchanged within each group: (kh, kw, A/groups, B) ↔ (kh, kw, B/groups, A)."""
    kh, kw, a, b = w.shape
    if groups == 1:
        return w.transpose(0, 1, 3, 2)
    return w.reshape((kh, kw, a, groups, b // groups)).transpose(0, 1, 4, 3, 2).reshape(
        (kh, kw, b // groups, a * groups))


def _transpose_flops(x, w, b=None, **attrs) -> int:
    """Two for each product, those that the padding crops included; one for each bias added."""
    attrs = _prepare_transpose(x, w, b, **attrs)
    products = x.size * math.prod(w.shape[:2]) * w.shape[3] // attrs["groups"]
    return 2 * products + (0 if b is None else math.prod(_transpose_shape(x.shape, w.shape, **attrs)))


@op(flops=_transpose_flops, prepare=_prepare_transpose)
def conv_transpose2d(xp, x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1, impl=None,
                     precision=None):
    """y[n,h,k,f] = b[f] + Σ x[n,i,j,c] · w[u,v,c,f] over the (i,j,u,v,c) with h = i·s + u·d − p and
    k = j·s + v·d − p: what conv2d_input_grad computes, with the weights' channel axes exchanged (Dumoulin and
    Visin 2016, ch. 4).

    x (N, H, W, C); w (kh, kw, C/groups, F), the third axis being x's channels; b (F,) or None → y (N, OH, OW,
    F), with OH = (H − 1)·s − top − bottom + d·(kh − 1) + output_padding + 1. output_padding: rows and columns
    by which the result is longer, less than stride. impl: as in conv2d. Raises ShapeError, DtypeError.
    """
    shape = _transpose_shape(x.shape, w.shape, stride, padding, output_padding, dilation, groups)
    return kernel.input_grad(x, _swap(w, groups), x_shape=shape, stride=stride, padding=padding, dilation=dilation,
                             groups=groups, impl=impl, bias=b, precision=precision)


conv_transpose2d.vjp(
    x=lambda g, w, stride, padding, dilation, groups, impl, precision: conv2d(
        g, _swap(w, groups), None, stride=stride, padding=padding, dilation=dilation, groups=groups, impl=impl,
        precision=precision),
    w=lambda g, x, w_shape, stride, padding, dilation, groups, impl, precision: _swap(conv2d_weight_grad(
        g, x, w_shape=(*w_shape[:2], w_shape[3] // groups, w_shape[2] * groups), stride=stride,
        padding=padding, dilation=dilation, groups=groups, impl=impl, precision=precision), groups),
    b=lambda g, b_shape: sum_to(g, shape=b_shape),
)


# ---- one axis: images of height 1


def _one_row(name: str, x, w, padding) -> tuple[Tensor, Tensor, Padding]:
    x, w = (t if isinstance(t, Tensor) else Tensor(t) for t in (x, w))
    if x.ndim != 3 or w.ndim != 3:
        raise ShapeError(f"{name} needs x (N, L, C) and w (k, C/groups, F); they have {x.ndim} and {w.ndim} "
                         "axes.")
    if not isinstance(padding, str):
        padding = ((0, 0), (padding, padding) if isinstance(padding, int) else padding)
    return reshape(x, shape=(x.shape[0], 1, *x.shape[1:])), reshape(w, shape=(1, *w.shape)), padding


def conv1d(x: Tensor, w: Tensor, b: Tensor | None = None, stride: int = 1, padding: int | str | Pair = 0,
           dilation: int = 1, groups: int = 1) -> Tensor:
    """y[n,i,f] = b[f] + Σ_{u,c} x[n, i·s + u·d − p, c] · w[u,c,f]: conv2d of images of height 1.

    x (N, L, C); w (k, C/groups, F); b (F,) or None → y (N, OL, F). padding: a number, (before, after) or
    "same". Raises ShapeError, DtypeError.
    """
    x, w, pads = _one_row("conv1d", x, w, padding)
    y = conv2d(x, w, b, stride=(1, stride), padding=pads, dilation=(1, dilation), groups=groups)
    return reshape(y, shape=(y.shape[0], *y.shape[2:]))


def conv_transpose1d(x: Tensor, w: Tensor, b: Tensor | None = None, stride: int = 1, padding: int | Pair = 0,
                     output_padding: int = 0, dilation: int = 1, groups: int = 1) -> Tensor:
    """y[n,h,f] = b[f] + Σ x[n,i,c] · w[u,c,f] over h = i·s + u·d − p: conv_transpose2d of images of height 1.

    x (N, L, C); w (k, C/groups, F); b (F,) or None → y (N, OL, F), OL = (L − 1)·s − 2p + d·(k − 1) +
    output_padding + 1. Raises ShapeError, DtypeError.
    """
    x, w, pads = _one_row("conv_transpose1d", x, w, padding)
    y = conv_transpose2d(x, w, b, stride=(1, stride), padding=pads, output_padding=(0, output_padding),
                         dilation=(1, dilation), groups=groups)
    return reshape(y, shape=(y.shape[0], *y.shape[2:]))


__all__ = [
    "conv1d", "conv2d", "conv2d_add", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose1d", "conv_transpose2d",
]  # fmt: skip
