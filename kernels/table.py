"""Many arrays in one call: an optimiser's parameters, small ones mostly, as one long row of numbers.

A compiled function gets a table of the arrays' addresses, a row for each parameter, and where each begins in the row;
a piece of the row then runs through several parameters, or lies inside one. Calling once for each would cost more than
the arithmetic on most of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run

_BLOCK = 16384  # numbers whose squares are summed together: the sums do not depend on the number of threads
PIECE = 8192  # numbers of a piece of an update, some 10 µs

Columns = list[list[np.ndarray]]


class Table:
    """The arrays of one update: `addresses`, a row [p, g, *state] for each parameter, p standing in for what is None;
    `starts`, where each parameter begins in the long row, and where the last ends; `like`, an empty array of their
    dtype; `arrays`, the columns themselves, so that they live as long as their addresses."""

    def __init__(self, columns: Columns):
        self.arrays = columns
        self.addresses = np.array([[_address(a) for a in column] for column in columns], np.int64).T.copy()
        self.starts = np.zeros(len(columns[0]) + 1, np.int64)
        np.cumsum([a.size for a in columns[0]], out=self.starts[1:])
        self.like = np.empty(0, columns[0][0].dtype)


def _address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


def tables(kernel: str, memo: dict | None, p, g, *state) -> list[Table]:
    """A Table for each dtype among the parameters. An argument is an array, a list of them, or None.

    memo: a dict of the caller's in which the tables are kept, so that while p and the state are the same arrays as the
    last time only the gradients are looked at. Raises ValueError or TypeError for arrays that do not fit.
    """
    columns = [[a] if isinstance(p, np.ndarray) else [None] * len(p) if a is None else list(a) for a in (p, g, *state)]
    fixed = [columns[0], *columns[2:]]
    grads = [_gradient(kernel, q, slope) for q, slope in zip(columns[0], columns[1], strict=True)]
    if memo and all(a is b for new, old in zip(fixed, memo["arrays"], strict=True) for a, b in zip(new, old)):
        for found, members in zip(memo["tables"], memo["members"]):
            found.arrays[1] = [grads[k] for k in members]
            found.addresses[:, 1] = [_address(a) for a in found.arrays[1]]
        return memo["tables"]
    groups: dict[np.dtype, list[int]] = {}
    for k, (q, *others) in enumerate(zip(*fixed, strict=True)):
        shape, dtype = q.shape, q.dtype
        if dtype.char not in "fd":
            raise TypeError(f"{kernel} updates float32 or float64 parameters, not {dtype}.")
        for a in (q, *others):
            if a is not None and (a.dtype != dtype or a.shape != shape or not a.flags.carray):
                raise ValueError(
                    f"{kernel} updates in place: parameter and state must be writeable C-contiguous arrays of one "
                    f"shape and dtype, but the parameter is {shape} {dtype} and one is {a.shape} {a.dtype}, "
                    f"writeable={a.flags.writeable}, contiguous={a.flags.c_contiguous}.")
        groups.setdefault(dtype, []).append(k)
    own = columns[0]
    full: list[list] = [own, grads, *([q if a is None else a for q, a in zip(own, c)] for c in columns[2:])]
    made = [Table([[column[k] for k in members] for column in full]) for members in groups.values()]
    if memo is not None:
        memo.update(arrays=fixed, tables=made, members=list(groups.values()))
    return made


def _gradient(kernel: str, p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """g, contiguous. Raises ValueError if it is not p's."""
    if g.shape != p.shape or g.dtype != p.dtype:
        raise ValueError(f"{kernel} got a gradient {g.shape} {g.dtype} for a parameter {p.shape} {p.dtype}.")
    return g if g.flags.c_contiguous else np.array(g, order="C")


@intrinsic
def _pointer(typing, address, like):
    """The address as a pointer to numbers of like's type."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


@njit(nogil=True, error_model="numpy")
def owner(starts, i):
    """The largest k with starts[k] <= i < starts[-1]."""
    low, high = 0, starts.size - 1
    while low + 1 < high:
        middle = (low + high) // 2
        if starts[middle] <= i:
            low = middle
        else:
            high = middle
    return low


@njit(nogil=True, error_model="numpy")
def at(address, start, count, like):
    """The `count` numbers from number `start` on of the array at this address."""
    return carray(_pointer(address + start * like.itemsize, like), count)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})
def _squares(addresses, sizes, starts, like, sums, first, last):
    for block in range(first, last):
        k = owner(starts, block)
        begin = (block - starts[k]) * _BLOCK
        x = at(addresses[k], begin, min(_BLOCK, sizes[k] - begin), like)
        total = 0.0
        for i in range(x.size):
            total += np.float64(x[i]) * np.float64(x[i])
        sums[block] = total


_square_sums = loop(_squares)


@njit(cache=True, nogil=True)
def _squares_all(team, pieces, n, addresses, sizes, starts, like, sums):
    divide(team, pieces, n, _square_sums((addresses, sizes, starts, like, sums)))


def squares(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """‖a‖² of each, in float64: not finite only where a number is not."""
    found = np.zeros(len(arrays))
    for dtype in {a.dtype for a in arrays}:
        these = [k for k, a in enumerate(arrays) if a.dtype == dtype and a.size]
        if not these:
            continue
        kept = [np.ascontiguousarray(arrays[k]) for k in these]
        like, addresses = np.empty(0, dtype), np.array([_address(a) for a in kept], np.int64)
        sizes = np.array([a.size for a in kept], np.int64)
        starts = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(-(-sizes // _BLOCK), out=starts[1:])
        sums = np.empty(starts[-1])
        run(_squares_all, len(sums), addresses, sizes, starts, like, sums)
        found[these] = np.add.reduceat(sums, starts[:-1])
    return found
