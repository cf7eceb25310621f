"""Reductions: values and gradients, accuracy of long float32 sums, extremes, ties, messages."""

import re
import warnings

import numpy as np
import pytest
from parity import compare, torch_or_skip

import tinygen as tg
from tinygen import ops
from tinygen.ops.summation import total

RNG = np.random.default_rng(11)
AXES = [((2, 3, 5), axis) for axis in (None, 1, -1, (0, 2))] + [((4, 1), 0), ((0, 3), 1), ((7,), 0)]


def x(*shape):
    return RNG.standard_normal(shape)


def every(shape, axis):
    return tuple(range(len(shape))) if axis is None else axis


@pytest.mark.parametrize("shape, axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.filterwarnings("ignore:var")
def test_reductions_agree_with_pytorch(shape, axis, keepdims):
    torch = torch_or_skip()
    a = x(*shape)
    d = every(shape, axis)

    def both(ours, theirs, **attrs):
        compare(lambda t: ours(t, axis=axis, keepdims=keepdims, **attrs), theirs, a)

    both(ops.sum, lambda t: torch.sum(t, d, keepdim=keepdims))
    both(ops.mean, lambda t: torch.mean(t, d, keepdim=keepdims))
    both(ops.var, lambda t: torch.var(t, d, correction=0, keepdim=keepdims))
    both(ops.logsumexp, lambda t: torch.logsumexp(t, d, keepdim=keepdims))
    both(ops.norm, lambda t: (t.square().sum(d, keepdim=keepdims) + 0.1).sqrt(), eps=0.1)
    both(ops.max, lambda t: torch.amax(t, d, keepdim=keepdims))
    both(ops.min, lambda t: torch.amin(t, d, keepdim=keepdims))


def test_sample_variance_agrees_with_pytorch():
    compare(lambda t: ops.var(t, (0, 1), correction=1), lambda t: t.var((0, 1), correction=1), x(3, 4, 2))


@pytest.mark.parametrize("shape, axis", [((2, 3, 5), -1), ((2, 3, 5), 1), ((0, 3), 1), ((7,), 0)])
def test_softmax_and_cumsum_agree_with_pytorch(shape, axis):
    torch = torch_or_skip()
    compare(lambda t: ops.softmax(t, axis=axis), lambda t: torch.softmax(t, axis), x(*shape))
    compare(lambda t: ops.log_softmax(t, axis=axis), lambda t: torch.log_softmax(t, axis), x(*shape))
    compare(lambda t: ops.cumsum(t, axis=axis), lambda t: torch.cumsum(t, axis), x(*shape))
    backwards = lambda t: torch.flip(torch.cumsum(torch.flip(t, [axis]), axis), [axis])
    compare(lambda t: ops.cumsum(t, axis=axis, reverse=True), backwards, x(*shape))


def test_softmax_over_several_axes():
    y = ops.softmax(tg.Tensor(x(2, 3, 4)), axis=(0, 2)).numpy()
    np.testing.assert_allclose(y.sum((0, 2)), np.ones(3), rtol=1e-14)
    flat = ops.log_softmax(tg.Tensor(x(2, 3)), axis=None).numpy()
    np.testing.assert_allclose(np.exp(flat).sum(), 1.0, rtol=1e-14)


def test_ties_share_the_gradient():
    t = tg.Tensor(np.array([[3.0, 1.0, 3.0], [0.0, 0.0, 0.0]]), requires_grad=True)
    assert tg.grad(ops.max(t, axis=1).sum(), t).numpy().tolist() == [[0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    assert tg.grad(ops.min(t), t).numpy().tolist() == [[0, 0, 0], [1 / 3, 1 / 3, 1 / 3]]


def test_positions_of_extremes():
    a = x(3, 4, 5)
    for name in ("argmax", "argmin"):
        for axis in (None, 0, -1):
            y = getattr(ops, name)(tg.Tensor(a, requires_grad=True), axis=axis)
            assert y.dtype == np.int64 and not y.requires_grad
            assert np.array_equal(y.numpy(), getattr(np, name)(a, axis=axis))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes(dtype):
    inf = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = np.array([[1000.0, 1000], [-1000, 0], [-inf, 2], [-inf, -inf]], dtype)
        t = tg.Tensor(rows, requires_grad=True)
        y = ops.logsumexp(t, axis=1)
        np.testing.assert_allclose(y.numpy(), [1000 + np.log(2), 0, 2, -inf], rtol=1e-6)
        assert tg.grad(y.sum(), t).numpy().tolist() == [[0.5, 0.5], [0, 1], [0, 1], [0, 0]]
        y = ops.softmax(t)
        assert y.numpy().tolist() == [[0.5, 0.5], [0, 1], [0, 1], [0, 0]]
        g = tg.grad((y * np.array([1, 2], dtype)).sum(), t)
        assert g.numpy().tolist() == [[-0.25, 0.25], [0, 0], [0, 0], [0, 0]]
        y = ops.log_softmax(t)
        half = np.log(dtype(2))
        expected = [[-half, -half], [-1000, 0], [-inf, 0], [-inf, -inf]]
        np.testing.assert_allclose(y.numpy(), expected, rtol=2 * np.finfo(dtype).eps)


def test_norm_at_zero():
    t = tg.Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    y = ops.norm(t, axis=1)
    np.testing.assert_allclose(y.numpy(), 1e-6)
    assert tg.grad(y.sum(), t).numpy().tolist() == [[0] * 3] * 2
    np.testing.assert_allclose(ops.norm(np.array([3.0, 4.0])).numpy(), 5.0, rtol=1e-12)


def test_empty_batches():
    t = tg.Tensor(np.zeros((0, 3), np.float32), requires_grad=True)
    assert ops.sum(t).item() == 0 and ops.sum(t, axis=0).numpy().tolist() == [0, 0, 0]
    assert np.isnan(ops.mean(t).item()) and np.isnan(ops.var(t).item())
    assert ops.mean(t, axis=1).shape == (0,)
    assert tg.grad(ops.sum(t), t).shape == (0, 3)
    with pytest.raises(tg.errors.ShapeError, match="zero-size array"):
        ops.max(t)


def test_dtypes():
    t = tg.Tensor(x(3, 4).astype(np.float32))
    for name in ("sum", "mean", "var", "norm", "max", "min", "logsumexp", "softmax", "log_softmax", "cumsum"):
        y = getattr(ops, name)(t)
        assert y.dtype == np.float32, name
    flags = tg.Tensor(np.array([True, False, True, True]))
    assert ops.mean(flags).item() == 0.75 and ops.mean(flags).dtype == np.float32
    assert ops.sum(flags).item() == 3 and ops.sum(flags).dtype == np.int64
    assert ops.cumsum(flags).numpy().tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize("shape, axis", [
    ((64, 32, 32, 24), (0, 1, 2)), ((64, 32, 32, 24), (1, 2)), ((64, 1031), (0,)), ((65537, 3), (0,)),
    ((40000, 5), (1,)), ((2, 30, 1001), (0, 2)), ((7, 8, 9, 10, 11), (1, 2, 4)), ((300, 300), (0, 1)),
    ((90001,), (0,)),
    ((5, 4096, 2), (1,)), ((17, 3000), (1,)), ((100, 500), ()), ((129, 257), (0,)), ((1, 70000), (0,)),
])  # fmt: skip
def test_long_float32_sums_are_accurate(shape, axis):
    a = RNG.random(shape, dtype=np.float32)
    exact = a.sum(axis=axis, dtype=np.float64)
    for values in (a, np.asfortranarray(a)):
        for keepdims in (False, True):
            y = total(np, values, axis, keepdims)
            assert y.dtype == np.float32 and y.shape == a.sum(axis=axis, keepdims=keepdims).shape
            error = np.abs(y.reshape(exact.shape) / exact - 1).max()
            assert error < 1e-6, f"relative error {error:.1e}"


def test_mean_of_ten_million():
    a = np.full(10_000_000, 0.1, np.float32)
    a[::2] += 1000
    exact = a.mean(dtype=np.float64)
    for values in (a, a.reshape(-1, 1), a.reshape(-1, 10)):
        assert abs(ops.mean(values).item() / exact - 1) < 2e-7
    assert abs(ops.mean(ops.mean(a.reshape(-1, 10), axis=0)).item() / exact - 1) < 1e-6


def test_sum_is_the_same_every_time():
    a = x(64, 32, 32, 24).astype(np.float32)
    first = total(np, a, (0, 1, 2))
    assert all(np.array_equal(first, total(np, a, (0, 1, 2))) for _ in range(5))


def test_axes_by_position_and_negative():
    t = tg.Tensor(x(2, 3, 4))
    assert [ops.sum(t, axis).shape for axis in (0, (-1, 0), [1])] == [(3, 4), (3,), (2, 4)]
    assert t.mean(np.int64(1), True).shape == (2, 1, 4)


@pytest.mark.parametrize("call, text", [
    (lambda t: ops.sum(t, 2), "sum needs an axis that is there; 2 is not among -2 to 1."),
    (lambda t: ops.mean(t, axis=(0, -2)), "mean needs each axis once; (0, -2)."),
    (lambda t: ops.cumsum(t, axis=5), "cumsum needs an axis that is there; 5 is not among -2 to 1."),
    (lambda t: ops.softmax(ops.sum(t)), "softmax needs an axis that is there; -1 is not among none."),
    (lambda t: ops.argmax(t, axis=-3), "argmax needs an axis that is there; -3 is not among -2 to 1."),
])  # fmt: skip
def test_messages(call, text):
    with pytest.raises(tg.errors.ShapeError, match=re.escape(text)) as caught:
        call(tg.Tensor(np.zeros((2, 3), np.float32)))
    assert "test_ops_reduce.py" in str(caught.value)
