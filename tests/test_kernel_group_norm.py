"""Group norm (+ SiLU): loops = cpu, loops' backward = finite differences, numerics, determinism, torch."""
import subprocess
import sys

import numba
import numpy as np
import pytest

from tinygen.kernels import group_norm as K
from tinygen.kernels import threads
from tinygen.kernels.group_norm import cpu, loops

loops_forward = numba.njit(loops.forward)
loops_backward = numba.njit(loops.backward)

# (N, P, C, groups): odd sizes, one channel, instance norm, layer norm, batch 1, C divisible by nothing nice,
# a sample smaller than a row of lanes and one that ends in the middle of a row, and one large enough for
# threads.
SHAPES = [
    (2, 9, 6, 3),
    (1, 1, 1, 1),
    (2, 5, 1, 1),
    (3, 7, 12, 12),
    (2, 11, 12, 1),
    (1, 30, 33, 3),
    (2, 3, 129, 43),
    (2, 21, 300, 10),
    (9, 320, 35, 5),
]
# float32 budget, see README.md: absolute + relative for y, relative to the largest entry for the gradients.
TOLERANCE = {np.float32: (2e-6, 1e-6), np.float64: (1e-12, 1e-12)}


def case(N, P, C, dtype, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((N, P, C)) + offset).astype(dtype)
    g = rng.standard_normal((N, P, C)).astype(dtype)
    w, b = rng.standard_normal((2, C)).astype(dtype)
    return g, x, w, b


def run(g, x, w, b, groups, silu, eps=1e-5):
    kw = dict(groups=groups, eps=eps, silu=silu)
    y, hint = K.forward(x, w, b, **kw)
    return y, *K.backward(g, x, w, b, hint=hint, **kw)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("N,P,C,groups", SHAPES)
def test_cpu_equals_loops(N, P, C, groups, silu, dtype):
    g, x, w, b = case(N, P, C, dtype)
    y, mean, rstd = loops_forward(x, w, b, groups, 1e-5, silu)
    want = y, *loops_backward(g, x, w, b, mean, rstd, groups, silu)
    got = run(g, x, w, b, groups, silu)
    at_y, at_g = TOLERANCE[dtype]
    np.testing.assert_allclose(got[0], want[0], rtol=at_y, atol=at_y)
    for have, need in zip(got[1:], want[1:], strict=True):
        assert have.dtype == dtype and have.shape == need.shape and have.flags.c_contiguous
        # gx is a difference of terms as large as rstd·g·w, however small it comes out itself
        np.testing.assert_allclose(have, need, rtol=0, atol=at_g * max(np.abs(need).max(), rstd.max()))


@pytest.mark.parametrize("silu", [False, True])
def test_loops_backward_is_the_derivative(silu):
    g, x, w, b = case(2, 3, 6, np.float64)
    y, mean, rstd = loops_forward(x, w, b, 2, 1e-5, silu)
    gradients = loops_backward(g, x, w, b, mean, rstd, 2, silu)
    h = 1e-6
    for array, gradient in zip((x, w, b), gradients, strict=True):
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + h
            up = np.sum(g * loops_forward(x, w, b, 2, 1e-5, silu)[0])
            array[i] = kept - h
            down = np.sum(g * loops_forward(x, w, b, 2, 1e-5, silu)[0])
            array[i] = kept
            assert gradient[i] == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-7)


def test_the_plain_python_loops_run_too():
    g, x, w, b = case(1, 2, 4, np.float64)
    y, mean, rstd = loops.forward(x, w, b, 2, 1e-5, True)
    np.testing.assert_allclose(y, K.forward(x, w, b, groups=2, eps=1e-5, silu=True)[0], rtol=1e-12)
    gx = loops.backward(g, x, w, b, mean, rstd, 2, True)[0]
    np.testing.assert_allclose(gx, run(g, x, w, b, 2, True)[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 5), (2, 3, 4, 5), (2, 2, 3, 2, 5)])
def test_every_rank(shape):
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((2, *shape)).astype(np.float32)
    w, b = rng.standard_normal((2, 5)).astype(np.float32)
    flat = run(g.reshape(shape[0], -1, 5), x.reshape(shape[0], -1, 5), w, b, 5, True)
    for have, need in zip(run(g, x, w, b, 5, True), flat, strict=True):
        np.testing.assert_array_equal(have.reshape(need.shape), need)


@pytest.mark.parametrize("shape", [(0, 4, 4, 6), (2, 0, 6)])
def test_empty(shape):
    x = np.zeros(shape, np.float32)
    w = np.ones(6, np.float32)
    y, gx, gw, gb = run(x, x, w, w, 3, True)
    assert y.shape == gx.shape == shape
    assert not gw.any() and not gb.any() and gw.dtype == gb.dtype == np.float32


def test_non_contiguous_and_read_only_inputs():
    g, x, w, b = case(4, 12, 8, np.float32)
    want = run(g, x, w, b, 4, True)
    wide = np.zeros((12, 4, 16), np.float32)
    wide[:, :, ::2] = x.transpose(1, 0, 2)
    strided = wide[:, :, ::2].transpose(1, 0, 2)
    frozen = w.copy()
    frozen.flags.writeable = False
    got = run(np.asfortranarray(g), strided, frozen, b[::-1].copy()[::-1], 4, True)
    for have, need in zip(got, want, strict=True):
        np.testing.assert_array_equal(have, need)


@pytest.mark.parametrize("silu", [False, True])
def test_a_large_mean_costs_no_accuracy(silu):
    g, x, w, b = case(4, 256, 32, np.float32, offset=1e3)
    exact = [a.astype(np.float64) for a in (g, x, w, b)]
    y, mean, rstd = loops_forward(*exact[1:], 8, 1e-5, silu)
    want = y, *loops_backward(*exact, mean, rstd, 8, silu)
    got = run(g, x, w, b, 8, silu)
    np.testing.assert_allclose(got[0], want[0], rtol=2e-6, atol=2e-6)
    for have, need in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(have, need, rtol=0, atol=1e-6 * np.abs(need).max())


def test_a_mean_that_float32_cannot_hold():
    # All of a group equal to 1e4 + 1/3 rounded, but for one entry: the centre is off by up to 5e-4 and must
    # be corrected.
    x = np.full((1, 64, 2), 1e4 + 1 / 3, np.float32)
    x[0, 0, 0] += np.float32(0.01)
    w, b = np.ones(2, np.float32), np.zeros(2, np.float32)
    want = loops_forward(*(a.astype(np.float64) for a in (x, w, b)), 1, 1e-5, False)[0]
    got = K.forward(x, w, b, groups=1, eps=1e-5, silu=False)[0]
    np.testing.assert_allclose(got, want, atol=2e-6, rtol=2e-6)


def test_a_constant_group_gives_b():
    x = np.full((2, 9, 4), 7.3, np.float32)
    w, b = np.ones(4, np.float32), np.arange(4, dtype=np.float32)
    y = K.forward(x, w, b, groups=2, eps=1e-5, silu=False)[0]
    np.testing.assert_array_equal(y, np.broadcast_to(b, x.shape))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_swallowed(bad, silu):
    g, x, w, b = case(2, 40, 8, np.float32)
    x[1, 17, 5] = bad
    y, gx, gw, gb = run(g, x, w, b, 4, silu)
    assert np.isnan(y[1, :, 4:6]).all() and np.isnan(gx[1, :, 4:6]).all()
    assert np.isfinite(y[0]).all() and np.isfinite(y[1, :, [0, 1, 2, 3, 6, 7]]).all()
    assert np.isnan(gw[4:6]).all() and np.isfinite(gw[[0, 1, 2, 3, 6, 7]]).all()


def test_silu_far_out():
    x = np.array([-1.0, 1.0], np.float32).reshape(1, 2, 1)
    w, b = np.array([500.0], np.float32), np.zeros(1, np.float32)
    y, gx, gw, gb = run(np.ones_like(x), x, w, b, 1, True)
    np.testing.assert_allclose(y.ravel(), [0, 500], rtol=1e-4, atol=1e-30)
    assert np.isfinite(gx).all() and gb[0] == 1 and gw[0] == pytest.approx(1, rel=1e-4)


def test_bit_identical_from_run_to_run_and_for_any_thread_count():
    g, x, w, b = case(9, 512, 32, np.float32)
    first = run(g, x, w, b, 8, True)
    count = threads.get_threads()
    try:
        for n in (1, 2, 5, count, count):
            threads.set_threads(n)
            for have, need in zip(run(g, x, w, b, 8, True), first, strict=True):
                np.testing.assert_array_equal(have, need)
    finally:
        threads.set_threads(count)


def test_other_arrays_and_dtypes_are_refused():
    w = np.ones(2, np.float32)
    with pytest.raises(TypeError, match="was given a builtins.list"):
        K.forward([[1.0, 2.0]], w, w, groups=1, eps=1e-5, silu=False)
    with pytest.raises(TypeError, match="not float16"):
        K.forward(np.ones((1, 2), np.float16), w, w, groups=1, eps=1e-5, silu=False)


def test_import_is_light():
    code = "import sys, tinygen.kernels.group_norm; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exp_is_accurate_to_float32_rounding():
    from tinygen.kernels.mathfast import exp

    @numba.njit(fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
    def apply(x, y):
        for i in range(x.size):
            y[i] = exp(x[i])

    x = np.linspace(-86.9, 88.72, 400_001).astype(np.float32)
    y = np.empty_like(x)
    apply(x, y)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(y - exact) / np.spacing(exact.astype(np.float32))) < 2
    ends = np.array([np.nan, np.inf, -np.inf, 88.73, 1e30, -87.5, -1e30, 0.0, -0.0], np.float32)
    out = np.empty_like(ends)
    apply(ends, out)
    np.testing.assert_array_equal(out, np.array([np.nan, np.inf, 0, np.inf, np.inf, 0, 0, 1, 1], np.float32))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("N,P,C,groups", [(2, 9, 6, 3), (3, 16, 32, 8), (2, 11, 12, 1), (3, 7, 12, 12)])
def test_torch_agrees(N, P, C, groups, silu):
    torch = pytest.importorskip("torch", reason="torch is not installed: no parity check of group norm")
    g, x, w, b = case(N, P, C, np.float64)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    ty = torch.nn.functional.group_norm(tx.transpose(1, 2), groups, tw, tb, 1e-5).transpose(1, 2)
    ty = torch.nn.functional.silu(ty) if silu else ty
    want = ty.detach(), *torch.autograd.grad(ty, (tx, tw, tb), torch.tensor(g))
    for have, need in zip(run(g, x, w, b, groups, silu), want, strict=True):
        np.testing.assert_allclose(have, need.numpy(), rtol=1e-10, atol=1e-12)


def test_one_sample_is_cut_between_groups(monkeypatch):
    g, x, w, b = case(1, 300, 256, np.float32)
    want = run(g, x, w, b, 8, True)
    for n in (1, 2, 3):
        monkeypatch.setattr(cpu, "get_threads", lambda n=n: n)
        assert cpu._cut(1, x.size, 256, 8, x.dtype)[2] == (1, 2, 4)[n - 1]
        for have, need in zip(run(g, x, w, b, 8, True), want, strict=True):
            np.testing.assert_array_equal(have, need)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_silu_of_any_size(dtype):
    g, x, w, b = case(2, 5, 8, dtype)
    w[:] = 0
    for far in (80, 88.5, 200, 1e4, 1e30):
        for sign in (1, -1):
            b[:] = sign * far
            y, gx, gw, gb = run(g, x, w, b, 2, True)
            np.testing.assert_allclose(y, max(0.0, sign * far), rtol=1e-6, atol=1e-32)
            np.testing.assert_allclose(gb, g.sum((0, 1)) * (sign > 0), rtol=1e-5, atol=1e-30)
            assert not gx.any()
