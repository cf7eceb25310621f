"""Sums into places and over rows on a device: against loops.py in float64, determinism, capture."""

import numpy as np
import pytest

from tinygen.kernels.scatter import cuda as K
from tinygen.kernels.scatter import loops

RNG = np.random.default_rng(5)


def ids_of(kind, n, m):
    if kind == "one":
        return np.full(m, n // 2)
    if kind == "few":
        return RNG.integers(0, 3, m) % n
    return RNG.integers(0, n, m)


@pytest.mark.parametrize("kind", ["any", "few", "one"])
@pytest.mark.parametrize("n,m,F", [(7, 33, 5), (1, 1, 1), (50, 96, 40), (1000, 1500, 2), (3, 64, 33), (5000, 700, 1)])
def test_sums_into_places(xp, n, m, F, kind):
    ids, rows = ids_of(kind, n, m), RNG.standard_normal((m, F)).astype(np.float32)
    y = xp.asnumpy(K.add_rows(n, xp.asarray(ids), xp.asarray(rows)))
    exact = loops.add_rows(n, ids, rows.astype(np.float64))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, rtol=1e-7, atol=1e-12)  # summed in float64, rounded once
    again = xp.asnumpy(K.add_rows(n, xp.asarray(ids), xp.asarray(rows)))
    assert y.tobytes() == again.tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_other_types_and_negative_places(xp, dtype):
    ids, rows = RNG.integers(-9, 9, 75).astype(np.int32), RNG.integers(-50, 50, (75, 3)).astype(dtype)
    y = xp.asnumpy(K.add_rows(9, xp.asarray(ids), xp.asarray(rows)))
    assert y.dtype == dtype and np.array_equal(y, loops.add_rows(9, ids % 9, rows))


def test_nothing_to_add(xp):
    for n, m, F in ((4, 0, 3), (4, 5, 0)):
        y = K.add_rows(n, xp.zeros(m, np.int64), xp.zeros((m, F), np.float32))
        assert y.shape == (n, F) and not xp.asnumpy(y).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_the_last_value_stays(xp, dtype):
    places = RNG.integers(0, 40, 130)
    values, y = RNG.integers(0, 2, 130).astype(dtype), RNG.integers(0, 2, (8, 5)).astype(dtype)
    there, last = xp.asarray(y), np.array([p not in places[k + 1 :] for k, p in enumerate(places)])
    K.put_last(there, xp.asarray(places), xp.asarray(values))
    loops.put_last(y.reshape(-1), places, values)
    assert np.array_equal(xp.asnumpy(there), y)
    assert np.array_equal(xp.asnumpy(K.last_of_each(40, xp.asarray(places))), last)


@pytest.mark.parametrize("shape", [
    (1, 3000, 128), (1, 1, 1), (3, 700, 5), (2, 9000, 1), (40, 17, 12), (1, 257, 300), (1, 100, 3)])  # fmt: skip
def test_sums_over_rows(xp, shape):
    x = (RNG.standard_normal(shape) + 1).astype(np.float32)
    y = xp.asnumpy(K.over_middle(xp.asarray(x)))
    exact, scale = x.sum(1, dtype=np.float64), np.abs(x).sum(1, dtype=np.float64)
    assert y.dtype == np.float32 and (np.abs(y - exact) <= 4e-7 * scale).all()
    assert y.tobytes() == xp.asnumpy(K.over_middle(xp.asarray(x))).tobytes()


def test_sums_over_axes(xp):
    x = RNG.standard_normal((3, 4, 5, 6)).astype(np.float32)
    for axis in ((0,), (3,), (0, 1, 2), (1, 2), (0, 2), (1, 3), (0, 1, 2, 3), (0, 3)):
        got = xp.asnumpy(K.total(xp.asarray(x), axis))
        np.testing.assert_allclose(got, x.sum(axis, keepdims=True, dtype=np.float64), rtol=1e-6, atol=1e-5)
    assert K.total(xp.zeros((3, 0, 2), np.float32), (1,)).shape == (3, 1, 2)
    assert K.total(xp.zeros((0, 4, 2), np.float32), (1,)).shape == (0, 1, 2)


def test_in_a_graph(xp):
    ids = xp.asarray(ids_of("few", 30, 1100))
    rows, places, y = xp.asarray(RNG.standard_normal((1100, 4)).astype(np.float32)), ids[:40], xp.zeros(30, np.float32)

    def work():
        K.put_last(y, places, rows[:40, 0])
        return K.add_rows(30, ids, rows), K.over_middle(rows.reshape(1, 1100, 4)), K.last_of_each(30, places), y.copy()

    with xp.cuda.Stream(non_blocking=True) as stream:
        work()
        stream.begin_capture()
        recorded = work()
        graph = stream.end_capture()
        for _ in range(2):
            rows *= np.float32(2)
            graph.launch()
            stream.synchronize()
            for a, b in zip(recorded, work()):
                assert xp.asnumpy(a).tobytes() == xp.asnumpy(b).tobytes()


@pytest.mark.tiny
def test_tiny(xp):
    ids, rows = ids_of("few", 7, 70), RNG.standard_normal((70, 3)).astype(np.float32)
    y = xp.asnumpy(K.add_rows(7, xp.asarray(ids), xp.asarray(rows)))
    np.testing.assert_allclose(y, loops.add_rows(7, ids, rows.astype(np.float64)), rtol=1e-6, atol=1e-6)
    x = RNG.standard_normal((2, 530, 4)).astype(np.float32)
    np.testing.assert_allclose(xp.asnumpy(K.over_middle(xp.asarray(x))), x.sum(1), rtol=1e-4, atol=1e-4)
    many = xp.asarray(np.arange(1100) % 9)
    assert xp.asnumpy(K.last_of_each(9, many)).nonzero()[0].tolist() == list(range(1091, 1100))


def test_operations_that_pick_and_put_in_a_graph(xp):
    """Their forwards, as a captured step calls them; put keeps the last of the values for a place."""
    from tinygen import ops

    x, g = xp.asarray(RNG.standard_normal((6, 5)).astype(np.float32)), xp.asarray(RNG.standard_normal((9, 5)))
    ids, g = xp.asarray(RNG.integers(-6, 6, 9)), g.astype(np.float32)
    along = xp.asarray(RNG.integers(0, 5, (6, 7)))

    def work():
        return (ops.scatter.forward(xp, g, ids, axis=0, size=6), ops.put.forward(xp, x, g, index=ids),
                ops.scatter_at.forward(xp, g, index=ids, shape=(6, 5)),
                ops.scatter_along_axis.forward(xp, along.astype(np.float32), along, axis=1, size=5),
                ops.pad.forward(xp, x, widths=((2, 1), (0, 3)), mode="reflect"))

    eager, last = work(), xp.asnumpy(x)
    for k, i in enumerate(xp.asnumpy(ids)):
        last[i] = xp.asnumpy(g)[k]
    assert np.array_equal(xp.asnumpy(eager[1]), last)
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        recorded = work()
        graph = stream.end_capture()
        graph.launch()
        stream.synchronize()
    for a, b in zip(recorded, eager):
        assert xp.asnumpy(a).tobytes() == xp.asnumpy(b).tobytes()
