"""conv2d by Winograd's algorithms: against the definition and against columns, within the error stated in the README,
the adjoint identities, threads, and the rule that chooses."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.audit.check import check_grads
from tinygen.errors import ShapeError
from tinygen.kernels import conv2d as K
from tinygen.kernels import threads
from tinygen.kernels.conv2d.choice import choose

pytest.importorskip("numba")
from tinygen.kernels.conv2d import simd, winograd  # noqa: E402

IMPLS = ["winograd2", "winograd4"]
SAME = ((1, 1), (1, 1))
# N, H, W, C, F, padding
CASES = {
    "whole tiles": (2, 8, 8, 16, 32, SAME),
    "odd sizes": (2, 7, 9, 5, 7, SAME),
    "valid": (2, 6, 11, 4, 40, ((0, 0), (0, 0))),
    "full": (1, 5, 4, 3, 5, ((2, 2), (2, 2))),
    "asymmetric padding": (2, 5, 10, 20, 6, ((0, 2), (1, 0))),
    "wide padding": (1, 3, 4, 2, 3, ((4, 3), (3, 5))),
    "one channel": (3, 6, 7, 1, 1, SAME),
    "one in, many out": (2, 9, 6, 1, 70, SAME),
    "many in, one out": (2, 6, 9, 70, 1, SAME),
    "one pixel": (2, 1, 1, 3, 3, SAME),
    "one row": (1, 1, 13, 6, 4, SAME),
    "one image of several blocks": (1, 40, 38, 9, 33, SAME),
    "empty batch": (0, 6, 5, 4, 3, SAME),
    "exactly one window": (2, 3, 3, 4, 4, ((0, 0), (0, 0))),
}


def operands(N, H, W, C, F, padding, seed=0, dtype=np.float64):
    """Random x, w, g, and the geometry as keywords."""
    rng = np.random.default_rng(seed)
    OH, OW = H + sum(padding[0]) - 2, W + sum(padding[1]) - 2
    arrays = [rng.standard_normal(s).astype(dtype) for s in ((N, H, W, C), (3, 3, C, F), (N, OH, OW, F))]
    return *arrays, dict(stride=(1, 1), padding=padding, dilation=(1, 1), groups=1)


def by(impl, x, w, g, geo):
    return (K.forward(x, w, impl=impl, **geo), K.input_grad(g, w, x_shape=x.shape, impl=impl, **geo),
            K.weight_grad(x, g, w_shape=w.shape, impl=impl, **geo))


def rms(a):
    return np.sqrt(np.mean(np.square(a, dtype=np.float64)))


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_are_an_algorithm_for_convolution(m):
    a_t, g, b_t = winograd.cook_toom(winograd.POINTS[m], m)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(m + 2), rng.standard_normal(3)
    np.testing.assert_allclose(a_t @ ((g @ w) * (b_t @ x)), np.correlate(x, w), rtol=0, atol=1e-13)
    for matrix in (a_t, b_t):  # exact in float32: only G rounds
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


@pytest.mark.parametrize("m", [2, 4])
def test_combine_is_a_product_with_fewer_operations(m):
    for matrix in winograd.cook_toom(winograd.POINTS[m], m):
        for oriented in (matrix, matrix.T):
            v = np.random.default_rng(1).standard_normal(oriented.shape[1])
            np.testing.assert_allclose(simd.combine(oriented, list(v)), oriented @ v, atol=1e-14)


def test_the_usual_matrices_of_lavin_and_gray():
    """Their eq. 8 and §4.3 come out of the same construction, up to signs that cancel."""
    a_t, g, b_t = winograd.cook_toom((0.0, 1.0, -1.0), 2)
    np.testing.assert_allclose(a_t, [[1, 1, 1, 0], [0, 1, -1, 1]])
    np.testing.assert_allclose(abs(g), [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]])
    a_t, g, b_t = winograd.cook_toom((0.0, 1.0, -1.0, 2.0, -2.0), 4)
    np.testing.assert_allclose(b_t[0], [4, 0, -5, 0, 1, 0])
    np.testing.assert_allclose(g[3], [1 / 24, 1 / 12, 1 / 6])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_definition(name, impl):
    arrays = operands(*CASES[name])
    for got, want, columns in zip(by(impl, *arrays), by("direct", *arrays), by("gemm", *arrays)):
        assert got.shape == want.shape and got.dtype == np.float64 and got.flags.c_contiguous
        scale = np.abs(want).max(initial=1.0)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * scale)
        np.testing.assert_allclose(got, columns, rtol=0, atol=1e-13 * scale)


BUDGET = {"winograd2": 8e-7, "winograd4": 2e-6}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", [(2, 16, 16, 256, 64, SAME), (4, 13, 11, 33, 40, SAME),
                                  (1, 6, 9, 3, 70, ((2, 0), (0, 1)))])
def test_single_precision_stays_within_the_budget(case, impl):
    """README.md: root mean square error relative to that of the result, and every number within twelve times that."""
    x, w, g, geo = operands(*case, dtype=np.float32)
    exact = by("gemm", *(a.astype(np.float64) for a in (x, w, g)), geo)
    for got, want in zip(by(impl, x, w, g, geo), exact):
        assert got.dtype == np.float32
        assert rms(got - want) <= BUDGET[impl] * rms(want)
        assert np.abs(got - want).max() <= 12 * BUDGET[impl] * rms(want)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", [n for n in CASES if "empty" not in n])
def test_the_three_forms_are_one_number(name, impl):
    """<conv(x, w), g> = <x, input_grad(g, w)> = <w, weight_grad(x, g)>."""
    x, w, g, geo = operands(*CASES[name], seed=2)
    y, gx, gw = by(impl, x, w, g, geo)
    scale = np.linalg.norm(y) * np.linalg.norm(g)
    assert abs(np.vdot(x, gx) - np.vdot(y, g)) <= 1e-13 * scale
    assert abs(np.vdot(w, gw) - np.vdot(y, g)) <= 1e-13 * scale


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", [(3, 30, 33, 20, 40, SAME), (2, 8, 8, 50, 130, SAME)], ids=["tiles", "channels"])
def test_threads_and_blocks_change_nothing(case, impl, monkeypatch):
    """Parts of tiles and parts of channels, several blocks each: right, and the same bits every time."""
    monkeypatch.setattr(winograd, "WORTH_A_PIECE", 1)
    arrays = operands(*case)
    single = *(a.astype(np.float32) for a in arrays[:3]), arrays[3]
    want = by("gemm", *arrays)
    for block in (8, 64):
        monkeypatch.setattr(winograd, "BLOCK", block)
        winograd._plan.cache_clear()
        for count in (1, 2, 3):
            monkeypatch.setattr(threads, "_count", count)
            for got, expected in zip(by(impl, *arrays), want):
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
            first = by(impl, *single)
            for _ in range(3):
                assert all(np.array_equal(a, b) for a, b in zip(first, by(impl, *single)))
    winograd._plan.cache_clear()


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_read_only_inputs(impl):
    x, w, g, geo = operands(*CASES["odd sizes"])
    views = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, w, g)]
    views[0] = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for v in views:
        v.flags.writeable = False
    for got, want in zip(by(impl, *views, geo), by(impl, x, w, g, geo)):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_of_an_earlier_call_is_left_in_the_scratch_memory(impl):
    """A NaN stays in the tiles that read it, and leaves with the call that brought it."""
    x, w, g, geo = operands(*CASES["asymmetric padding"])
    want = by(impl, x, w, g, geo)
    bad = x.copy()
    bad[0] = np.nan
    y = K.forward(bad, np.full_like(w, np.nan), impl=impl, **geo)
    assert np.isnan(y).all()
    y = K.forward(bad, w, impl=impl, **geo)
    assert np.isnan(y[0]).any() and np.array_equal(y[1], want[0][1])
    by(impl, bad, w, g, geo)
    assert all(np.array_equal(a, b) for a, b in zip(by(impl, x, w, g, geo), want))


def test_threads_of_python_do_not_share_scratch():
    from concurrent.futures import ThreadPoolExecutor

    arrays = operands(*CASES["odd sizes"])
    want = by("winograd4", *arrays)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: by("winograd4", *arrays), range(64)):
            assert all(np.array_equal(a, b) for a, b in zip(got, want))


def test_the_rule_takes_what_pays_and_refuses_what_does_not_fit():
    usual = dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), groups=1)
    assert choose(None, **usual, images=16, size=(16, 16), C=64, F=64) == "winograd4"
    assert choose(None, **usual, images=64, size=(2, 2), C=128, F=128) == "winograd2"
    assert choose(None, **usual, images=16, size=(32, 32), C=64, F=3) == "gemm"
    assert choose(None, **usual, images=1, size=(4, 4), C=16, F=16) == "gemm"
    assert choose("direct", **usual, images=1, size=(4, 4), C=16, F=16) == "direct"
    for odd in (dict(kernel=(5, 5)), dict(stride=(2, 1)), dict(dilation=(2, 2)), dict(groups=2)):
        assert choose(None, **usual | odd, images=16, size=(16, 16), C=64, F=64) == "gemm"
        with pytest.raises(ValueError, match="winograd4.*3×3 kernel, stride 1, dilation 1 and one group"):
            choose("winograd4", **usual | odd, images=16, size=(16, 16), C=64, F=64)
    with pytest.raises(ValueError, match="knows impl 'direct', 'gemm'.*'fft'"):
        choose("fft", **usual, images=16, size=(16, 16), C=64, F=64)


@pytest.mark.parametrize("impl", ["winograd4", "winograd2", "direct", "gemm"])
def test_as_an_operation_with_gradients_of_order_one_and_two(impl):
    rng = np.random.default_rng(5)
    x, w, b = rng.standard_normal((1, 5, 4, 2)), rng.standard_normal((3, 3, 2, 3)), rng.standard_normal(3)
    check_grads(lambda x, w, b: ops.square(ops.conv2d(x, w, b, padding=1, impl=impl)), [x, w, b], order=2)


def test_the_operation_hands_its_algorithm_on_to_its_gradients(monkeypatch):
    asked = []
    for name in ("forward", "input_grad", "weight_grad"):
        original = getattr(K, name)
        monkeypatch.setattr(K, name, lambda *a, _f=original, _n=name, **k: asked.append((_n, k["impl"])) or _f(*a, **k))
    x = tg.Tensor(np.ones((1, 4, 4, 2)), requires_grad=True)
    w = tg.Tensor(np.ones((3, 3, 2, 2)), requires_grad=True)
    gx, gw = tg.grad(ops.square(ops.conv2d(x, w, impl="winograd2")).sum(), [x, w], create_graph=True)
    tg.grad((gx * gx).sum() + (gw * gw).sum(), [x, w])
    assert {n for n, _ in asked} == {"forward", "input_grad", "weight_grad"} and {i for _, i in asked} == {"winograd2"}


def test_the_operation_refuses_an_algorithm_that_does_not_fit():
    x, w = np.ones((1, 4, 4, 2)), np.ones((3, 3, 2, 2))
    with pytest.raises(ShapeError, match="winograd4.*stride"):
        ops.conv2d(x, w, stride=2, impl="winograd4")
    with pytest.raises(ShapeError, match="fft"):
        ops.conv2d(x, w, impl="fft")
