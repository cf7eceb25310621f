"""Batch norm on a device: against the law in float64, determinism, capture."""

import numpy as np
import pytest

from tinygen.kernels import batch_norm as K

SHAPES = [(1, 1), (2, 1), (700, 3), (40, 4), (1000, 12), (300, 130), (37, 300), (9, 512)]


def case(M, C, offset=0.0):
    rng = np.random.default_rng(M + C)
    x = (rng.standard_normal((M, C)) + offset).astype(np.float32)
    g = rng.standard_normal((M, C)).astype(np.float32)
    return x, g, *rng.standard_normal((4, C)).astype(np.float32)


def run(x, g, w, b, p, q, eps=1e-5):
    (y, mean, var), hint = K.forward(x, w, b, eps=eps)
    return y, mean, var, *K.backward((g, p, q), x, w, b, eps=eps, hint=hint)


def law(x, g, w, b, p, q, eps=1e-5):
    """README.md eq. 1, 2 and 4 in float64."""
    x, g, w, b, p, q = (a.astype(np.float64) for a in (x, g, w, b, p, q))
    M, mean, var = len(x), x.mean(0), x.var(0)
    s = 1 / np.sqrt(var + eps)
    u = (x - mean) * s
    gw, gb = (g * u).sum(0), g.sum(0)
    return u * w + b, mean, var, s * w * (g - gb / M - u * gw / M) + p / M + 2 * q * (x - mean) / M, gw, gb


def check(xp, arrays):
    got, want = run(*map(xp.asarray, arrays)), law(*arrays)
    largest = (1 / np.sqrt(want[2] + 1e-5)).max()
    for k, (have, need) in enumerate(zip(got, want)):
        have = xp.asnumpy(have)
        assert have.dtype == np.float32 and have.shape == need.shape
        scale = max(np.abs(need).max(), largest if k == 3 else 1.0)
        np.testing.assert_allclose(have, need, rtol=2e-6, atol=2e-6 * scale)


@pytest.mark.parametrize("M,C", SHAPES)
def test_it_is_the_law(xp, M, C):
    check(xp, case(M, C))


def test_a_mean_far_from_zero(xp):
    check(xp, case(500, 8, offset=1e3))


def test_many_splits(xp):
    check(xp, case(5000, 4))


def test_axes_and_strides(xp):
    x, g, w, b, p, q = case(24, 8)
    shape = (2, 3, 4, 8)
    turned = [xp.asarray(np.ascontiguousarray(a.reshape(shape).transpose(3, 0, 2, 1))).transpose(1, 3, 2, 0)
              for a in (x, g)]  # fmt: skip
    for have, need in zip(run(*turned, *map(xp.asarray, (w, b, p, q))), run(*map(xp.asarray, (x, g, w, b, p, q)))):
        assert np.array_equal(xp.asnumpy(have).ravel(), xp.asnumpy(need).ravel())


def test_nan_stays_in_its_channel(xp):
    x, *rest = case(50, 4)
    x[3, 2] = np.nan
    y = xp.asnumpy(run(*map(xp.asarray, (x, *rest)))[0])
    assert np.isnan(y[:, 2]).all() and np.isfinite(y[:, [0, 1, 3]]).all()


def test_the_same_bits_every_time_and_in_a_graph(xp):
    arrays = [xp.asarray(a) for a in case(900, 8)]
    first = run(*arrays)
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        recorded = run(*arrays)
        graph = stream.end_capture()
        graph.launch()
        stream.synchronize()
        for a, b in zip(recorded, first):
            assert xp.asnumpy(a).tobytes() == xp.asnumpy(b).tobytes()
        arrays[0] *= np.float32(3)
        graph.launch()
        stream.synchronize()
        for a, b in zip(recorded, run(*arrays)):
            assert xp.asnumpy(a).tobytes() == xp.asnumpy(b).tobytes()


@pytest.mark.tiny
def test_tiny(xp):
    check(xp, case(70, 4))
    check(xp, case(5, 3))
