"""Many arrays in one call: an optimiser's parameters, small ones mostly, as one long row of numbers.

A compiled function gets a table of the arrays' addresses, a row for each parameter, and where each begins in the row;
a piece of the row then runs through several parameters, or lies inside one. Calling once for each would cost more than
the arithmetic on most of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import run

_BLOCK = 16384  # numbers whose squares are summed together: the sums do not depend on the number of threads
PIECE = 8192  # numbers of a piece of an update, some 10 µs

Columns = list[list[np.ndarray]]


def grouped(kernel: str, p, g, *state) -> list[Columns]:
    """The arrays as columns [p, g, *state] of lists, once for each dtype among the parameters. An argument is an array,
    a list of them, or None; p stands in for what is None. Raises ValueError or TypeError for arrays that do not fit."""
    columns = [[a] if isinstance(p, np.ndarray) else [None] * len(p) if a is None else list(a) for a in (p, g, *state)]
    groups: dict[np.dtype, Columns] = {}  # rows, first
    for q, slope, *others in zip(*columns, strict=True):
        shape, dtype = q.shape, q.dtype
        if slope.shape != shape or slope.dtype != dtype:
            raise ValueError(f"{kernel} got a gradient {slope.shape} {slope.dtype} for a parameter {shape} {dtype}.")
        if dtype.char not in "fd":
            raise TypeError(f"{kernel} updates float32 or float64 parameters, not {dtype}.")
        for a in (q, *others):
            if a is not None and (a.dtype != dtype or a.shape != shape or not a.flags.carray):
                raise ValueError(
                    f"{kernel} updates in place: parameter and state must be writeable C-contiguous arrays of one "
                    f"shape and dtype, but the parameter is {shape} {dtype} and one is {a.shape} {a.dtype}, "
                    f"writeable={a.flags.writeable}, contiguous={a.flags.c_contiguous}.")
        if not slope.flags.c_contiguous:
            slope = np.array(slope, order="C")
        groups.setdefault(dtype, []).append([q, slope, *[q if a is None else a for a in others]])
    return [[list(column) for column in zip(*rows)] for rows in groups.values()]


def table(columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(addresses, a row for each parameter; where each begins in the long row, and where the last ends; an empty array
    of their dtype). The caller keeps the arrays alive."""
    addresses = np.array([[a.__array_interface__["data"][0] for a in column] for column in columns], np.int64)
    starts = np.zeros(len(columns[0]) + 1, np.int64)
    np.cumsum([a.size for a in columns[0]], out=starts[1:])
    return np.ascontiguousarray(addresses.T), starts, np.empty(0, columns[0][0].dtype)


@intrinsic
def _pointer(typing, address, like):
    """The address as a pointer to numbers of like's type."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


@njit(nogil=True, error_model="numpy")
def at(address, start, count, like):
    """The `count` numbers from number `start` on of the array at this address."""
    return carray(_pointer(address + start * like.itemsize, like), count)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})
def _squares(addresses, sizes, starts, like, sums, first, last):
    for block in range(first, last):
        k = np.searchsorted(starts, block, "right") - 1
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
        addresses, _, like = table([kept])
        sizes = np.array([a.size for a in kept], np.int64)
        starts = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(-(-sizes // _BLOCK), out=starts[1:])
        sums = np.empty(starts[-1])
        run(_squares_all, len(sums), addresses[:, 0].copy(), sizes, starts, like, sums)
        found[these] = np.add.reduceat(sums, starts[:-1])
    return found
