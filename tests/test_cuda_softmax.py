"""The CUDA softmax kernels: the formulas of their README in float64, over short, long and odd rows."""

import numpy as np
import pytest

from tinygen.kernels import softmax as kernel

# lengths for every kind of plan: parts of a warp, whole warps, blocks, rows that are not held
LENGTHS = [1, 3, 32, 100, 129, 509, 512, 1024, 2049]
LONG = [8192, 10001]


def rows(seed, shape, spread=3.0, about=0.0):
    return (about + spread * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def log_softmax64(x):
    x = x.astype(np.float64)
    top = x.max(-1, keepdims=True)
    top[~np.isfinite(top)] = 0
    total = np.exp(x - top).sum(-1, keepdims=True)
    return x - top - np.log(total + (total == 0))


def check(xp, K, R=3, about=0.0):
    """Every function against its formula, within the budgets of the README."""
    x, g, s = rows(K, (R, K), about=about), rows(K + 1, (R, K), 1.0), rows(K + 2, (R,), 1.0)
    labels = np.random.default_rng(K).integers(0, K, R)
    X, G, S, L = (xp.asarray(a) for a in (x, g, s, labels))
    log, y, log_y = log_softmax64(x), kernel.softmax(X), kernel.log_softmax(X)
    p = np.exp(log)
    assert (abs(xp.asnumpy(y) - p) <= 4e-7 * p * (2 + abs(log)) + 1e-37).all()
    assert (abs(xp.asnumpy(log_y) - log) <= 4e-7 * np.maximum(1, abs(log))).all()
    y32, log32 = xp.asnumpy(y).astype(np.float64), xp.asnumpy(log_y).astype(np.float64)
    pulled = y32 * (g - (g * y32).sum(-1, keepdims=True))
    assert abs(xp.asnumpy(kernel.softmax_pull(G, y)) - pulled).max() <= 4e-7 * abs(g).max()
    whole = g.sum(-1, keepdims=True, dtype=np.float64)
    scale = max(abs(g).max(), abs(g).sum(-1).max() / 10)
    assert abs(xp.asnumpy(kernel.log_softmax_pull(G, log_y)) - (g - np.exp(log32) * whole)).max() <= 4e-7 * scale
    loss, hint = kernel.cross_entropy_forward(X, L)
    law = -log[np.arange(R), labels]
    assert (abs(xp.asnumpy(loss) - law) <= 4e-7 * np.maximum(1, law)).all()
    gx = s[:, None] * (p - (np.arange(K) == labels[:, None]))
    assert abs(xp.asnumpy(kernel.cross_entropy_backward(S, X, L, hint=hint)) - gx).max() <= 6e-7 * abs(s).max()


@pytest.mark.tiny
@pytest.mark.parametrize("K", [10, 256, 516])
def test_rows(xp, K):
    check(xp, K)


@pytest.mark.parametrize("K", LENGTHS)
def test_rows_of_many_lengths(xp, K):
    check(xp, K, 9)


@pytest.mark.parametrize("K", LONG)
def test_long_rows(xp, K):
    check(xp, K, 2)


def test_far_from_zero_and_many_rows(xp):
    check(xp, 10, 1000, 1000.0)


def test_other_shapes(xp):
    x = rows(0, (2, 5, 3, 12))
    assert kernel.softmax(xp.asarray(x)).shape == x.shape
    turned = kernel.softmax(xp.asarray(x).transpose(0, 3, 1, 2))
    straight = kernel.softmax(xp.asarray(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    assert np.array_equal(xp.asnumpy(turned), xp.asnumpy(straight))
    for empty in ((0, 5), (5, 0)):
        assert kernel.softmax(xp.zeros(empty, np.float32)).shape == empty
        labels = xp.zeros(empty[:1], np.int64)
        loss, hint = kernel.cross_entropy_forward(xp.zeros((0, 5), np.float32), xp.zeros((0,), np.int64))
        assert loss.shape == (0,)
        assert kernel.softmax_pull(xp.zeros(empty, np.float32), xp.zeros(empty, np.float32)).shape == empty
        assert labels.shape == empty[:1]
    small = xp.asarray(np.array([1, 2], np.int32))
    loss, _ = kernel.cross_entropy_forward(xp.zeros((2, 4), np.float32), small)
    np.testing.assert_allclose(xp.asnumpy(loss), np.log(4), rtol=1e-6)


@pytest.mark.parametrize("K", [12, 2049])
def test_infinities_and_nans(xp, K):
    x = rows(1, (5, K))
    x[0] = -np.inf
    x[1, 3:] = -np.inf
    x[2, 5] = np.nan
    x[3, 2] = np.inf
    y, log_y = (xp.asnumpy(f(xp.asarray(x))) for f in (kernel.softmax, kernel.log_softmax))
    assert (y[0] == 0).all() and (log_y[0] == -np.inf).all()
    assert (y[1, 3:] == 0).all() and abs(y[1].sum() - 1) < 1e-6 and np.isfinite(log_y[1, :3]).all()
    assert np.isnan(y[2]).all() and np.isnan(log_y[2]).all()
    assert np.isnan(y[3, 2])
    assert np.isfinite(y[4]).all() and np.isfinite(log_y[4]).all()
    pulled = kernel.softmax_pull(xp.asarray(rows(2, (5, K))), xp.asarray(y))
    assert (xp.asnumpy(pulled)[0] == 0).all()


def test_a_label_that_is_no_class(xp):
    x = xp.asarray(rows(3, (4, 7)))
    loss = xp.asnumpy(kernel.cross_entropy_forward(x, xp.asarray(np.array([0, 7, -1, 6])))[0])
    assert np.isnan(loss).tolist() == [False, True, True, False]


def test_the_same_bits_again(xp):
    for K in (100, 2049):
        x, g = xp.asarray(rows(4, (6, K))), xp.asarray(rows(5, (6, K)))
        once, again = ([kernel.softmax(x), kernel.softmax_pull(g, x), kernel.log_softmax_pull(g, x)] for _ in range(2))
        assert all(np.array_equal(xp.asnumpy(a), xp.asnumpy(b)) for a, b in zip(once, again))


def test_capture(xp):
    x, labels = xp.asarray(rows(6, (5, 10))), xp.asarray(np.arange(5))
    g = xp.ones((5,), np.float32)

    def step():
        loss, hint = kernel.cross_entropy_forward(x, labels)
        y = kernel.softmax(x)
        return loss, kernel.cross_entropy_backward(g, x, labels, hint=hint), kernel.softmax_pull(x, y)

    step()
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        captured = step()
        graph = stream.end_capture()
    for factor in (1.0, 0.5):
        x *= factor
        graph.launch()
        xp.cuda.Device(0).synchronize()
        for a, b in zip(captured, step()):
            assert np.array_equal(xp.asnumpy(a), xp.asnumpy(b))


def test_float64_is_for_the_law(xp):
    with pytest.raises(TypeError, match="float64"):
        kernel.softmax(xp.zeros((2, 3), np.float64))
