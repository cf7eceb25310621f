"""Arrays in other shapes: reshape, transpose, join, split, pad, flip, roll. What can be a view is a view."""

from __future__ import annotations

import builtins
import math

import numpy as np

from ..errors import ShapeError
from ..kernels import concat as kernel
from ..tape import Op, op
from ..tensor import Tensor
from .elementwise import broadcast_to
from .reduce import positive_axes, positive_axis

# ---- the same elements in another shape


def _full_shape(x, *, shape):
    """prepare: −1 replaced by what is left."""
    given = (shape,) if hasattr(shape, "__index__") else shape
    shape = tuple([int(n) for n in given])
    if -1 in shape:
        known = math.prod([n for n in shape if n != -1])
        if shape.count(-1) > 1 or known == 0 or x.size % known:
            raise ShapeError(f"reshape needs one -1 at most, whole lengths; {x.size} elements into {shape}.")
        shape = tuple([x.size // known if n == -1 else n for n in shape])
    elif math.prod(shape) != x.size:
        raise ShapeError(f"reshape keeps the number of elements; {x.size} != {math.prod(shape)} of {shape}.")
    return {"shape": shape}


@op(flops=lambda x, shape: 0, prepare=_full_shape)
def reshape(xp, x, *, shape):
    """y = the elements of x in order, in `shape`; one length may be −1 (a view where x is contiguous)"""
    return x.reshape(shape)


reshape.vjp(x=lambda g, x_shape: reshape(g, shape=x_shape))


def _all_axes(x, *, axes):
    if axes is None:
        return {"axes": tuple(range(x.ndim))[::-1]}
    axes = tuple([positive_axis("transpose", int(a), x.ndim) for a in axes])
    if len(axes) != x.ndim or len(set(axes)) != x.ndim:
        raise ShapeError(f"transpose needs each of the {x.ndim} axes once; {axes}.")
    return {"axes": axes}


def _inverse(axes) -> tuple[int, ...]:
    back = [0] * len(axes)
    for new, old in enumerate(axes):
        back[old] = new
    return tuple(back)


@op(flops=lambda x, axes: 0, prepare=_all_axes)
def transpose(xp, x, *, axes=None):
    """y = x with axis i of y axis axes[i] of x; None reverses all (a view)"""
    return x.transpose(axes)


transpose.vjp(x=lambda g, axes: transpose(g, axes=_inverse(axes)))


def swapaxes(x: Tensor, a: int, b: int) -> Tensor:
    """x with the axes a and b swapped (a view)."""
    axes = list(range(x.ndim))
    a, b = positive_axis("swapaxes", a, x.ndim), positive_axis("swapaxes", b, x.ndim)
    axes[a], axes[b] = b, a
    return transpose(x, axes=axes)


def moveaxis(x: Tensor, source: int, destination: int) -> Tensor:
    """x with the axis `source` moved to position `destination`, the others in order (a view)."""
    axes = list(range(x.ndim))
    source, destination = (positive_axis("moveaxis", a, x.ndim) for a in (source, destination))
    axes.insert(destination, axes.pop(source))
    return transpose(x, axes=axes)


def expand_dims(x: Tensor, axis) -> Tensor:
    """x with new axes of length 1 at the positions `axis`, an integer or several, of the result."""
    extra = 1 if hasattr(axis, "__index__") else len(axis)
    axes = positive_axes("expand_dims", axis, x.ndim + extra)
    lengths = iter(x.shape)
    return reshape(x, shape=[1 if i in axes else next(lengths) for i in range(x.ndim + extra)])


def squeeze(x: Tensor, axis=None) -> Tensor:
    """x without the axes `axis`; None: all of length 1. Raises ShapeError for an axis of another length."""
    short = tuple([i for i, n in enumerate(x.shape) if n == 1])
    axes = short if axis is None else positive_axes("squeeze", axis, x.ndim)
    for i in axes:
        if x.shape[i] != 1:
            raise ShapeError(f"squeeze needs axes of length 1; axis {i} of {x.shape} has {x.shape[i]}.")
    return reshape(x, shape=[n for i, n in enumerate(x.shape) if i not in axes])


def flatten(x: Tensor, start: int = 1) -> Tensor:
    """x with the axes from `start` on made one: N, … → N, features."""
    return reshape(x, shape=(*x.shape[:start], math.prod(x.shape[start:])))


# ---- join and split


class _Join(Op):
    """An operation over any number of tensors, given one by one or as one list."""

    def __call__(self, *xs, **attrs):
        if xs and isinstance(xs[0], (list, tuple)):
            attrs |= dict(zip(self.attrs, xs[1:]))
            xs = tuple(xs[0])
        return super().__call__(*xs, **attrs)


def _cut(g: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """g[start:stop] along `axis`, a view."""
    return unpad(g, widths=[(start, n - stop) if i == axis else (0, 0) for i, n in enumerate(g.shape)])


def _joinable(*xs, axis):
    if not xs:
        raise ShapeError("concat needs at least one tensor.")
    first = xs[0].shape
    axis = positive_axis("concat", axis, len(first))
    others = first[:axis], first[axis + 1 :]
    for x in xs:
        if x.ndim != len(first) or (x.shape[:axis], x.shape[axis + 1 :]) != others:
            raise ShapeError(f"concat needs equal shapes but for axis {axis}; {x.shape} after {first}.")
    return {"axis": axis}


_LARGE = 1 << 15  # elements from which memory costs more than a call: kernels/concat


def _concat(xp, *xs, axis=-1):
    """y = the xs one after the other along `axis`. Takes concat(a, b, axis=1) and concat([a, b], axis=1)."""
    first = xs[0]
    if len(xs) == 2 and axis and first.size > _LARGE and xp is np and first.dtype == xs[1].dtype == np.float32:
        return kernel.forward(*xs, axis=axis)
    return xp.concatenate(xs, axis=axis)


def _concat_rule(g, i, axis, xs_shape):
    start = builtins.sum([s[axis] for s in xs_shape[:i]])
    return _cut(g, axis, start, start + xs_shape[i][axis])


concat = _Join(_concat, flops=lambda *xs, axis: 0, prepare=_joinable, name="concat")
concat.vjp(xs=_concat_rule)


def _stackable(*xs, axis):
    if not xs:
        raise ShapeError("stack needs at least one tensor.")
    for x in xs:
        if x.shape != xs[0].shape:
            raise ShapeError(f"stack needs equal shapes; {x.shape} != {xs[0].shape}.")
    return {"axis": positive_axis("stack", axis, len(xs[0].shape) + 1)}


def _stack(xp, *xs, axis=0):
    """y = the xs side by side along a new axis. Takes stack(a, b, axis=1) and stack([a, b], axis=1)."""
    return xp.stack(xs, axis=axis)


stack = _Join(_stack, flops=lambda *xs, axis: 0, prepare=_stackable, name="stack")
stack.vjp(xs=lambda g, i, axis, xs_shape: reshape(_cut(g, axis, i, i + 1), shape=xs_shape[i]))


def _sizes(x, *, sections, axis):
    axis = positive_axis("split", axis, x.ndim)
    n = x.shape[axis]
    if hasattr(sections, "__index__"):
        if sections < 1 or n % sections:
            raise ShapeError(f"split needs axis {axis} divisible by the number of parts; {n} by {sections}.")
        sections = (n // sections,) * int(sections)
    sections = tuple([int(s) for s in sections])
    if builtins.sum(sections) != n or builtins.min(sections, default=0) < 0:
        raise ShapeError(f"split needs sizes that add up to axis {axis}; {sections} for {n}.")
    return {"sections": sections, "axis": axis}


@op(flops=lambda x, sections, axis: 0, prepare=_sizes)
def split(xp, x, *, sections, axis=-1):
    """(y₁, y₂, …) = x cut along `axis` (views). sections: how many equal parts, or a tuple of sizes, unlike
    numpy.split, which takes positions."""
    before, start, parts = (slice(None),) * axis, 0, []
    for length in sections:
        parts.append(x[(*before, slice(start, start + length))])
        start += length
    return tuple(parts)


split.vjp(x=lambda g, axis: concat(*g, axis=axis))


def unstack(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """The tensors that lie side by side along `axis`, without that axis; the inverse of stack."""
    axis = positive_axis("unstack", axis, x.ndim)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return tuple([reshape(part, shape=shape) for part in split(x, sections=x.shape[axis], axis=axis)])


def repeat(x: Tensor, repeats: int, axis: int) -> Tensor:
    """Each element `repeats` times in a row along `axis`: a b → a a b b."""
    axis = positive_axis("repeat", axis, x.ndim)
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    y = broadcast_to(reshape(x, shape=(*before, 1, *after)), shape=(*before, repeats, *after))
    return reshape(y, shape=(*x.shape[:axis], x.shape[axis] * repeats, *after))


def tile(x: Tensor, repeats: int, axis: int) -> Tensor:
    """All of x `repeats` times over along `axis`: a b → a b a b."""
    axis = positive_axis("tile", axis, x.ndim)
    before, after = x.shape[:axis], x.shape[axis:]
    y = broadcast_to(reshape(x, shape=(*before, 1, *after)), shape=(*before, repeats, *after))
    return reshape(y, shape=(*before, x.shape[axis] * repeats, *x.shape[axis + 1 :]))


# ---- pad


def _widths(name):
    """prepare: a (before, after) pair for each axis."""

    def prepare(x, *, widths, mode, **attrs):
        if len(widths) != x.ndim:
            raise ShapeError(f"{name} needs a width for each axis; {len(widths)} != {x.ndim}.")
        widths = [(w, w) if hasattr(w, "__index__") else w for w in widths]
        pairs = tuple([(int(before), int(after)) for before, after in widths])
        if mode not in ("zero", "reflect", "edge"):
            raise ShapeError(f"{name} needs mode to be 'zero', 'reflect' or 'edge'; {mode!r}.")
        for axis, ((before, after), n) in enumerate(zip(pairs, x.shape)):
            if before < 0 or after < 0:
                raise ShapeError(f"{name} needs widths >= 0; {(before, after)} on axis {axis}.")
            n -= 0 if name == "pad" else before + after
            needed = {"zero": 0, "edge": 1, "reflect": 1 + builtins.max(before, after)}[mode]
            if n < needed and (before or after):
                raise ShapeError(f"{name} by {(before, after)} in mode {mode!r} needs {needed} elements on "
                                 f"axis {axis}; {n}.")
        return {"widths": pairs, "mode": mode, **attrs}

    return prepare


def _inside(shape, widths) -> tuple[slice, ...]:
    """The index of what lies between the margins of an array of `shape`."""
    return tuple([slice(before, n - after) for n, (before, after) in zip(shape, widths)])


def _source(xp, n: int, before: int, after: int, mode: str):
    """Where each element along a padded axis comes from."""
    at = xp.arange(-before, n + after)
    return xp.clip(at, 0, n - 1) if mode == "edge" else n - 1 - xp.absolute(n - 1 - xp.absolute(at))


@op(flops=lambda x, widths, mode, value: 0, prepare=_widths("pad"))
def pad(xp, x, *, widths, mode="zero", value=0.0):
    """y = x with margins. widths: for each axis (before, after), or one number for both. mode "zero": filled
    with `value`; "edge": with the nearest element; "reflect": mirrored about the outermost element"""
    if mode == "zero":
        shape = tuple([n + before + after for n, (before, after) in zip(x.shape, widths)])
        y = xp.zeros(shape, x.dtype) if value == 0 else xp.full(shape, value, x.dtype)
        y[_inside(shape, widths)] = x
        return y
    for axis, (before, after) in enumerate(widths):
        if before or after:
            x = x.take(_source(xp, x.shape[axis], before, after, mode), axis=axis)
    return x


@op(flops=lambda x, widths, mode: 0 if mode == "zero" else x.size, prepare=_widths("unpad"))
def unpad(xp, x, *, widths, mode="zero"):
    """y = x without its margins, whose elements are added to those that pad had copied (mode "zero": dropped,
    and y is a view): the adjoint of pad"""
    inside = _inside(x.shape, widths)
    if mode == "zero":
        return x[inside]
    for axis, (before, after) in enumerate(widths):
        if not (before or after):
            continue
        n = x.shape[axis] - before - after
        x = xp.moveaxis(x, axis, 0)
        y = x[before : before + n].copy()
        if mode == "edge":
            y[0] += x[:before].sum(axis=0)
            y[n - 1] += x[before + n :].sum(axis=0)
        else:
            y[1 : before + 1] += x[:before][::-1]
            y[n - 1 - after : n - 1] += x[before + n :][::-1]
        x = xp.moveaxis(y, 0, axis)
    return x


pad.vjp(x=lambda g, widths, mode: unpad(g, widths=widths, mode=mode))
unpad.vjp(x=lambda g, widths, mode: pad(g, widths=widths, mode=mode))


# ---- reorder


@op(flops=lambda x, axis: 0, prepare=lambda x, *, axis: {"axis": positive_axes("flip", axis, x.ndim)})
def flip(xp, x, *, axis=None):
    """y = x backwards along `axis`, an integer, several, or None for all (a view)"""
    return xp.flip(x, axis)


flip.vjp(x=lambda g, axis: flip(g, axis=axis))


def _shifts(x, *, shift, axis):
    shift = (int(shift),) if hasattr(shift, "__index__") else tuple([int(s) for s in shift])
    axis = (int(axis),) if hasattr(axis, "__index__") else tuple(axis)
    if len(shift) != len(axis):
        raise ShapeError(f"roll needs a shift for each axis; {len(shift)} != {len(axis)}.")
    return {"shift": shift, "axis": tuple([positive_axis("roll", a, x.ndim) for a in axis])}


@op(flops=lambda x, shift, axis: 0, prepare=_shifts)
def roll(xp, x, *, shift, axis):
    """y = x moved by `shift` along `axis`, integers or tuples; what leaves at one end enters at the other"""
    return xp.roll(x, shift, axis)


roll.vjp(x=lambda g, shift, axis: roll(g, shift=tuple([-s for s in shift]), axis=axis))


@op(flops=lambda x, k: 0)
def tril(xp, x, *, k=0):
    """y = the lower triangle of the last two axes: 0 where column > row + k"""
    return xp.tril(x, k)


@op(flops=lambda x, k: 0)
def triu(xp, x, *, k=0):
    """y = the upper triangle of the last two axes: 0 where column < row + k"""
    return xp.triu(x, k)


tril.vjp(x=lambda g, k: tril(g, k=k))
triu.vjp(x=lambda g, k: triu(g, k=k))
