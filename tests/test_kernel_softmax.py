"""Softmax, log softmax, cross-entropy: loops = cpu = law, loops' gradients = finite differences, error budgets, rows of
infinities and NaN, odd arrays, threads."""

from types import SimpleNamespace

import numba
import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.kernels import softmax as K
from tinygen.kernels import threads
from tinygen.kernels.softmax import loops


def jitted():
    """The loops, compiled: copies of the functions, so that the module's own stay plain."""
    source = {"math": loops.math, "np": np}
    for name in ("_log_sum", "softmax", "softmax_pull", "log_softmax", "log_softmax_pull", "cross_entropy",
                 "cross_entropy_pull"):  # fmt: skip
        made = getattr(loops, name)
        source[name] = numba.njit(type(made)(made.__code__, source))
    return SimpleNamespace(**source)


L = jitted()
WIDTHS = [1, 2, 3, 10, 17, 100, 512, 513, 1000, 3001]


def case(R, K, dtype=np.float32, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = (3 * rng.standard_normal((R, K)) + offset).astype(dtype)
    g, c = rng.standard_normal((R, K)).astype(dtype), rng.standard_normal(R).astype(dtype)
    return x, g, c, rng.integers(0, K, R)


def run(x, g, c, labels):
    p, log_p = K.softmax(x), K.log_softmax(x)
    y, hint = K.cross_entropy_forward(x, labels)
    return (p, K.softmax_pull(g, p), log_p, K.log_softmax_pull(g, log_p), y,
            K.cross_entropy_backward(c, x, labels, hint=hint))  # fmt: skip


def reference(x, g, c, labels, p, log_p):
    return (L.softmax(x), L.softmax_pull(g, p), L.log_softmax(x), L.log_softmax_pull(g, log_p),
            L.cross_entropy(x, labels), L.cross_entropy_pull(c, x, labels))  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("width", WIDTHS)
def test_float64_equals_loops(width, offset):
    inputs = case(7, width, np.float64, offset)
    got = run(*inputs)
    for have, need in zip(got, reference(*inputs, got[0], got[2]), strict=True):
        np.testing.assert_allclose(have, need, rtol=1e-12, atol=1e-12)
        assert have.dtype == np.float64


@pytest.mark.parametrize("offset", [0.0, 1000.0, -1000.0])
@pytest.mark.parametrize("width", WIDTHS)
def test_float32_keeps_its_budget(width, offset):
    x, g, c, labels = case(50, width, offset=offset)
    got = run(x, g, c, labels)
    p, gp, log_p, g_log, y, gx = reference(x.astype(float), g.astype(float), c.astype(float), labels,
                                           got[0].astype(float), got[2].astype(float))
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in got)
    assert np.all(np.abs(got[0] - p) <= 2e-7 * p * (2 + np.abs(log_p)) + 1e-37)
    assert np.all(np.abs(got[2] - log_p) <= 3e-7 * np.maximum(1, np.abs(log_p)))
    assert np.all(np.abs(got[4] - y) <= 3e-7 * np.maximum(1, y))
    np.testing.assert_allclose(got[1], gp, rtol=0, atol=3e-7 * np.abs(g).max())
    np.testing.assert_allclose(got[3], g_log, rtol=0, atol=3e-7 * max(np.abs(g).max(), np.abs(g.sum(1)).max()))
    np.testing.assert_allclose(got[5], gx, rtol=0, atol=3e-7 * np.abs(c).max())


def test_loops_gradients_are_derivatives():
    x, g, c, labels = case(2, 5, np.float64)
    gradients = {"softmax": L.softmax_pull(g, L.softmax(x)), "log_softmax": L.log_softmax_pull(g, L.log_softmax(x)),
                 "cross_entropy": L.cross_entropy_pull(c, x, labels)}  # fmt: skip
    for name, gradient in gradients.items():
        args, weight = ((labels,), c) if name == "cross_entropy" else ((), g)
        for i in np.ndindex(x.shape):
            kept, sums = x[i], []
            for h in (1e-5, -1e-5):
                x[i] = kept + h
                sums.append(np.sum(weight * getattr(L, name)(x, *args)))
            x[i] = kept
            assert gradient[i] == pytest.approx((sums[0] - sums[1]) / 2e-5, abs=1e-9)


def test_the_plain_python_loops_run_too():
    x, g, c, labels = case(2, 4, np.float64)
    np.testing.assert_allclose(loops.softmax(x), L.softmax(x), rtol=1e-14)
    np.testing.assert_allclose(loops.softmax_pull(g, x), L.softmax_pull(g, x), rtol=1e-14)
    np.testing.assert_allclose(loops.log_softmax(x), L.log_softmax(x), rtol=1e-14)
    np.testing.assert_allclose(loops.log_softmax_pull(g, x), L.log_softmax_pull(g, x), rtol=1e-14)
    np.testing.assert_allclose(loops.cross_entropy(x, labels), L.cross_entropy(x, labels), rtol=1e-14)
    np.testing.assert_allclose(loops.cross_entropy_pull(c, x, labels), L.cross_entropy_pull(c, x, labels), rtol=1e-14)


@pytest.mark.parametrize("op", [ops.softmax, ops.log_softmax])
def test_the_operation_in_float32_is_that_in_float64(op):
    """In float64 the operation is plain NumPy: the law. Orders 1 and 2, last axis and another."""
    x, g = np.random.default_rng(3).standard_normal((2, 4, 6, 5))
    for axis in (-1, 1):
        found = []
        for dtype in (np.float32, np.float64):
            t, c = tg.Tensor(x.astype(dtype), requires_grad=True), tg.Tensor(g.astype(dtype))
            y = op(t, axis=axis)
            first = tg.grad(y, t, c, create_graph=True)
            found.append([a.numpy() for a in (y, first, tg.grad(first, t, c))])
        for have, need in zip(*found, strict=True):
            assert have.dtype == np.float32
            np.testing.assert_allclose(have, need, rtol=0, atol=2e-6)


def test_cross_entropy_is_its_law():
    x, _, c, labels = case(6, 11)
    found = []
    for impl in ("kernel", "law"):
        t = tg.Tensor(x.reshape(2, 3, 11), requires_grad=True)
        y = ops.softmax_cross_entropy(t, labels.reshape(2, 3), impl=impl)
        found.append((y.numpy(), tg.grad(y, t, tg.Tensor(c.reshape(2, 3))).numpy()))
    for have, need in zip(*found, strict=True):
        assert have.dtype == np.float32 and have.shape == need.shape
        np.testing.assert_allclose(have, need, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_and_nan(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, 0, 1], [-inf, -inf, -inf], [0, nan, 1], [inf, 0, 1], [1e38, -1e38, 0], [5, 5, 5]], dtype)
    with np.errstate(all="ignore"):
        p, log_p = K.softmax(x), K.log_softmax(x)
        y, hint = K.cross_entropy_forward(x, np.array([0, 1, 2, 0, 0, 1]))
    np.testing.assert_allclose(p[0], [0, 1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-6)
    np.testing.assert_array_equal(p[1], [0, 0, 0])
    assert np.isnan(p[2]).all() and np.isnan(p[3]).any() and np.isnan(log_p[2]).all()
    np.testing.assert_array_equal(p[4], [1, 0, 0])
    np.testing.assert_allclose(p[5], [1 / 3] * 3, rtol=1e-6)
    assert log_p[0, 0] == -inf and (log_p[1] == -inf).all() and np.isfinite(log_p[5]).all()
    assert y[0] == inf and np.isnan(y[1]) and np.isnan(y[2]) and y[4] == 0
    gx = K.cross_entropy_backward(np.ones(6, dtype), x, np.array([0, 1, 2, 0, 0, 1]), hint=hint)
    np.testing.assert_allclose(gx[0], [-1, *p[0, 1:]], rtol=1e-6)
    assert np.isnan(gx[2]).all() and np.isfinite(gx[[0, 4, 5]]).all()
    assert not K.softmax_pull(np.ones_like(p), p)[1].any()


@pytest.mark.parametrize("shape", [(1,), (7,), (0, 3), (3, 0), (2, 3, 4), (2, 1, 3, 5)])
def test_every_shape(shape):
    x, g = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    labels = np.zeros(shape[:-1], np.int32)
    if 0 in shape:
        for a in (K.softmax(x), K.log_softmax(x), K.softmax_pull(g, x), K.log_softmax_pull(g, x)):
            assert a.shape == shape and a.dtype == np.float32
        return
    got = run(x, g, g[..., 0], labels)
    flat = run(x.reshape(-1, shape[-1]), g.reshape(-1, shape[-1]), g[..., 0].ravel(), labels.ravel())
    for have, need in zip(got, flat, strict=True):
        np.testing.assert_array_equal(have.reshape(need.shape), need)
    assert got[4].shape == shape[:-1] and got[5].shape == shape


def test_non_contiguous_and_read_only_inputs():
    x, g, c, labels = case(12, 30)
    want = run(x, g, c, labels)
    wide = np.zeros((30, 24), np.float32)
    wide[:, ::2] = x.T
    frozen = np.broadcast_to(labels.astype(np.uint8), (1, 12))[0]
    got = run(wide[:, ::2].T, np.asfortranarray(g), c[::-1].copy()[::-1], frozen)
    for have, need in zip(got, want, strict=True):
        np.testing.assert_array_equal(have, need)


def test_results_do_not_depend_on_threads():
    inputs = case(301, 777)
    before = threads.get_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            threads.set_threads(count)
            results.append(run(*inputs))
    finally:
        threads.set_threads(before)
    for other in results[1:]:
        for have, need in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(have, need)


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="float32 or float64, not int64"):
        K.softmax(np.arange(3))
    with pytest.raises(TypeError, match="and was given a builtins.list"):
        K.log_softmax([1.0])
