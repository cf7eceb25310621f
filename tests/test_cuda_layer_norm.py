"""The CUDA layer norm against its formula in float64."""

import numpy as np
import pytest

from tinygen.kernels import layer_norm as kernel

EPS = 1e-5


def inputs(seed, R, C, about=0.5):
    r = np.random.default_rng(seed)
    x = (about + 2 * r.standard_normal((R, C))).astype(np.float32)
    return (r.standard_normal((R, C)).astype(np.float32), x,
            *((1 + 0.3 * r.standard_normal(C)).astype(np.float32) for _ in range(2)))


def law(g, x, w, b):
    g, x, w, b = (a.astype(np.float64) for a in (g, x, w, b))
    d = x - x.mean(-1, keepdims=True)
    s = 1 / np.sqrt((d * d).mean(-1, keepdims=True) + EPS)
    u, h = d * s, g * w
    gx = s * (h - h.mean(-1, keepdims=True) - u * (h * u).mean(-1, keepdims=True))
    return u * w + b, gx, (g * u).sum(0), g.sum(0)


def run(xp, g, x, w, b):
    y, hint = kernel.forward(x, w, b, eps=EPS)
    return [xp.asnumpy(a) for a in (y, *kernel.backward(g, x, w, b, eps=EPS, hint=hint))]


def check(xp, R, C, about=0.5, factor=1.0):
    """y within 1e-6 of its size, gx of the largest entry's; gw, gb of the sum of the sizes of their terms."""
    arrays = inputs(C + R, R, C, about)
    y, gx, gw, gb = run(xp, *(xp.asarray(a) for a in arrays))
    y0, gx0, gw0, gb0 = law(*arrays)
    assert abs(y - y0).max() <= 1e-6 * factor * max(1, abs(y0).max())
    scale = max(1.0, abs(gx0).max())
    assert abs(gx - gx0).max() <= 1e-6 * factor * scale
    size = 1e-6 * factor * max(1.0, np.sqrt(R) * abs(arrays[0]).max())
    assert abs(gw - gw0).max() <= size and abs(gb - gb0).max() <= size


@pytest.mark.tiny
@pytest.mark.parametrize("R, C", [(5, 30), (9, 256), (3, 516)])
def test_rows(xp, R, C):
    check(xp, R, C)


@pytest.mark.parametrize("R, C", [(1, 2), (7, 3), (300, 33), (1500, 64), (17, 509), (5, 1024), (3, 2049)])
def test_many_sizes(xp, R, C):
    check(xp, R, C)


@pytest.mark.tiny
def test_rows_too_long_for_registers(xp):
    check(xp, 3, 8193)


def test_one_channel(xp):
    y, gx, gw, gb = run(xp, *(xp.asarray(a) for a in inputs(0, 6, 1)))
    assert abs(gx).max() == 0 and abs(gw).max() == 0 and np.isfinite(gb).all()


def test_far_from_zero(xp):
    """Statistics about the mean: a mean of 1000 spreads costs what the numbers' own rounding costs."""
    check(xp, 8, 512, about=2000.0, factor=1000 / 6)


def test_shapes(xp):
    g, x, w, b = inputs(1, 30, 20)
    want = run(xp, *(xp.asarray(a) for a in (g, x, w, b)))
    shaped = run(xp, *(xp.asarray(a).reshape(2, 3, 5, 20) for a in (g, x)), xp.asarray(w), xp.asarray(b))
    odd = [xp.asarray(np.ascontiguousarray(a.T)).T for a in (g, x)]
    turned = run(xp, *odd, xp.asarray(w), xp.asarray(b))
    for a, c, t in zip(want, shaped, turned):
        assert np.array_equal(a, c.reshape(a.shape)) and np.array_equal(a, t)
    y, gx, gw, gb = run(xp, *(xp.zeros(s, np.float32) for s in ((0, 4), (0, 4), (4,), (4,))))
    assert y.shape == gx.shape == (0, 4) and not gw.any() and not gb.any()


def test_the_same_bits_again(xp):
    for R, C in ((3000, 36), (4, 2049)):
        arrays = [xp.asarray(a) for a in inputs(2, R, C)]
        assert all(np.array_equal(a, b) for a, b in zip(run(xp, *arrays), run(xp, *arrays)))


def test_capture(xp):
    g, x, w, b = (xp.asarray(a) for a in inputs(3, 6, 40))

    def step():
        y, hint = kernel.forward(x, w, b, eps=EPS)
        return y, *kernel.backward(g, x, w, b, eps=EPS, hint=hint)

    step()
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        captured = step()
        graph = stream.end_capture()
    for factor in (1.0, 3.0):
        x *= factor
        graph.launch()
        xp.cuda.Device(0).synchronize()
        for a, c in zip(captured, step()):
            assert np.array_equal(xp.asnumpy(a), xp.asnumpy(c))


def test_float64_is_for_the_law(xp):
    with pytest.raises(TypeError, match="float64"):
        kernel.forward(*(xp.zeros(s, np.float64) for s in ((2, 3), (3,), (3,))), eps=EPS)
