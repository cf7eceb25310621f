"""conv2d by columns: the fast path against the plain loops, the adjoint identities, PyTorch where it is installed.
test_kernel_winograd.py has the other algorithms."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygen.kernels import conv2d as K
from tinygen.kernels import threads
from tinygen.kernels.conv2d import loops

numba = pytest.importorskip("numba")
LOOPS = {
    name: numba.njit(cache=True)(getattr(loops, name)) for name in ("forward", "input_grad", "weight_grad")
}

# x shape, (kh, kw, F), stride, padding, dilation, groups
CASES = {
    "3x3 same": ((2, 6, 5, 4), (3, 3, 7), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "3x3 valid": ((2, 6, 5, 4), (3, 3, 4), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "3x3 full": ((1, 4, 4, 3), (3, 3, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "padding wider than the kernel": ((1, 3, 4, 2), (2, 2, 3), (1, 1), ((4, 3), (3, 5)), (1, 1), 1),
    "asymmetric padding": ((2, 5, 7, 3), (3, 2, 4), (1, 1), ((0, 2), (1, 0)), (1, 1), 1),
    "4x4 stride 2": ((2, 8, 8, 3), (4, 4, 6), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "stride leaves lines unread": ((2, 8, 9, 3), (2, 3, 4), (3, 4), ((0, 0), (1, 0)), (1, 1), 1),
    "stride larger than the kernel": ((1, 9, 7, 2), (2, 1, 3), (3, 2), ((1, 0), (0, 0)), (1, 1), 1),
    "dilation": ((2, 9, 8, 3), (3, 3, 4), (1, 1), ((2, 1), (0, 3)), (2, 3), 1),
    "dilation and stride": ((2, 9, 11, 2), (3, 2, 3), (2, 3), ((2, 3), (1, 2)), (3, 2), 1),
    "dilated taps all outside": ((1, 2, 2, 2), (2, 2, 3), (1, 1), ((5, 5), (5, 5)), (5, 5), 1),
    "two groups": ((2, 5, 5, 6), (3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "three groups, stride 2": ((2, 6, 7, 9), (3, 3, 6), (2, 2), ((1, 1), (1, 0)), (1, 2), 3),
    "two groups, few outputs": ((2, 5, 5, 12), (3, 3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 2),
    "depthwise": ((2, 6, 5, 5), (3, 3, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    "depthwise, long lines": ((2, 4, 70, 3), (3, 3, 3), (1, 1), ((3, 1), (2, 0)), (1, 1), 3),
    "depthwise, two outputs each, cut": ((1, 5, 4, 9), (3, 3, 18), (1, 1), ((0, 2), (4, 3)), (1, 1), 9),
    "depthwise, stride and dilation": ((2, 9, 8, 4), (3, 2, 4), (2, 3), ((2, 0), (1, 1)), (2, 1), 4),
    "depthwise, three outputs each": ((2, 6, 6, 3), (3, 3, 9), (2, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "1x1": ((2, 4, 5, 6), (1, 1, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 groups": ((2, 4, 5, 6), (1, 1, 4), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    "1x1 stride 2": ((2, 5, 6, 4), (1, 1, 3), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 padded": ((1, 3, 3, 4), (1, 1, 2), (1, 1), ((1, 0), (0, 2)), (1, 1), 1),
    "one channel in": ((3, 7, 7, 1), (5, 5, 8), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "one channel out": ((3, 7, 7, 8), (5, 5, 1), (1, 1), ((2, 2), (1, 2)), (1, 1), 1),
    "one channel in and out": ((2, 5, 6, 1), (3, 2, 1), (1, 1), ((1, 1), (1, 0)), (1, 1), 1),
    "many in, three out": ((2, 6, 6, 16), (3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "three in, many out": ((2, 6, 6, 3), (3, 3, 16), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "kernel as big as the padded image": ((2, 3, 4, 3), (5, 4, 6), (1, 1), ((1, 1), (0, 0)), (1, 1), 1),
    "one pixel": ((2, 1, 1, 3), (3, 3, 2), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "long, low image": ((1, 1, 33, 2), (1, 4, 3), (1, 2), ((0, 0), (2, 1)), (1, 1), 1),
    "empty batch": ((0, 5, 5, 4), (3, 3, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "empty batch, stride 2": ((0, 6, 6, 4), (4, 4, 6), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "empty batch, 1x1": ((0, 5, 5, 4), (1, 1, 6), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "empty batch, depthwise": ((0, 5, 5, 4), (3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
}


def operands(x_shape, kernel, stride, padding, dilation, groups, seed=0):
    """Random x, w, g in float64, and the geometry as keywords."""
    rng = np.random.default_rng(seed)
    (kh, kw, F), (N, H, W, C) = kernel, x_shape
    OH = (H + sum(padding[0]) - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    OW = (W + sum(padding[1]) - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    x, w = rng.standard_normal(x_shape), rng.standard_normal((kh, kw, C // groups, F))
    geo = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return x, w, rng.standard_normal((N, OH, OW, F)), geo


def by_kernel(x, w, g, geo, impl="gemm"):
    return {
        "forward": K.forward(x, w, impl=impl, **geo),
        "input_grad": K.input_grad(g, w, x_shape=x.shape, impl=impl, **geo),
        "weight_grad": K.weight_grad(x, g, w_shape=w.shape, impl=impl, **geo),
    }


def by_loops(x, w, g, geo):
    geo = tuple(geo.values())
    return {
        "forward": LOOPS["forward"](x, w, *geo),
        "input_grad": LOOPS["input_grad"](g, w, x.shape, *geo),
        "weight_grad": LOOPS["weight_grad"](x, g, w.shape, *geo),
    }


def summands(x, w, g):
    """At most how many products each form adds up for one number of its result."""
    taps = w.shape[0] * w.shape[1]
    return {
        "forward": taps * w.shape[2],
        "input_grad": taps * w.shape[3],
        "weight_grad": max(1, g[..., 0].size),
    }


def check(case, seed=0):
    x, w, g, geo = operands(*case, seed=seed)
    want, got = by_loops(x, w, g, geo), by_kernel(x, w, g, geo)
    for form in want:
        assert got[form].shape == want[form].shape and got[form].dtype == np.float64
        assert got[form].flags.c_contiguous
        scale = np.abs(want[form]).max(initial=1.0)
        np.testing.assert_allclose(got[form], want[form], rtol=1e-12, atol=1e-12 * scale, err_msg=form)

    # The budget of README.md: |error| <= 4 sqrt(k) u (|x| * |w|) for k summands and the unit roundoff u.
    single = [a.astype(np.float32) for a in (x, w, g)]
    got = by_kernel(*single, geo)
    want = by_loops(*(a.astype(np.float64) for a in single), geo)
    size = by_loops(*(np.abs(a).astype(np.float64) for a in single), geo)
    u = np.finfo(np.float32).eps / 2
    for form, k in summands(x, w, g).items():
        assert got[form].dtype == np.float32
        assert (np.abs(got[form] - want[form]) <= 4 * np.sqrt(k) * u * size[form]).all(), form


@pytest.mark.parametrize("name", CASES)
def test_equals_the_loops(name):
    check(CASES[name])


@st.composite
def geometries(draw):
    small = st.integers(1, 3)
    kh, kw, sh, sw, dh, dw, groups = (draw(small) for _ in range(7))
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    H = draw(st.integers(max(1, dh * (kh - 1) + 1 - sum(padding[0])), 9))
    W = draw(st.integers(max(1, dw * (kw - 1) + 1 - sum(padding[1])), 9))
    C, F = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    return (draw(st.integers(0, 3)), H, W, C), (kh, kw, F), (sh, sw), padding, (dh, dw), groups


@settings(max_examples=150, deadline=None, derandomize=True)
@given(geometries())
def test_equals_the_loops_on_any_geometry(case):
    check(case, seed=1)


@pytest.mark.parametrize("name", [n for n in CASES if "empty" not in n])
def test_the_three_forms_are_one_number(name):
    """<conv(x, w), g> = <x, input_grad(g, w)> = <w, weight_grad(x, g)>: README, eq. 1."""
    x, w, g, geo = operands(*CASES[name], seed=2)
    got = by_kernel(x, w, g, geo)
    b = np.vdot(got["forward"], g)
    scale = np.linalg.norm(got["forward"]) * np.linalg.norm(g)
    assert abs(np.vdot(x, got["input_grad"]) - b) <= 1e-13 * scale
    assert abs(np.vdot(w, got["weight_grad"]) - b) <= 1e-13 * scale


LARGE = {
    "3x3": ((3, 40, 40, 24), (3, 3, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "4x4 stride 2": ((3, 40, 40, 24), (4, 4, 32), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "few outputs": ((3, 40, 40, 32), (3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "few inputs": ((3, 40, 40, 3), (3, 3, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "groups": ((3, 40, 40, 24), (3, 3, 32), (1, 1), ((1, 1), (1, 1)), (2, 2), 2),
    "depthwise": ((3, 40, 40, 24), (3, 3, 24), (1, 1), ((1, 1), (1, 1)), (1, 1), 24),
}


@pytest.fixture
def restored_threads():
    count = threads.get_threads()
    yield
    threads.set_threads(count)


def in_small_pieces(monkeypatch):
    from tinygen.kernels.conv2d import depthwise, gemm

    monkeypatch.setattr(gemm, "WORTH_A_PIECE", 1)
    monkeypatch.setattr(depthwise, "PIECE", 1)


@pytest.mark.parametrize("name", LARGE)
def test_threads_and_chunks_change_nothing(name, monkeypatch, restored_threads):
    """Sizes that run in parallel and in several chunks: right, and the same bits every time."""
    from tinygen.kernels.conv2d import cpu

    monkeypatch.setattr(cpu, "CHUNK", 1 << 16)
    in_small_pieces(monkeypatch)
    threads.set_threads(3)
    check(LARGE[name])
    x, w, g, geo = operands(*LARGE[name])
    single = [a.astype(np.float32) for a in (x, w, g)]
    first = by_kernel(*single, geo)
    for _ in range(3):
        again = by_kernel(*single, geo)
        assert all(np.array_equal(first[form], again[form]) for form in first)


@pytest.mark.parametrize("name", LARGE)
def test_the_thread_count_changes_rounding_at_most(name, monkeypatch, restored_threads):
    in_small_pieces(monkeypatch)
    x, w, g, geo = operands(*LARGE[name])
    found = []
    for count in (1, 2, 5):
        threads.set_threads(count)
        found.append(by_kernel(x, w, g, geo))
    for other in found[1:]:
        for form in other:
            np.testing.assert_allclose(other[form], found[0][form], rtol=1e-12, atol=1e-12 * abs(found[0][form]).max())


@pytest.mark.parametrize("name", ["3x3 same", "4x4 stride 2", "depthwise", "1x1", "many in, three out"])
def test_strided_and_read_only_inputs(name):
    x, w, g, geo = operands(*CASES[name])
    want = by_kernel(x, w, g, geo)
    views = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, w, g)]
    views[0] = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for v in views:
        v.flags.writeable = False
    got = by_kernel(*views, geo)
    for form in want:
        np.testing.assert_array_equal(got[form], want[form])


def test_operands_are_left_alone():
    x, w, g, geo = operands(*CASES["3x3 same"])
    before = [a.copy() for a in (x, w, g)]
    by_kernel(x, w, g, geo)
    for a, b in zip((x, w, g), before):
        np.testing.assert_array_equal(a, b)


def test_empty_batch_gives_zero_weight_gradient():
    for name in (n for n in CASES if "empty" in n):
        x, w, g, geo = operands(*CASES[name])
        got = by_kernel(x, w, g, geo)
        assert got["forward"].shape[0] == got["input_grad"].shape[0] == 0
        assert got["weight_grad"].shape == w.shape and not got["weight_grad"].any()


def test_not_a_number_stays_where_it_falls():
    """A NaN reaches the outputs whose window holds it and no other; padding never makes one."""
    x, w, _, geo = operands(*CASES["3x3 same"])
    x[0, 2, 2, 1] = np.nan
    bad = np.isnan(K.forward(x, w, impl="gemm", **geo))
    want = np.zeros_like(bad)
    want[0, 1:4, 1:4] = True
    np.testing.assert_array_equal(bad, want)


def test_threads_of_python_do_not_share_scratch():
    from concurrent.futures import ThreadPoolExecutor

    x, w, g, geo = operands(*CASES["4x4 stride 2"])
    want = by_kernel(x, w, g, geo)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: by_kernel(x, w, g, geo), range(64)):
            assert all(np.array_equal(got[form], want[form]) for form in want)


@pytest.mark.parametrize("F", [3, 8])
def test_no_columns_are_laid_out(F):
    """49 taps: columns would take 49 times the memory of the image. (Compiled pieces hold at most CHUNK, unseen.)"""
    import tracemalloc

    x, w, g, geo = operands((1, 200, 100, 16), (7, 7, F), (1, 1), ((3, 3), (3, 3)), (1, 1), 1)
    by_kernel(x, w, g, geo)
    tracemalloc.start()
    by_kernel(x, w, g, geo)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * x.nbytes


def test_other_arrays_are_refused_by_name():
    x, w, _, geo = operands(*CASES["3x3 same"])
    with pytest.raises(TypeError, match="float64 and float32.*both float32 or both float64"):
        K.forward(x, w.astype(np.float32), **geo)
    with pytest.raises(TypeError, match="int64"):
        K.forward(x.astype(np.int64), w.astype(np.int64), **geo)
    with pytest.raises(TypeError, match="builtins.list.*numpy.ndarray"):
        K.forward(x.tolist(), w, **geo)


def test_importing_the_seam_does_not_import_numba():
    code = "import sys; import tinygen.kernels.conv2d; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("impl", ["direct", None])
@pytest.mark.parametrize("name", ["3x3 same", "3x3 valid", "two groups", "depthwise", "1x1 stride 2"])
def test_every_algorithm_is_the_same_function(name, impl):
    x, w, g, geo = operands(*CASES[name], seed=3)
    want, got = by_kernel(x, w, g, geo), by_kernel(x, w, g, geo, impl=impl)
    for form in want:
        np.testing.assert_allclose(got[form], want[form], rtol=1e-12, atol=1e-12 * np.abs(want[form]).max())


@pytest.mark.parametrize("name", [n for n in CASES if "empty" not in n])
def test_equals_torch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, w, g, geo = operands(*CASES[name])
    (top, bottom), (left, right) = geo["padding"]
    xt = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    wt = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous().requires_grad_()
    yt = torch.nn.functional.conv2d(
        torch.nn.functional.pad(xt, (left, right, top, bottom)),
        wt,
        stride=geo["stride"],
        dilation=geo["dilation"],
        groups=geo["groups"],
    )
    gxt, gwt = torch.autograd.grad(yt, (xt, wt), torch.from_numpy(g).permute(0, 3, 1, 2))
    got = by_kernel(x, w, g, geo)
    pairs = {"forward": yt.permute(0, 2, 3, 1), "input_grad": gxt.permute(0, 2, 3, 1)}
    pairs["weight_grad"] = gwt.permute(2, 3, 1, 0)
    for form, want in pairs.items():
        want = want.detach().numpy()
        np.testing.assert_allclose(got[form], want, rtol=1e-12, atol=1e-12 * np.abs(want).max(), err_msg=form)
