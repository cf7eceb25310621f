"""Nearest neighbours and balls around them: the speed of float32 products, the answers of float64 subtraction.

Distances are first bounded from products in float32; what a bound cannot decide is computed again from the features as
they came. So neighbours, radii and counts are exact: a copy is at distance 0, and no sample is in or out of a ball by
rounding of an expansion. The derivation of the bound is in _neighbour_loops.py.
"""

from typing import Any

import numpy as np

from tinygen.errors import ShapeError
from tinygen.kernels.threads import share

from ._arrays import Array
from ._blas import product

TILE = 1024  # rows and columns of a tile of products: 4 MB in float32
STRIP = 64  # rows centred and rounded at once
SPARE = 4  # neighbours kept beyond k, so that the k-th is certain


def _loops() -> Any:
    from . import _neighbour_loops  # here, so that Numba is loaded by the first call and not by import

    return _neighbour_loops


class _Single:
    """One or two sets of features, centred and scaled together, in float32; and the constants of the bound."""

    def __init__(self, *sets: Array):
        centre = sets[0].mean(0)
        most = 2 * max(float(np.abs([x.max(0, initial=0), x.min(0, initial=0)]).max()) for x in sets)
        # a power of two changes no digit; with lengths of at most 1, nothing overflows
        self.scale = 2.0 ** -np.ceil(np.log2(most * np.sqrt(centre.size))) if most > 0 else 1.0
        self.features = [np.empty(x.shape, np.float32) for x in sets]
        self.squares = [np.empty(len(x), np.float32) for x in sets]
        for x, single, squares in zip(sets, self.features, self.squares):

            def part(first: int, last: int, x=x, single=single, squares=squares) -> None:
                for i in range(first, last, STRIP):
                    rows = slice(i, min(i + STRIP, last))
                    y = (x[rows] - centre) * self.scale
                    single[rows] = y
                    squares[rows] = np.einsum("nd,nd->n", y, y)

            share(len(x), part, least=STRIP)
        unit = 2.0**-24
        self.c = np.float32(centre.size / 2 * unit / (1 - centre.size * unit) + 8 * unit)
        self.t = np.float32(centre.size * 2.0**-120)

    def to_ours(self, squared: Array) -> Array:
        """Squared distances of the features as they came, on this scale."""
        return squared * self.scale**2


def nearest(queries: Array, references: Array | None, k: int) -> tuple[Array, np.ndarray]:
    """The k smallest squared distances of each query, ascending, N,k, and whose they are, N,k.

    references None: among the other queries, never itself. Of neighbours equally far, any. Raises ShapeError if there
    are fewer than k.
    """
    others = queries if references is None else references
    if len(others) - (references is None) < k:
        raise ShapeError(f"{k} neighbours of each sample are asked for among {len(others) - (references is None)}.")
    loops = _loops()
    data = _Single(queries) if references is None else _Single(references, queries)
    b, square_b = data.features[0], data.squares[0]
    a, square_a = data.features[-1], data.squares[-1]
    starts = [(i, j) for i in range(0, len(a), TILE) for j in range(i if references is None else 0, len(b), TILE)]
    kept = k + SPARE
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def part(first: int, last: int) -> None:
        low, near = parts[first] = np.full((len(a), kept), np.inf, np.float32), np.full((len(a), kept), -1)
        for i, j in starts[first:last]:
            g = a[i : i + TILE] @ b[j : j + TILE].T
            mirror = 0 if references is not None else 2 if i == j else 1
            squares = square_a[i : i + TILE], square_b[j : j + TILE]
            loops.keep_nearest(g, *squares, data.c, data.t, i, j, mirror, low, near)

    share(len(starts), part)
    low, near = (np.concatenate([parts[first][z] for first in sorted(parts)], 1) for z in (0, 1))
    order = np.argsort(low, axis=1, kind="stable")[:, :kept]
    low, near = np.take_along_axis(low, order, 1), np.take_along_axis(near, order, 1)
    found = np.empty(near.shape)
    share(len(near), lambda i, j: loops.measure(queries[i:j], others, near[i:j], found[i:j]))
    order = np.argsort(found, axis=1, kind="stable")[:, :k]
    found, near = np.take_along_axis(found, order, 1), np.take_along_axis(near, order, 1)
    # a sample that was dropped is no nearer than the last that was kept
    unsure = (data.to_ours(found[:, -1]) > low[:, -1]) & (found[:, -1] > 0)
    for rows in np.array_split(np.flatnonzero(unsure), -(-int(unsure.sum()) // TILE)) if unsure.any() else ():
        _settle(queries, others, rows, references is None, found, near)
    return found, near


def _settle(queries: Array, others: Array, rows: np.ndarray, same: bool, found: Array, near: np.ndarray) -> None:
    """The same for some rows, from products in float64, whose bound is 2²⁹ times as narrow."""
    loops = _loops()
    k = found.shape[1]
    centre = others.mean(0)
    a, b = queries[rows] - centre, others - centre
    square_a, square_b = (a * a).sum(1), (b * b).sum(1)
    tau = (centre.size / 2 + 8) * 2.0**-53 * (np.sqrt(square_a)[:, None] + np.sqrt(square_b)) ** 2
    d = square_a[:, None] + square_b - 2 * product(a, b.T)
    if same:
        d[np.arange(len(rows)), rows] = np.inf
    limit = np.partition(d + tau, k - 1, axis=1)[:, k - 1 : k]
    for n, row in enumerate(rows):
        candidates = np.flatnonzero(d[n] - tau[n] <= limit[n])[None]
        exact = np.empty(candidates.shape)
        loops.measure(queries[row : row + 1], others, candidates, exact)
        order = np.argsort(exact[0], kind="stable")[:k]
        found[row], near[row] = exact[0, order], candidates[0, order]


def inside(
    real: Array, fake: Array, real_balls: Array, fake_balls: Array, closed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(for each fake, in how many real balls it lies; for each real, whether its ball holds a fake; for each real,
    whether it lies in a fake's ball). Balls: squared radii. closed: the surface belongs to the ball."""
    loops = _loops()
    data = _Single(real, fake)
    (a, b), (square_a, square_b) = data.features, data.squares
    ball_a, ball_b = data.to_ours(real_balls), data.to_ours(fake_balls)
    exact = real, fake, data.scale**2
    starts = [(i, j) for i in range(0, len(a), TILE) for j in range(0, len(b), TILE)]
    parts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def part(first: int, last: int) -> None:
        counts = parts[first] = np.zeros(len(b), np.int64), np.zeros(len(a), bool), np.zeros(len(a), bool)
        for i, j in starts[first:last]:
            g = a[i : i + TILE] @ b[j : j + TILE].T
            squares = square_a[i : i + TILE], square_b[j : j + TILE]
            loops.count_inside(g, *squares, data.c, data.t, i, j, *exact, ball_a, ball_b, closed, *counts)

    share(len(starts), part)
    each = list(parts.values())
    in_real = np.sum([p[0] for p in each], axis=0)
    return in_real, np.any([p[1] for p in each], axis=0), np.any([p[2] for p in each], axis=0)
