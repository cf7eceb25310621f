"""The activations on a device: against loops.py in float64 arithmetic, far out, odd sizes, in a graph."""

import numpy as np
import pytest

from tinygen.kernels import activation as K
from tinygen.kernels.activation import loops

RUNS = {
    "silu": lambda g, x: (K.silu_forward(x), K.silu_backward(g, x)),
    "gelu": lambda g, x: (K.gelu_forward(x, approximate="none"), K.gelu_backward(g, x, approximate="none")),
    "tanh": lambda g, x: (K.gelu_forward(x, approximate="tanh"), K.gelu_backward(g, x, approximate="tanh")),
    "relu": lambda g, x: (K.relu(x), K.gate(g, x, slope=0.0)),
    "leaky": lambda g, x: (K.gate(x, x, slope=0.1), K.gate(g, x, slope=0.1)),
}
LAWS = {
    "silu": lambda g, x: (loops.gated(x, 1.0, 0.0), loops.gated_slope(g, x, 1.0, 0.0)),
    "gelu": lambda g, x: (loops.gelu(x), loops.gelu_slope(g, x)),
    "tanh": lambda g, x: (loops.gated(x, *K.TANH), loops.gated_slope(g, x, *K.TANH)),
    "relu": lambda g, x: (loops.relu(x), loops.gate(g, x, 0.0)),
    "leaky": lambda g, x: (loops.gate(x, x, 0.1), loops.gate(g, x, 0.1)),
}


def check(xp, name, n):
    rng = np.random.default_rng(n)
    x, g = rng.uniform(-12, 12, n).astype(np.float32), rng.uniform(-1, 1, n).astype(np.float32)
    got = RUNS[name](xp.asarray(g), xp.asarray(x))
    want = LAWS[name](g.astype(np.float64), x.astype(np.float64))
    for have, need in zip(got, want):
        assert have.dtype == np.float32 and have.shape == (n,)
        np.testing.assert_allclose(xp.asnumpy(have), need, rtol=5e-7, atol=5e-7)


@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize("n", [1, 3, 1024, 4099])
def test_it_is_the_law(xp, name, n):
    check(xp, name, n)


@pytest.mark.tiny
@pytest.mark.parametrize("name", list(RUNS))
def test_tiny(xp, name):
    check(xp, name, 1031)


@pytest.mark.parametrize("name", list(RUNS))
def test_far_out_and_not_a_number(xp, name):
    x = np.array([-1e30, -200, -50, 0, 50, 200, 1e30, np.nan], np.float32)
    y, slope = (xp.asnumpy(a) for a in RUNS[name](xp.asarray(np.ones_like(x)), xp.asarray(x)))
    assert np.isnan(y[-1]) and np.isfinite(y[:-1]).all() and np.isfinite(slope[:-1]).all()
    np.testing.assert_allclose(y[3:7], x[3:7], rtol=1e-6)
    np.testing.assert_allclose(slope[4:7], 1, rtol=1e-6)


def test_shapes_strides_and_a_graph(xp):
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    turned = xp.asarray(np.ascontiguousarray(x.T)).T
    assert np.array_equal(xp.asnumpy(K.silu_forward(turned)), xp.asnumpy(K.silu_forward(xp.asarray(x))))
    assert K.relu(xp.zeros((0, 4), np.float32)).shape == (0, 4) and K.relu(xp.zeros((), np.float32)).shape == ()
    a = xp.asarray(x)
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        recorded = [y for run in RUNS.values() for y in run(a, a)]
        graph = stream.end_capture()
        a *= np.float32(3)
        graph.launch()
        stream.synchronize()
    for have, need in zip(recorded, [y for run in RUNS.values() for y in run(a, a)]):
        assert xp.asnumpy(have).tobytes() == xp.asnumpy(need).tobytes()
