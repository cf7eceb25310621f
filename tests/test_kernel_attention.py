"""Attention: loops = cpu, loops' backward = finite differences, masks, numerics, memory, determinism,
torch."""
import subprocess
import sys
import tracemalloc

import numba
import numpy as np
import pytest

from tinygen.kernels import attention as K
from tinygen.kernels import threads
from tinygen.kernels.attention import cpu, loops

loops_forward = numba.njit(loops.forward)
loops_backward = numba.njit(loops.backward)

# (N, heads, Tq, Tk, d, dv): one of everything, cross attention both ways, rows that are no multiple of a
# vector, and scores enough for several blocks and for threads.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 5, 5, 4, 4),
    (2, 2, 7, 33, 5, 3),
    (2, 1, 19, 4, 3, 6),
    (1, 2, 300, 300, 8, 8),
    (1, 1, 700, 650, 4, 5),
]
# float32 budget, see README.md, relative to the largest entry.
TOLERANCE = {np.float32: 4e-6, np.float64: 1e-12}


def case(N, heads, Tq, Tk, d, dv, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (N, heads, Tq, dv), (N, heads, Tq, d), (N, heads, Tk, d), (N, heads, Tk, dv)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def run(g, q, k, v, mask=None, causal=False, scale=0.5):
    y, hint = K.forward(q, k, v, mask, causal=causal, scale=scale)
    return y, *K.backward(g, q, k, v, mask, causal=causal, scale=scale, hint=hint)


def define(g, q, k, v, mask=None, causal=False, scale=0.5):
    shape = (*q.shape[:3], k.shape[2])
    mask = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape).copy()
    y, lse = loops_forward(q, k, v, mask, causal, scale)
    return y, *loops_backward(g, q, k, v, mask, causal, scale, lse)


def masks(N, heads, Tq, Tk, seed=0):
    rng = np.random.default_rng(seed)
    for shape in ((Tk,), (Tq, Tk), (1, 1, Tq, Tk), (N, 1, 1, Tk), (N, heads, Tq, 1), (N, heads, Tq, Tk)):
        yield rng.random(shape) < 0.7


def assert_same(got, want, tolerance):
    for have, need in zip(got, want, strict=True):
        assert have.dtype == need.dtype and have.shape == need.shape and have.flags.c_contiguous
        np.testing.assert_allclose(have, need, rtol=0, atol=tolerance * max(1, np.abs(need).max(initial=0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_loops(shape, causal, dtype):
    arrays = case(*shape, dtype)
    scale = shape[4] ** -0.5
    assert_same(run(*arrays, None, causal, scale), define(*arrays, None, causal, scale), TOLERANCE[dtype])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1:5])
def test_cpu_equals_loops_under_every_mask(shape, causal):
    arrays = case(*shape)
    for mask in masks(*shape[:4]):
        assert_same(run(*arrays, mask, causal), define(*arrays, mask, causal), 1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_do_not_show(causal, monkeypatch):
    arrays = case(3, 2, 53, 51, 4, 5)
    want = define(*arrays, None, causal)
    monkeypatch.setattr(cpu, "WORTH", 1)  # and any thread may begin anywhere in a matrix
    for block, panels in ((1, 1), (1 << 14, 2), (1 << 14, 9)):
        monkeypatch.setattr(cpu, "_BLOCK", block)
        monkeypatch.setattr(cpu, "_PANELS", panels)
        assert_same(run(*arrays, None, causal), want, 1e-12)
        for mask in masks(3, 2, 53, 51):
            assert_same(run(*arrays, mask, causal), define(*arrays, mask, causal), 1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("Tq,Tk", [(3, 4), (4, 2)])
def test_loops_backward_is_the_derivative(Tq, Tk, causal):
    g, q, k, v = case(2, 1, Tq, Tk, 3, 2)
    mask = np.ones((2, 1, Tq, Tk), bool)
    mask[0, 0, 0] = False
    mask[1, 0, -1, 0] = False
    gradients = define(g, q, k, v, mask, causal)[1:]
    h = 1e-6
    for array, gradient in zip((q, k, v), gradients, strict=True):
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + h
            up = np.sum(g * loops_forward(q, k, v, mask, causal, 0.5)[0])
            array[i] = kept - h
            down = np.sum(g * loops_forward(q, k, v, mask, causal, 0.5)[0])
            array[i] = kept
            assert gradient[i] == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-8)


def test_the_plain_python_loops_run_too():
    g, q, k, v = case(1, 1, 3, 4, 2, 2)
    mask = np.ones((1, 1, 3, 4), bool)
    y, lse = loops.forward(q, k, v, mask, True, 0.5)
    assert_same((y, *loops.backward(g, q, k, v, mask, True, 0.5, lse)), run(g, q, k, v, None, True), 1e-12)


EMPTY = [(0, 2, 3, 3, 4, 4), (2, 0, 3, 3, 4, 4), (2, 2, 0, 3, 4, 5), (2, 2, 3, 0, 4, 5)]


@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("causal", [False, True])
def test_empty(shape, causal):
    arrays = case(*shape, np.float32)
    for mask in (None, np.ones(shape[:4], bool)):
        got = run(*arrays, mask, causal)
        assert [a.shape for a in got] == [a.shape for a in arrays]
        assert not any(a.any() for a in got)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_query_that_sees_nothing_gives_zero(dtype):
    g, q, k, v = case(2, 2, 6, 4, 3, 5, dtype)
    mask = np.ones((2, 1, 6, 4), bool)
    mask[1, 0, 2] = False
    y, gq, gk, gv = run(g, q, k, v, mask)
    assert not y[1, :, 2].any() and not gq[1, :, 2].any()
    assert all(np.isfinite(a).all() for a in (y, gq, gk, gv))
    g[1, :, 2] = 1e6  # and what it is told changes nothing
    for have, need in zip(run(g, q, k, v, mask)[1:], (gq, gk, gv), strict=True):
        np.testing.assert_array_equal(have, need)
    # causal with more queries than keys: the first two precede every key
    y, gq, gk, gv = run(g, q, k, v, None, causal=True)
    assert not y[:, :, :2].any() and y[:, :, 2:].all() and not gq[:, :, :2].any()
    assert not any(a.any() for a in run(g, q, k, v, np.zeros(1, bool)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_scores(dtype):
    g, q, k, v = case(2, 2, 40, 40, 8, 8, dtype)
    q *= dtype(1e4)
    got = run(g, q, k, v)
    assert all(np.isfinite(a).all() for a in got)
    exact = define(*(a.astype(np.float64) for a in (g, q, k, v)))
    # a score of 1e4 is known to 1e4·eps and no better, and P to that, relatively
    np.testing.assert_allclose(got[0], exact[0], atol=1e5 * np.finfo(dtype).eps)
    np.testing.assert_allclose(got[3], exact[3], atol=1e5 * np.finfo(dtype).eps)


def test_probabilities_of_large_scores_add_up_in_the_backward_pass():
    # With g = 1, gv sums to the number of queries however large the scores are; a log-sum-exp kept in float32
    # misses by 5e-4 here.
    g, q, k, v = case(1, 1, 64, 64, 8, 4, np.float32)
    q *= np.float32(1e-3)
    q[..., 0], k[..., 0] = 1e4, 2.0
    gv = run(np.ones_like(g), q, k, v, None, False, 0.5)[3]
    np.testing.assert_allclose(gv.sum(2), 64, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_swallowed(name, bad):
    g, q, k, v = case(2, 1, 20, 40, 3, 3, np.float32)
    at = dict(q=q, k=k, v=v)[name]
    at[1, 0, 2] = bad
    y = run(g, q, k, v)[0]
    assert np.isfinite(y[0]).all()
    assert not np.isfinite(y[1, 0, 2]).any()
    if name != "q" and np.isnan(bad):
        assert np.isnan(y[1]).all()


def test_a_row_of_nothing_but_nan_is_nan():
    for T in (1, 16, 40):
        g, q, k, v = case(1, 1, 2, T, 3, 3, np.float32)
        q[0, 0, 0] = np.nan
        y, gq, gk, gv = run(g, q, k, v)
        assert np.isnan(y[0, 0, 0]).all() and np.isfinite(y[0, 0, 1]).all()
        assert np.isnan(gq[0, 0, 0]).all() and np.isnan(gk).all()


def test_non_contiguous_inputs():
    g, q, k, v = case(2, 3, 9, 7, 4, 5, np.float32)
    want = run(g, q, k, v)
    # the usual way heads come about: N, T, heads, d seen as N, heads, T, d
    loose = [np.ascontiguousarray(a.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for a in (g, q, k, v)]
    loose[1].flags.writeable = False
    for have, need in zip(run(*loose), want, strict=True):
        np.testing.assert_array_equal(have, need)
        assert have.flags.c_contiguous
    mask = np.random.default_rng(0).random((7, 9)) < 0.6
    for have, need in zip(run(*loose, mask.T), run(g, q, k, v, mask.T.copy()), strict=True):
        np.testing.assert_array_equal(have, need)


@pytest.mark.parametrize("scale", [0.0, -0.7])
def test_any_scale(scale):
    arrays = case(1, 2, 6, 5, 3, 3)
    assert_same(run(*arrays, None, False, scale), define(*arrays, None, False, scale), 1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("B", [1, 3])
def test_the_number_of_threads_does_not_show(B, causal):
    # 1 matrix or 3 among 1 to 5 threads: shared by matrices, or inside each
    arrays = case(1, B, 300, 320, 16, 16)
    want = define(*arrays, None, causal)
    count = threads.get_threads()
    try:
        for n in (1, 2, 5):
            threads.set_threads(n)
            assert_same(run(*arrays, None, causal), want, 1e-12)
    finally:
        threads.set_threads(count)


@pytest.mark.parametrize("causal", [False, True])
def test_bit_identical_from_run_to_run(causal):
    arrays = case(2, 2, 300, 300, 8, 8, np.float32)
    first = run(*arrays, None, causal)
    for _ in range(3):
        for have, need in zip(run(*arrays, None, causal), first, strict=True):
            np.testing.assert_array_equal(have, need)


def test_scores_are_never_all_there_at_once():
    g, q, k, v = case(1, 1, 4096, 4096, 4, 4, np.float32)
    run(g[:, :, :600], q[:, :, :600], k, v)  # compiled before anything is counted
    tracemalloc.start()
    run(g, q, k, v)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20  # the score matrix alone would be 64 MB


def test_other_arrays_and_dtypes_are_refused():
    q = np.ones((1, 1, 2, 2), np.float16)
    with pytest.raises(TypeError, match="was given a builtins.list"):
        K.forward([1.0], q, q, None, causal=False, scale=1.0)
    with pytest.raises(TypeError, match="not float16"):
        K.forward(q, q, q, None, causal=False, scale=1.0)


def test_import_is_light():
    code = "import sys, tinygen.kernels.attention; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["plain", "causal", "mask"])
def test_torch_agrees(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: no parity check of attention")
    T = (9, 9) if kind == "causal" else (9, 13)
    g, q, k, v = case(2, 3, *T, 4, 5)
    mask = np.random.default_rng(0).random((2, 1, *T)) < 0.7 if kind == "mask" else None
    tq, tk, tv = (torch.tensor(a, requires_grad=True) for a in (q, k, v))
    ty = torch.nn.functional.scaled_dot_product_attention(
        tq, tk, tv, None if mask is None else torch.tensor(mask), is_causal=kind == "causal", scale=0.5
    )
    want = ty.detach(), *torch.autograd.grad(ty, (tq, tk, tv), torch.tensor(g))
    for have, need in zip(run(g, q, k, v, mask, kind == "causal"), want, strict=True):
        np.testing.assert_allclose(have, need.numpy(), rtol=1e-10, atol=1e-12)
