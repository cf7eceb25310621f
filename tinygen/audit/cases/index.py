"""Cases of ops/index.py."""

import numpy as np

from . import case


def _with(*arrays):
    """make: standard normal inputs for the shapes among `arrays`, the arrays as they are."""
    return lambda rng: tuple(rng.standard_normal(a) if isinstance(a, tuple) else a for a in arrays)


rows = np.array([2, 0, 2, -1])  # a repeated one, and one from the end: 2 and −1 are the same row of 3
mask = np.array([[True, False], [False, True], [True, True]])
for index in (1, slice(None, None, -2), (..., None, 0), mask, rows, rows[:, None] % 2, (slice(0), 1),
              (slice(None), rows % 2), (rows[:, None], np.array([1, 0, 1])), (mask[:, 0], rows[:2] % 2)):
    case("getitem", (3, 2), index=index)
    case("scatter_at", np.zeros((3, 2))[index].shape, index=index, shape=(3, 2))
    case("put", (3, 2), np.zeros((3, 2))[index].shape, index=index)
case("put", (3, 2), (), index=rows)
case("put", (3, 2), (1,), index=(slice(None), 0))
case("getitem", (0, 3), index=(slice(None), rows % 3))

for shape, ids, axis in (((3, 2, 4), rows, 0), ((3, 2, 4), rows.reshape(2, 2) % 2, 1), ((0, 3), rows, -1),
                         ((3, 4), np.zeros((0, 2), int), 0)):
    case("take", make=_with(shape, ids), axis=axis)
    axis %= len(shape)
    taken = (*shape[:axis], *ids.shape, *shape[axis + 1 :])
    case("scatter", make=_with(taken, ids), axis=axis, size=shape[axis])

along = np.array([[1, 0, 2], [1, 2, 2]])
case("take_along_axis", make=_with((4, 3), along), axis=0)
case("take_along_axis", make=_with((2, 5), along), axis=-1)
case("take_along_axis", make=_with((2, 5), along[:, :1]), axis=1)
case("scatter_along_axis", make=_with((2, 3), along), axis=0, size=4)
case("scatter_along_axis", make=_with((2, 3), along), axis=1, size=5)
case("scatter_along_axis", make=_with((2, 1), along[:, :1]), axis=1, size=5)

case("one_hot", make=_with(along), classes=4)
case("argsort", (3, 4))
case("argsort", (3, 4), axis=0)
