"""The pointwise functions: values, gradients, behaviour at kinks and extremes, dtypes, messages."""

import math
import re
import warnings

import numpy as np
import pytest
from parity import compare, torch_or_skip

import tinygen as tg
from tinygen import ops

RNG = np.random.default_rng(7)


def x(*shape, low=None, high=None):
    return RNG.standard_normal(shape) * 2 if low is None else RNG.uniform(low, high, shape)


def derivative(fn, value, dtype=np.float64):
    t = tg.Tensor(np.array(value, dtype), requires_grad=True)
    return tg.grad(fn(t).sum(), t).numpy()


UNARY = {
    "exp": {}, "expm1": {}, "sin": {}, "cos": {}, "tanh": {}, "square": {}, "abs": {}, "erf": {},
    "log": {"low": 0.1, "high": 3}, "sqrt": {"low": 0.1, "high": 3}, "rsqrt": {"low": 0.1, "high": 3},
    "log1p": {"low": -0.5, "high": 3},
}
ACTIVATIONS = {
    "sigmoid": "sigmoid", "log_sigmoid": "logsigmoid", "relu": "relu", "silu": "silu", "gelu": "gelu",
    "elu": "elu", "leaky_relu": "leaky_relu", "softplus": "softplus",
}  # fmt: skip
SHAPES = [(3, 5), (1,), (), (0, 3), (2, 3, 7)]


@pytest.mark.parametrize("name", UNARY)
def test_functions_agree_with_pytorch(name):
    torch = torch_or_skip()
    for shape in SHAPES:
        compare(getattr(ops, name), getattr(torch, name), x(*shape, **UNARY[name]))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree_with_pytorch(name):
    F = torch_or_skip().nn.functional
    for shape in SHAPES:
        compare(getattr(ops, name), getattr(F, ACTIVATIONS[name]), x(*shape))


def test_parameters_of_activations_agree_with_pytorch():
    F = torch_or_skip().nn.functional
    compare(lambda x: ops.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh"), x(4, 5))
    for p in (0.2, 1.0, 1.5):
        compare(lambda x, p=p: ops.leaky_relu(x, slope=p), lambda x, p=p: F.leaky_relu(x, p), x(4, 5))
        compare(lambda x, p=p: ops.elu(x, alpha=p), lambda x, p=p: F.elu(x, p), x(4, 5))


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((2, 3, 1), (1, 5)), ((3, 4), ()), ((0, 3), (3,))])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum", "power"])
def test_binary_operations_agree_with_pytorch(name, shapes):
    torch = torch_or_skip()
    theirs = getattr(torch, {"power": "pow"}.get(name, name))
    compare(getattr(ops, name), theirs, *(x(*s, low=0.3, high=2) for s in shapes))


@pytest.mark.parametrize("p", [0, 1, 2, 3, 5, -1, -2, 0.5, -0.5, 1.7])
def test_powers_with_a_number_agree_with_pytorch(p):
    compare(lambda x: x**p, lambda x: x**p, x(3, 4, low=0.3, high=2))
    if p == int(p):
        compare(lambda x: x**p, lambda x: x**p, x(3, 4))
    compare(lambda x: 1.7**x, lambda x: 1.7**x, x(3, 4))


def test_power_at_zero():
    base = tg.Tensor(np.zeros(3), requires_grad=True)
    exponent = tg.Tensor(np.array([0.0, 1.0, 2.0]), requires_grad=True)
    y = base**exponent
    assert y.numpy().tolist() == [1, 0, 0]
    ga, gb = tg.grad(y.sum(), [base, exponent])
    assert ga.numpy().tolist() == [0, 1, 0] and gb.numpy().tolist() == [0, 0, 0]
    assert derivative(lambda t: t**2, 0.0) == 0 and derivative(lambda t: t**0, 0.0) == 0
    assert derivative(lambda t: 0.0**t, 2.0) == 0
    assert np.isnan(derivative(lambda t: (-1.0) ** t, 2.0))


def test_integer_powers_stay_integers():
    n = tg.Tensor(np.array([2, 3]))
    assert (n**2).dtype == np.int64 and (n**2).numpy().tolist() == [4, 9]
    with pytest.raises(tg.errors.ShapeError, match="Integers to negative integer powers"):
        n**-1


def test_comparisons_and_logic():
    a, b = tg.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True), tg.Tensor(np.array([2.0, 2.0, 2.0]))
    for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
        y = getattr(ops, name)(a, b)
        assert y.dtype == bool and not y.requires_grad
        assert y.numpy().tolist() == getattr(np, name)(a.numpy(), b.numpy()).tolist()
    p, q = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert ops.logical_and(p, q).numpy().tolist() == (p & q).tolist()
    assert ops.logical_or(p, q).numpy().tolist() == (p | q).tolist()
    assert ops.logical_not(p).numpy().tolist() == (~p).tolist()
    assert ops.isfinite(np.array([0, np.inf, np.nan])).numpy().tolist() == [True, False, False]


def test_piecewise_constant_functions_are_not_recorded():
    t = tg.Tensor(np.array([-1.5, 0.5, 2.5]), requires_grad=True)
    for fn, values in ((ops.sign, [-1, 1, 1]), (ops.floor, [-2, 0, 2]), (ops.round, [-2, 0, 2])):
        assert fn(t).numpy().tolist() == values and not fn(t).requires_grad


def test_ties_and_kinks_are_as_documented():
    a = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    b = tg.Tensor(np.array([1.0, 1.0]), requires_grad=True)
    for fn, expected in ((ops.maximum, ([0.5, 1], [0.5, 0])), (ops.minimum, ([0.5, 0], [0.5, 1]))):
        assert [g.numpy().tolist() for g in tg.grad(fn(a, b).sum(), [a, b])] == [*map(list, expected)]
    assert derivative(ops.abs, 0.0) == 0 and derivative(ops.relu, 0.0) == 0
    assert derivative(lambda t: ops.leaky_relu(t, slope=0.2), 0.0) == 0.2
    assert derivative(lambda t: ops.elu(t, alpha=0.7), 0.0) == 0.7
    at = derivative(lambda t: ops.clip(t, -1.0, 1.0), [-1.5, -1.0, 0.0, 1.0, 1.5])
    assert at.tolist() == [0, 1, 1, 1, 0]


def test_clip_with_one_bound_or_none():
    t = tg.Tensor(np.array([-2.0, 0.5, 2.0]))
    assert t.clip(low=0.0).numpy().tolist() == [0, 0.5, 2]
    assert t.clip(high=1.0).numpy().tolist() == [-2, 0.5, 1]
    assert ops.clip(t).numpy().tolist() == [-2, 0.5, 2]


def test_where_lets_no_nan_through():
    t = tg.Tensor(np.array([0.0, 4.0]), requires_grad=True)
    safe = ops.where(t > 0, t, 1.0)
    y = ops.where(t > 0, ops.log(safe), -1.0)
    g = tg.grad(y.sum(), t, create_graph=True)
    assert y.numpy().tolist() == [-1, math.log(4)] and g.numpy().tolist() == [0, 0.25]
    assert tg.grad(g.sum(), t).numpy().tolist() == [0, -1 / 16]
    # the values of the branch not taken, however bad, do not reach the gradient
    a = tg.Tensor(np.array([np.nan, 1.0]), requires_grad=True)
    assert tg.grad(ops.where(np.array([False, True]), a, 2.0).sum(), a).numpy().tolist() == [0, 1]
    torch = torch_or_skip()
    c = RNG.random((2, 3, 1)) < 0.5
    compare(ops.where, torch.where, c, x(1, 5), x(2, 3, 5))


def test_where_of_two_numbers_is_float32():
    assert ops.where(np.array([True, False]), 1.0, 2.0).dtype == np.float32
    assert ops.where(np.array([True, False]), 1, 2).dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes(dtype):
    far = tg.Tensor(np.array([-1000.0, -30.0, 0.0, 30.0, 1000.0], dtype), requires_grad=True)
    eps = np.finfo(dtype).eps
    e = math.exp(-30)
    up, down, tail = 1 / (1 + e), e / (1 + e), math.log1p(e)  # sigmoid 30, sigmoid −30, softplus −30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fn, expected, slope in (
            (ops.sigmoid, [0, down, 0.5, up, 1], [0, up * down, 0.25, up * down, 0]),
            (ops.softplus, [0, tail, math.log(2), 30 + tail, 1000], [0, down, 0.5, up, 1]),
            (ops.log_sigmoid, [-1000, -30 - tail, -math.log(2), -tail, 0], [1, up, 0.5, down, 0]),
            (ops.silu, [0, -30 * down, 0, 30 * up, 1000],
             [0, down - 30 * up * down, 0.5, up + 30 * up * down, 1]),
            (ops.gelu, [0, 0, 0, 30, 1000], [0, 0, 0.5, 1, 1]),
            (lambda t: ops.gelu(t, approximate="tanh"), [0, 0, 0, 30, 1000], [0, 0, 0.5, 1, 1]),
            (ops.elu, [-1, math.expm1(-30), 0, 30, 1000], [0, e, 1, 1, 1]),
            (ops.tanh, [-1, -1, 0, 1, 1], [0, 0, 1, 0, 0]),
        ):
            y = fn(far)
            np.testing.assert_allclose(y.numpy(), expected, rtol=8 * eps, atol=eps**2)
            np.testing.assert_allclose(tg.grad(y.sum(), far).numpy(), slope, rtol=60 * eps, atol=4 * eps)


@pytest.mark.parametrize("name", [*UNARY, *ACTIVATIONS, "sign", "floor", "round"])
def test_float32_in_float32_out(name):
    for shape in ((3, 4), (), (0, 2)):
        t = tg.Tensor(RNG.uniform(0.3, 0.9, shape).astype(np.float32), requires_grad=True)
        y = getattr(ops, name)(t)
        assert y.dtype == np.float32 and y.shape == shape
        if y.requires_grad:
            assert tg.grad(y.sum(), t).dtype == np.float32


@pytest.mark.parametrize("approximate", [None, "none", "tanh"])
def test_fused_activations_in_float32(approximate):
    """Kernel and law agree; the gradient of the gradient comes from the law."""
    fn, attrs = (ops.silu, {}) if approximate is None else (ops.gelu, {"approximate": approximate})
    t = tg.Tensor(x(40, 50).astype(np.float32), requires_grad=True)
    results = []
    for impl in ("kernel", "law"):
        y = fn(t, impl=impl, **attrs)
        g = tg.grad((y * y).sum(), t, create_graph=True)
        results.append((y.numpy(), g.numpy(), tg.grad((g * g).sum(), t).numpy()))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_activations_take_views():
    t = tg.Tensor(np.broadcast_to(x(4, 1).astype(np.float32), (4, 5)))
    for name in ACTIVATIONS:
        fn = getattr(ops, name)
        np.testing.assert_array_equal(fn(t).numpy(), fn(tg.Tensor(t.numpy().copy())).numpy())
        np.testing.assert_allclose(fn(t.T).numpy(), fn(t).numpy().T, rtol=1e-6)


def test_cast():
    t = tg.Tensor(np.array([1.25, 2.75], np.float32), requires_grad=True)
    assert t.astype(np.float32) is t
    y = t.astype(np.float64)
    assert y.dtype == np.float64
    assert tg.grad((y * y).sum(), t).dtype == np.float32
    whole = t.astype(np.int64)
    assert whole.numpy().tolist() == [1, 2] and not whole.requires_grad
    assert ops.cast(np.array([True, False]), np.float32).numpy().tolist() == [1, 0]


def test_to_device():
    t = tg.Tensor(x(3), requires_grad=True)
    assert t.to("cpu").device == "cpu"
    assert tg.grad(t.to("cpu").sum(), t).numpy().tolist() == [1, 1, 1]
    with pytest.raises(tg.errors.DeviceError, match="unknown device 'tpu'"):
        t.to("tpu")


def test_the_activations_keep_little():
    """relu and its relatives keep their output, which the next layer keeps anyway."""
    t = tg.Tensor(x(3, 4, low=0.1, high=2), requires_grad=True)
    for fn in (ops.relu, ops.leaky_relu, ops.elu, ops.sigmoid, ops.exp, ops.tanh, ops.sqrt, ops.rsqrt):
        y = fn(t)
        assert y.node.inputs is None and y.node.output is y.data, y.node.op


@pytest.mark.parametrize("call, error, text", [
    (lambda t: ops.clip(t, 2, 1), "ShapeError", "clip needs low <= high; 2 > 1."),
    (lambda t: ops.leaky_relu(t, slope=-1.0), "ShapeError", "leaky_relu needs slope >= 0; -1.0."),
    (lambda t: ops.elu(t, alpha=-1.0), "ShapeError", "elu needs alpha >= 0; -1.0."),
    (lambda t: ops.gelu(t, approximate="erf"), "ShapeError", "gelu needs approximate to be 'none' or"),
    (lambda t: t + np.zeros((5,), np.float32), "ShapeError", "(2, 3)"),
    (lambda t: ops.maximum(t, np.zeros(3)), "DtypeError", "float types are not mixed: float32 and float64"),
    (lambda t: t + "a", "DtypeError", "add takes tensors, arrays and numbers, not str."),
])  # fmt: skip
def test_messages(call, error, text):
    with pytest.raises(getattr(tg.errors, error), match=re.escape(text)):
        call(tg.Tensor(np.zeros((2, 3), np.float32)))
