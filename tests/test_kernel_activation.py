"""SiLU, GELU, gate: loops = cpu = law, loops' slopes = finite differences, error budgets, odd arrays, threads."""

import numba
import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.kernels import activation as K
from tinygen.kernels import threads
from tinygen.kernels.activation import loops

L = {name: numba.njit(getattr(loops, name)) for name in ("gated", "gated_slope", "gelu", "gelu_slope", "gate")}
SILU = (1.0, 0.0)
# name -> (forward, backward, the same by the loops, the operation)
FUNCTIONS = {
    "silu": (K.silu_forward, K.silu_backward, lambda x: L["gated"](x, *SILU),
             lambda g, x: L["gated_slope"](g, x, *SILU), ops.silu),
    "gelu": (lambda x: K.gelu_forward(x, approximate="none"), lambda g, x: K.gelu_backward(g, x, approximate="none"),
             L["gelu"], L["gelu_slope"], ops.gelu),
    "gelu tanh": (lambda x: K.gelu_forward(x, approximate="tanh"),
                  lambda g, x: K.gelu_backward(g, x, approximate="tanh"), lambda x: L["gated"](x, *K.TANH),
                  lambda g, x: L["gated_slope"](g, x, *K.TANH), lambda x, **k: ops.gelu(x, approximate="tanh", **k)),
}  # fmt: skip
GRID = np.linspace(-20, 20, 200001)


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_equals_loops_and_law(name):
    forward, backward, loop, loop_slope, op = FUNCTIONS[name]
    g = numbers(GRID.size, dtype=np.float64)
    np.testing.assert_allclose(forward(GRID), loop(GRID), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(backward(g, GRID), loop_slope(g, GRID), rtol=1e-12, atol=1e-14)
    x = tg.Tensor(GRID, requires_grad=True)
    y = op(x, impl="law")
    np.testing.assert_allclose(y.numpy(), loop(GRID), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(tg.grad(y, x, tg.Tensor(g)).numpy(), loop_slope(g, GRID), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_keeps_its_budget(name):
    forward, backward, loop, loop_slope, _ = FUNCTIONS[name]
    x = GRID.astype(np.float32)
    exact = x.astype(np.float64)
    y, want = forward(x), loop(exact)
    scale = np.abs(want) if name == "silu" else 0.1 + np.abs(want)
    assert np.all(np.abs(y - want) <= (2.5e-7 if name == "silu" else 3e-7) * scale)
    slope = backward(np.ones_like(x), x)
    assert y.dtype == slope.dtype == np.float32
    np.testing.assert_allclose(slope, loop_slope(np.ones_like(exact), exact), rtol=0, atol=3e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_loops_slope_is_the_derivative(name):
    _, _, loop, loop_slope, _ = FUNCTIONS[name]
    x = np.linspace(-6, 6, 41)
    rise = (loop(x + 1e-5) - loop(x - 1e-5)) / 2e-5
    np.testing.assert_allclose(loop_slope(np.ones_like(x), x), rise, rtol=0, atol=1e-9)


def test_the_plain_python_loops_run_too():
    x, g = numbers(2, 7, dtype=np.float64)
    for name, *args in (("gated", x, *SILU), ("gated_slope", g, x, *SILU), ("gelu", x), ("gelu_slope", g, x),
                        ("gate", x, g, 0.2)):  # fmt: skip
        np.testing.assert_allclose(getattr(loops, name)(*args), L[name](*args), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.5])
def test_gate(slope, dtype):
    x, by = numbers(2, 1003, dtype=dtype)
    by[:3] = 0.0, -0.0, np.nan
    y = K.gate(x, by, slope=slope)
    np.testing.assert_array_equal(y, L["gate"](x, by, dtype(slope)))
    np.testing.assert_array_equal(y, np.where(by > 0, x, dtype(slope) * x))
    assert y.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu(dtype):
    x = numbers(1003, dtype=dtype)
    x[:5] = 0.0, -0.0, np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(K.relu(x), np.maximum(x, 0))
    np.testing.assert_array_equal(K.relu(x), loops.relu(x))
    assert K.relu(x).dtype == dtype


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (3, 0), (5, 7), (2, 3, 5, 7), (33, 1025)])
def test_every_shape(shape):
    x, g = (np.asarray(numbers(2, *shape)[i]) for i in (0, 1))
    for forward, backward, *_ in FUNCTIONS.values():
        y, gx = forward(x), backward(g, x)
        assert y.shape == gx.shape == shape
        np.testing.assert_array_equal(y.ravel(), forward(x.ravel().copy()))
        np.testing.assert_array_equal(gx.ravel(), backward(g.ravel().copy(), x.ravel().copy()))
    assert K.gate(x, g, slope=0.1).shape == shape


def test_non_contiguous_read_only_and_repeated_inputs():
    x, g = numbers(2, 40, 30)
    wide = np.zeros((30, 80), np.float32)
    wide[:, ::2] = x.T
    frozen = g.copy()
    frozen.flags.writeable = False
    for forward, backward, *_ in FUNCTIONS.values():
        np.testing.assert_array_equal(forward(wide[:, ::2].T), forward(x))
        np.testing.assert_array_equal(backward(frozen, wide[:, ::2].T), backward(g, x))
        np.testing.assert_array_equal(backward(np.broadcast_to(g[:1], x.shape), x), backward(g[:1].repeat(40, 0), x))
    np.testing.assert_array_equal(K.gate(wide[:, ::2].T, frozen, slope=0.3), K.gate(x, g, slope=0.3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40, 0.0, -0.0, 200.0, -200.0], dtype)
    for forward, backward, _, _, op in FUNCTIONS.values():
        with np.errstate(all="ignore"):
            y, gx = forward(x), backward(np.ones_like(x), x)
            law = op(tg.Tensor(x), impl="law").numpy()
        np.testing.assert_allclose(y, law, rtol=1e-6, atol=1e-30)
        assert np.isnan(y[0]) and np.isnan(gx[0]) and y[1] == np.inf
        np.testing.assert_array_equal(gx[3:5], [1, 0])
        np.testing.assert_allclose(gx[5:], [0.5, 0.5, 0.5, 1.0, 0.0], atol=1e-30)


def test_results_do_not_depend_on_threads():
    x, g = numbers(2, 300, 1001)
    before = threads.get_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            threads.set_threads(count)
            results.append([f(x) for f, *_ in FUNCTIONS.values()] + [b(g, x) for _, b, *_ in FUNCTIONS.values()]
                           + [K.gate(x, g, slope=0.2)])  # fmt: skip
    finally:
        threads.set_threads(before)
    for other in results[1:]:
        for have, need in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(have, need)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.5])
def test_the_rectifiers_use_it(slope):
    x, g = numbers(2, 9, 31)
    t = tg.Tensor(x, requires_grad=True)
    y = ops.leaky_relu(t, slope=slope) if slope else ops.relu(t)
    np.testing.assert_array_equal(y.numpy(), np.where(x > 0, x, np.float32(slope) * x))
    np.testing.assert_array_equal(tg.grad(y, t, tg.Tensor(g)).numpy(), np.where(x > 0, g, np.float32(slope) * g))


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="float32 or float64, not int64"):
        K.silu_forward(np.arange(3))
    with pytest.raises(TypeError, match="was given a builtins.list"):
        K.gate([1.0], [1.0], slope=0.0)
