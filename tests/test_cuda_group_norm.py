"""Group norm (+ SiLU) on a device: against the law in float64, determinism, capture."""

import numpy as np
import pytest

from tinygen.kernels import group_norm as K
from tinygen.kernels.group_norm import cuda as launcher

# (N, P, C, groups): those of tests/test_kernel_group_norm.py, and: 4 channels a group, 12, no whole number of vectors a
# group, more positions than passes fill, more channels than a line, whole samples of many channels
SHAPES = [
    (2, 9, 6, 3), (1, 1, 1, 1), (2, 5, 1, 1), (3, 7, 12, 12), (2, 11, 12, 1), (1, 30, 33, 3), (2, 3, 129, 43),
    (2, 21, 300, 10), (5, 320, 35, 5), (2, 64, 128, 32), (1, 50, 24, 2), (1, 257, 20, 5), (3, 16, 256, 8),
    (2, 4, 300, 1),
]  # fmt: skip


def law(g, x, w, b, groups, silu, eps=1e-5):
    """README.md in float64: y, mean, rstd, gx, gw, gb."""
    g, x, w, b = (a.astype(np.float64) for a in (g, x, w, b))
    N, C = x.shape[0], x.shape[-1]
    split = (N, -1, groups, C // groups)
    mean = x.reshape(split).mean((1, 3), keepdims=True)
    rstd = 1 / np.sqrt(np.square(x.reshape(split) - mean).mean((1, 3), keepdims=True) + eps)
    u = ((x.reshape(split) - mean) * rstd).reshape(x.shape)
    t = u * w + b
    s = 1 / (1 + np.exp(-t))
    h = g * (s * (1 + t * (1 - s))) if silu else g
    over = tuple(range(x.ndim - 1))
    q, u4 = (h * w).reshape(split), u.reshape(split)
    gx = rstd * (q - q.mean((1, 3), keepdims=True) - u4 * (q * u4).mean((1, 3), keepdims=True))
    return t * s if silu else t, mean[:, 0, :, 0], rstd[:, 0, :, 0], gx.reshape(x.shape), (h * u).sum(over), h.sum(over)


def case(N, P, C, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((N, P, C)) + offset).astype(np.float32)
    g = rng.standard_normal((N, P, C)).astype(np.float32)
    w, b = rng.standard_normal((2, C)).astype(np.float32)
    return g, x, w, b


def run(g, x, w, b, groups, silu, eps=1e-5):
    kw = dict(groups=groups, eps=eps, silu=silu)
    y, hint = K.forward(x, w, b, **kw)
    return y, *hint, *K.backward(g, x, w, b, hint=hint, **kw)


def check(xp, arrays, groups, silu, at_y=2e-6, at_g=1e-6):
    got = [xp.asnumpy(a) for a in run(*map(xp.asarray, arrays), groups, silu)]
    want = law(*arrays, groups, silu)
    np.testing.assert_allclose(got[0], want[0], rtol=at_y, atol=at_y)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-6)
    for have, need in zip(got[3:], want[3:], strict=True):
        assert have.dtype == np.float32 and have.shape == need.shape
        np.testing.assert_allclose(have, need, rtol=0, atol=at_g * max(np.abs(need).max(), want[2].max()))


@pytest.fixture
def cut(monkeypatch):
    """Every slab cut along its positions, into tiles of few."""
    monkeypatch.setattr(launcher, "_slab", lambda *args: None)
    monkeypatch.setattr(launcher, "_HELD", 2)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("N,P,C,groups", SHAPES)
def test_whole_slabs(xp, N, P, C, groups, silu):
    check(xp, case(N, P, C), groups, silu)


@pytest.mark.parametrize("N,P,C,groups,silu", [
    (2, 9, 6, 3, True), (3, 7, 12, 12, False), (1, 700, 24, 2, True), (1, 130, 33, 3, True), (2, 70, 300, 1, True),
    (1, 1, 1, 1, False), (1, 257, 40, 5, True)])  # fmt: skip
def test_slabs_that_are_cut(xp, cut, N, P, C, groups, silu):
    check(xp, case(N, P, C), groups, silu)


def test_a_slab_too_large_for_a_block_is_cut(xp):
    assert launcher._slab(1, 70 * 70, 12, 12, 4096) is None
    check(xp, case(1, 70 * 70, 12), 1, True)


@pytest.mark.parametrize("whole", [True, False])
def test_a_mean_far_from_zero_costs_nothing(xp, whole, request):
    if not whole:
        request.getfixturevalue("cut")
    check(xp, case(2, 130, 16, offset=1e3), 4, True)


def test_the_tiles():
    """What README.md says of them: whole lines or sectors, blocks for every multiprocessor, three quarters full."""
    for N, P, C, groups in [(128, 1024, 128, 32), (128, 1024, 384, 32), (128, 256, 512, 32), (128, 64, 256, 32),
                            (128, 16, 512, 32), (1, 1024, 128, 32), (64, 64 * 64, 128, 32)]:  # fmt: skip
        for vectors, most in ((launcher._ONE, 8), (launcher._TWO, 4)):
            s = launcher._slab(N, P, C, C // groups, vectors, most)
            assert s.channels % (C // groups) == 0 and s.channels >= (8 if P < 4096 else 4)
            assert s.shared(8 // most) + 10 * 1024 <= 227 * 1024
            assert N == 1 or N * C // s.channels >= 264
            assert P * s.channels / (s.threads * s.held * s.wide) > 0.74


@pytest.mark.tiny
def test_tiny(xp, monkeypatch):
    for N, P, C, groups in ((1, 9, 8, 2), (2, 5, 3, 3), (1, 70, 4, 1)):
        check(xp, case(N, P, C), groups, True)
    monkeypatch.setattr(launcher, "_slab", lambda *args: None)
    monkeypatch.setattr(launcher, "_HELD", 1)
    check(xp, case(1, 70, 16), 2, True)
    check(xp, case(2, 9, 3), 1, True)


def test_inputs_as_they_come(xp):
    """Four axes, strides of any kind, an empty batch."""
    g, x, w, b = case(2, 12, 8)
    shape = (2, 3, 4, 8)
    wanted = run(*map(xp.asarray, (g.reshape(shape), x.reshape(shape), w, b)), 2, True)
    turned = [xp.asarray(np.ascontiguousarray(a.reshape(shape).transpose(3, 1, 0, 2))).transpose(2, 1, 3, 0)
              for a in (g, x)]  # fmt: skip
    twice = [xp.asarray(np.repeat(a, 2))[::2] for a in (w, b)]
    for have, need in zip(run(*turned, *twice, 2, True), wanted):
        np.testing.assert_array_equal(xp.asnumpy(have), xp.asnumpy(need))
    y, mean, rstd, gx, gw, gb = run(*map(xp.asarray, (g[:0], x[:0], w, b)), 2, True)
    assert y.shape == gx.shape == (0, 12, 8) and mean.shape == rstd.shape == (0, 2)
    assert not xp.asnumpy(gw).any() and not xp.asnumpy(gb).any()


def test_nan_stays_in_its_group(xp):
    g, x, w, b = case(2, 20, 8)
    x[1, 3, 5] = np.nan
    y, _, _, gx, gw, gb = (xp.asnumpy(a) for a in run(*map(xp.asarray, (g, x, w, b)), 2, True))
    for a in (y, gx):
        assert np.isnan(a[1, :, 4:]).all() and np.isfinite(a[0]).all() and np.isfinite(a[1, :, :4]).all()
    assert np.isnan(gw[4:]).all() and np.isfinite(gw[:4]).all() and np.isfinite(gb[:4]).all()


def test_values_far_out(xp):
    """SiLU of what e^x does not hold."""
    x = xp.asarray(np.array([[[-1.0], [1.0]]], np.float32))
    w, b = xp.asarray(np.array([300.0], np.float32)), xp.asarray(np.zeros(1, np.float32))
    y, _, _, gx, _, _ = run(x, x, w, b, 1, True)
    np.testing.assert_allclose(xp.asnumpy(y).ravel(), [0, 300], rtol=1e-4)
    assert np.isfinite(xp.asnumpy(gx)).all()


@pytest.mark.parametrize("whole", [True, False])
def test_the_same_bits_every_time_and_in_a_graph(xp, whole, request):
    if not whole:
        request.getfixturevalue("cut")
    arrays = [xp.asarray(a) for a in case(2, 100, 16)]
    first, again = run(*arrays, 4, True), run(*arrays, 4, True)
    for a, b in zip(first, again):
        assert xp.asnumpy(a).tobytes() == xp.asnumpy(b).tobytes()
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        recorded = run(*arrays, 4, True)
        graph = stream.end_capture()
        for changed in (1.0, 2.0):
            arrays[1] *= np.float32(changed)
            graph.launch()
            stream.synchronize()
            for a, b in zip(recorded, run(*arrays, 4, True)):
                assert xp.asnumpy(a).tobytes() == xp.asnumpy(b).tobytes()
