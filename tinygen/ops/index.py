"""Picking elements and putting them back: indexing, gather and scatter, one-hot, order.

Every gather is linear in x, and its adjoint is the scatter that adds; so each of the pairs (getitem,
scatter_at), (take, scatter) and (take_along_axis, scatter_along_axis) is closed under differentiation.

Sums over repeated indices are taken in the order of the indices, so they are the same from run to run: on the
CPU as a product with a sparse matrix of ones, on a GPU after a stable sort, without atomics (kernels/scatter).

An index out of range raises IndexError on the CPU. CuPy does not look, since that would wait for the device:
there, an index wraps around.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..errors import DtypeError, ShapeError
from ..tape import op
from ..tensor import Tensor, wrap
from .elementwise import add, neg, sum_to
from .reduce import positive_axis

# ---- what an index is


def _part(part: Any) -> Any:
    """One entry of an index, with tensors and lists made arrays."""
    if isinstance(part, Tensor):
        part = part.data
    elif isinstance(part, (list, range)):
        part = np.asarray(part, dtype=None if len(part) else np.intp)
    if hasattr(part, "dtype") and part.dtype.kind not in "iub":
        raise DtypeError(f"an index holds integers or booleans, not {part.dtype}.")
    return part


def _prepare_index(*arrays, index, **attrs):
    if type(index) is tuple:
        index = tuple([_part(p) for p in index])
    elif type(index) is not int and type(index) is not slice:
        index = _part(index)
    return {"index": index, **attrs}


def _is_list(part: Any) -> bool:
    """Is this entry an integer array, which alone may name a place twice?"""
    return hasattr(part, "dtype") and part.dtype.kind in "iu" and part.size > 1


def _may_repeat(index: Any) -> bool:
    return any(_is_list(p) for p in (index if type(index) is tuple else (index,)))


def _check_integers(indices) -> None:
    if not isinstance(indices, int) and indices.dtype.kind not in "iu":
        raise DtypeError(f"the indices must be integers, not {indices.dtype}.")


# ---- sums over repeated indices


def _add_rows(xp, n: int, ids, rows):
    """y (n, F) = 0, then y[ids[k]] += rows[k] for k = 0, 1, …; ids (m,) in [−n, n), rows (m, F)."""
    if xp is not np:
        from ..kernels.scatter import cuda

        return cuda.add_rows(n, xp.asarray(ids), rows)
    ids = np.where(ids < 0, ids + n, ids) if ids.dtype.kind == "i" else ids
    m = len(ids)
    if m and (ids.min() < 0 or ids.max() >= n):
        bad = ids[(ids < 0) | (ids >= n)][0]
        raise IndexError(f"index {bad - n if bad < 0 else bad} is out of bounds for size {n}")
    from scipy.sparse import csc_array

    # column k holds a single one, in row ids[k]: the product walks over k and adds row k where it belongs
    ones = np.ones(m, rows.dtype)
    return csc_array((ones, ids.astype(np.int64, copy=False), np.arange(m + 1)), shape=(n, m)) @ rows


# ---- getitem


@op(flops=lambda x, index: 0, prepare=_prepare_index)
def getitem(xp, x, *, index):
    """y = x[index], as in NumPy: integers, slices, …, None, boolean masks, integer arrays or Tensors.

    A view of x for integers and slices, else a copy."""
    return x[index]


@op(flops=lambda values, index, shape: values.size, prepare=_prepare_index)
def scatter_at(xp, values, *, index, shape):
    """y = zeros of `shape`, with y[index] += values, repeated places summed; the adjoint of getitem."""
    if not _may_repeat(index):
        y = xp.zeros(shape, values.dtype)
        y[index] = values
        return y
    (rows, *rest) = index if type(index) is tuple else (index,)
    if _is_list(rows) and not rest:
        n, rows = shape[0], rows.ravel()
    else:
        n, rest = math.prod(shape), shape
        rows = _places(xp, shape, index).ravel()
    width = math.prod(shape) // n if n else 0
    return _add_rows(xp, n, rows, values.reshape(len(rows), width)).reshape(shape)


getitem.vjp(x=lambda g, index, x_shape: scatter_at(g, index=index, shape=x_shape))
scatter_at.vjp(values=lambda g, index: getitem(g, index=index))


# ---- gather along an axis


def _prepare_take(x, indices, *, axis):
    _check_integers(indices)
    return {"axis": positive_axis("take", axis, x.ndim)}


def _prepare_scatter(values, indices, *, axis, size):
    _check_integers(indices)
    shape = np.shape(indices)
    axis = positive_axis("scatter", axis, values.ndim - len(shape) + 1)
    if values.shape[axis : axis + len(shape)] != shape:
        raise ShapeError(f"scatter needs values that hold the indices' axes {shape} at axis {axis}.")
    return {"axis": axis, "size": size}


@op(flops=lambda x, indices, axis: 0, prepare=_prepare_take)
def take(xp, x, indices, *, axis=0):
    """y[…, k…, …] = x[…, indices[k…], …]: the axes of `indices` stand where `axis` was."""
    return x.take(indices, axis=axis)


@op(flops=lambda values, indices, axis, size: values.size, prepare=_prepare_scatter)
def scatter(xp, values, indices, *, axis=0, size):
    """y = zeros, `size` long along `axis`; y[…, indices[k…], …] += values[…, k…, …]; the adjoint of take."""
    indices = xp.asarray(indices)
    before, after = values.shape[:axis], values.shape[axis + indices.ndim :]
    a, m, b = math.prod(before), indices.size, math.prod(after)
    rows = values.reshape(a, m, b).swapaxes(0, 1).reshape(m, a * b)
    y = _add_rows(xp, size, indices.ravel(), rows)
    return xp.ascontiguousarray(y.reshape(size, a, b).swapaxes(0, 1)).reshape(*before, size, *after)


take.vjp(x=lambda g, indices, axis, x_shape: scatter(g, indices, axis=axis, size=x_shape[axis]))
scatter.vjp(values=lambda g, indices, axis: take(g, indices, axis=axis))


def embedding(weight: Tensor, ids) -> Tensor:
    """The rows weight[ids]; weight (V, F) float, ids integers of any shape, result (*ids.shape, F).

    Raises DtypeError for ids that are not integers, and IndexError (on the CPU) for one not in [−V, V)."""
    if weight.ndim != 2:
        raise ShapeError(f"embedding needs a weight (V, F) with one row for each id, got {weight.shape}.")
    return take(weight, ids, axis=0)


def scatter_add(x: Tensor, indices, values: Tensor, axis: int = 0) -> Tensor:
    """x with x[…, indices[k…], …] += values[…, k…, …]; repeated indices are summed. Returns a new tensor.

    values has the shape of take(x, indices, axis). Raises ShapeError where it has not."""
    axis = positive_axis("scatter_add", axis, x.ndim)
    return add(x, scatter(values, indices, axis=axis, size=x.shape[axis]))


# ---- one index for each place


def _prepare_along(x, indices, *, axis, **attrs):
    _check_integers(indices)
    axis = positive_axis("an index along an axis", axis, x.ndim)
    if x.shape[:axis] != indices.shape[:axis] or x.shape[axis + 1 :] != indices.shape[axis + 1 :]:
        raise ShapeError(f"the indices need the shape of x but for axis {axis}; {indices.shape}, {x.shape}.")
    return {"axis": axis, **attrs}


def _grid(xp, indices, axis: int) -> tuple:
    """The index that names, for each entry of `indices`, that place along `axis`, its own along the
    others."""
    return tuple(
        indices if d == axis else xp.arange(n).reshape([-1 if e == d else 1 for e in range(indices.ndim)])
        for d, n in enumerate(indices.shape)
    )


@op(flops=lambda x, indices, axis: 0, prepare=_prepare_along)
def take_along_axis(xp, x, indices, *, axis):
    """y[i, …, k, …] = x[i, …, indices[i, …, k, …], …]; `indices` has the shape of x except along `axis`."""
    return x[_grid(xp, indices, axis)]


@op(flops=lambda values, indices, axis, size: values.size, prepare=_prepare_along)
def scatter_along_axis(xp, values, indices, *, axis, size):
    """y = zeros, `size` long along `axis`, with `values` added where take_along_axis takes from; its
    adjoint."""
    shape = (*values.shape[:axis], size, *values.shape[axis + 1 :])
    if indices.shape[axis] == 1:  # no place is named twice
        y = xp.zeros(shape, values.dtype)
        y[_grid(xp, indices, axis)] = values
        return y
    places = _places(xp, shape, _grid(xp, indices, axis))
    return _add_rows(xp, math.prod(shape), places.ravel(), values.reshape(-1, 1)).reshape(shape)


take_along_axis.vjp(
    x=lambda g, indices, axis, x_shape: scatter_along_axis(g, indices, axis=axis, size=x_shape[axis])
)
scatter_along_axis.vjp(values=lambda g, indices, axis: take_along_axis(g, indices, axis=axis))


# ---- put


@op(flops=lambda x, values, index: 0, prepare=_prepare_index)
def put(xp, x, values, *, index):
    """y = x, except y[index] = values (broadcast); x itself is left as it is.

    Where integer arrays name a place twice, the last value stays."""
    y = xp.array(x, order="C")
    there = y[index].shape
    if np.ndim(values) > len(there):
        raise ShapeError(f"put needs values that broadcast to {there}, the shape of x[index].")
    if xp is not np and np.size(values) > 1 and _may_repeat(index):  # a GPU by itself keeps any one of them
        from ..kernels.scatter import cuda

        values = xp.broadcast_to(values.astype(y.dtype, copy=False), there)
        cuda.put_last(y, _places(xp, y.shape, index).ravel(), values.ravel())
    else:
        y[index] = values
    return y


def _places(xp, shape, index):
    """Which elements of an array of `shape` the index takes, counted as they lie in memory."""
    return xp.arange(math.prod(shape)).reshape(shape)[index]


def _put_values(g: Tensor, index, x_shape, values_shape) -> Tensor:
    gv = getitem(g, index=index)
    if _may_repeat(index):  # values that were overwritten by a later one have no say
        places = _places(backend.array_module([g.data]), x_shape, index)
        gv = gv * wrap(_last_of_each(math.prod(x_shape), places).astype(g.dtype), None)
    return gv if gv.shape == values_shape else sum_to(gv, shape=values_shape)


def _last_of_each(n: int, places):
    """Is the place, of n, not named again further on?"""
    if not isinstance(places, np.ndarray):
        from ..kernels.scatter import cuda

        return cuda.last_of_each(n, places.ravel()).reshape(places.shape)
    writer, turns = np.zeros(n, np.int64), np.arange(places.size).reshape(places.shape)
    writer[places] = turns
    return writer[places] == turns


put.vjp(x=lambda g, index: put(g, 0.0, index=index), values=_put_values)


def put_along_axis(x: Tensor, indices, values, axis: int) -> Tensor:
    """x, except that the places of take_along_axis(x, indices, axis) hold `values` (broadcast). A new tensor.

    Raises ShapeError where `indices` has not the shape of x except along `axis`; a place that is named twice
    keeps the last value."""
    indices = _part(indices)
    axis = _prepare_along(x.data, indices, axis=axis)["axis"]
    return put(x, values, index=_grid(backend.array_module([indices]), indices, axis))


# ---- labels and orders: piecewise constant, so without a gradient


def _prepare_one_hot(ids, *, classes, dtype):
    if not isinstance(ids, int) and ids.dtype.kind not in "iu":
        raise DtypeError(f"one_hot needs integer ids, not {ids.dtype}.")
    return {"classes": classes, "dtype": np.dtype(dtype)}


@op(flops=lambda ids, classes, dtype: np.size(ids) * classes, prepare=_prepare_one_hot)
def one_hot(xp, ids, *, classes, dtype=np.float32):
    """y[…, c] = 1 where ids[…] = c, else 0; 0 <= c < classes. IndexError (on the CPU) for an id outside."""
    ids = xp.asarray(ids)
    if xp is np and ids.size and not (0 <= ids.min() and ids.max() < classes):
        bad = ids[(ids < 0) | (ids >= classes)].flat[0] if ids.ndim else ids
        raise IndexError(f"one_hot: id {bad} is out of bounds for {classes} classes")
    return (ids[..., None] == xp.arange(classes)).astype(dtype)


@op(flops=lambda x, axis: x.size * math.ceil(math.log2(max(2, x.shape[axis]))),
    prepare=lambda x, *, axis: {"axis": positive_axis("argsort", axis, x.ndim)})
def argsort(xp, x, *, axis=-1):
    """The permutation that sorts x along `axis`, smallest first; ties stay in order."""
    return xp.argsort(x, axis=axis, kind="stable")


one_hot.vjp(ids=None)
argsort.vjp(x=None)


def sort(x: Tensor, axis: int = -1) -> Tensor:
    """x sorted along `axis`, smallest first; the gradient goes back through the permutation."""
    return take_along_axis(x, argsort(x, axis=axis), axis=axis)


def topk(x: Tensor, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest entries along `axis`, largest first, and their positions. Raises ShapeError for more than
    there are."""
    axis = positive_axis("topk", axis, x.ndim)
    if not 0 <= k <= x.shape[axis]:
        raise ShapeError(f"topk: there are no {k} entries along axis {axis} of {x.shape}.")
    order = getitem(argsort(neg(x), axis=axis), index=(slice(None),) * axis + (slice(k),))
    return take_along_axis(x, order, axis=axis), order
