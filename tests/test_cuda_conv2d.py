"""The convolutions on the device against their definition, summed in float64.

The error budget is that of the CPU's gemm: number by number, λ √k u Σ|x||w|, λ = 4, k the products of a sum, u = 2⁻²⁴
(2⁻⁵³ in double); "tf32" and "bf16" round the operands first, on either side (kernels/conv2d/README.md)."""

import numpy as np
import pytest

from tinygen.kernels import conv2d as K
from tinygen.kernels.conv2d import cuda as launcher
from tinygen.kernels.gemm import round_to

PASSES = ("forward", "input_grad", "weight_grad")

# x shape, (kh, kw, F), stride, padding, dilation, groups
CASES = {
    "3x3": ((2, 6, 5, 4), (3, 3, 8), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "3x3, odd channels": ((2, 6, 5, 3), (3, 3, 7), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "3x3, one channel": ((3, 7, 7, 1), (3, 3, 9), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "one channel out": ((3, 7, 7, 8), (5, 5, 1), (1, 1), ((2, 2), (1, 2)), (1, 1), 1),
    "odd in, fours out": ((2, 5, 6, 3), (3, 3, 8), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "fours in, odd out": ((2, 5, 6, 8), (3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "more than a tile": ((3, 7, 7, 20), (3, 3, 68), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "padding wider than the kernel": ((1, 3, 4, 2), (2, 2, 3), (1, 1), ((4, 3), (3, 5)), (1, 1), 1),
    "asymmetric padding": ((2, 5, 7, 3), (3, 2, 4), (1, 1), ((0, 2), (1, 0)), (1, 1), 1),
    "4x4 stride 2": ((2, 8, 8, 4), (4, 4, 12), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "3x3 stride 2": ((2, 9, 8, 4), (3, 3, 12), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "stride leaves lines unread": ((2, 8, 9, 3), (2, 3, 4), (3, 4), ((0, 0), (1, 0)), (1, 1), 1),
    "stride larger than the kernel": ((1, 9, 7, 2), (2, 1, 3), (3, 2), ((1, 0), (0, 0)), (1, 1), 1),
    "dilation": ((2, 9, 8, 3), (3, 3, 4), (1, 1), ((2, 1), (0, 3)), (2, 3), 1),
    "dilation and stride": ((2, 9, 11, 4), (3, 2, 3), (2, 3), ((2, 3), (1, 2)), (3, 2), 1),
    "dilation and stride have a divisor": ((2, 13, 11, 4), (3, 4, 4), (4, 2), ((2, 3), (1, 2)), (2, 2), 1),
    "dilated taps all outside": ((1, 2, 2, 2), (2, 2, 3), (1, 1), ((5, 5), (5, 5)), (5, 5), 1),
    "two groups": ((2, 5, 5, 16), (3, 3, 24), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "three groups, stride 2": ((2, 6, 7, 9), (3, 3, 6), (2, 2), ((1, 1), (1, 0)), (1, 2), 3),
    "depthwise": ((2, 6, 5, 5), (3, 3, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    "depthwise, stride and dilation": ((2, 9, 8, 4), (3, 2, 8), (2, 3), ((2, 0), (1, 1)), (2, 1), 4),
    "1x1": ((2, 4, 5, 6), (1, 1, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 stride 2": ((2, 5, 6, 4), (1, 1, 3), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "one pixel": ((2, 1, 1, 3), (3, 3, 2), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "empty batch": ((0, 5, 5, 4), (3, 3, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "empty batch, depthwise": ((0, 5, 5, 4), (3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
}


def operands(x_shape, kernel, stride, padding, dilation, groups, dtype=np.float32):
    """Random x, w, g and the geometry as keywords."""
    rng = np.random.default_rng(0)
    (kh, kw, F), (N, H, W, C) = kernel, x_shape
    OH = (H + sum(padding[0]) - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    OW = (W + sum(padding[1]) - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    x, w, g = (rng.standard_normal(s).astype(dtype) for s in (x_shape, (kh, kw, C // groups, F), (N, OH, OW, F)))
    return x, w, g, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def law(x, w, g, geo):
    """The three passes by their definition: every tap a product over channels, in float64."""
    x, w, g = (t.astype(np.float64) for t in (x, w, g))
    ((top, bottom), (left, right)), (sh, sw), (dh, dw) = geo["padding"], geo["stride"], geo["dilation"]
    groups = geo["groups"]
    (kh, kw, c, F), (N, OH, OW, _), (_, H, W, C) = w.shape, g.shape, x.shape
    split = lambda t: t.reshape(*t.shape[:-1], groups, t.shape[-1] // groups)
    padded = split(np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    y, gw = np.zeros((N, OH, OW, groups, F // groups)), np.zeros((kh, kw, c, groups, F // groups))
    gpad = np.zeros_like(padded)
    for ky in range(kh):
        for kx in range(kw):
            at = (slice(None), slice(ky * dh, ky * dh + sh * OH, sh), slice(kx * dw, kx * dw + sw * OW, sw))
            y += np.einsum("nijgc,cgf->nijgf", padded[at][:, :OH, :OW], split(w[ky, kx]))
            gpad[at] += np.einsum("nijgf,cgf->nijgc", split(g), split(w[ky, kx]))
            gw[ky, kx] = np.einsum("nijgc,nijgf->cgf", padded[at][:, :OH, :OW], split(g))
    gx = gpad.reshape(N, *gpad.shape[1:3], C)[:, top : top + H, left : left + W]
    return {"forward": y.reshape(g.shape), "input_grad": gx, "weight_grad": gw.reshape(w.shape)}


def on_device(xp, x, w, g, geo, **how):
    X, W, G = (xp.asarray(t) for t in (x, w, g))
    return {
        "forward": K.forward(X, W, **geo, **how),
        "input_grad": K.input_grad(G, W, x_shape=x.shape, **geo, **how),
        "weight_grad": K.weight_grad(X, G, w_shape=w.shape, **geo, **how),
    }


def held(xp, made, x, w, g, geo, precision="float32"):
    """Are the three passes within the budget?"""
    u = 2.0**-24 if x.dtype == np.float32 else 2.0**-53
    rounded = [round_to(t, precision) for t in (x, w, g)]
    exact, size = law(*rounded, geo), law(*[abs(t) for t in rounded], geo)
    taps = w.shape[0] * w.shape[1]
    k = {"forward": taps * w.shape[2], "input_grad": taps * w.shape[3] // geo["groups"], "weight_grad": g[..., 0].size}
    for name in PASSES:
        y = xp.asnumpy(made[name])
        assert y.shape == exact[name].shape and y.dtype == x.dtype
        assert (abs(y - exact[name]) <= 4 * np.sqrt(k[name]) * u * size[name]).all(), name


@pytest.fixture
def tile(monkeypatch):
    """Ask for a tile and a number of slices, whatever the shape."""
    return lambda size, slices=1: monkeypatch.setattr(launcher, "plan", lambda *shape: (size, slices))


@pytest.mark.tiny
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_tiny(precision, xp):
    case = operands((1, 3, 3, 4), (2, 2, 4), (1, 2), ((1, 0), (0, 1)), (1, 1), 1)
    held(xp, on_device(xp, *case, precision=precision), *case, precision)


@pytest.mark.tiny
def test_tiny_depthwise(xp):
    case = operands((1, 3, 3, 2), (2, 2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1), 2)
    held(xp, on_device(xp, *case), *case)


@pytest.mark.parametrize("impl", ["gemm", "direct"])
@pytest.mark.parametrize("name", CASES)
def test_float32(name, impl, xp):
    case = operands(*CASES[name])
    held(xp, on_device(xp, *case, impl=impl), *case)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_tensor_cores(name, precision, xp):
    case = operands(*CASES[name])
    held(xp, on_device(xp, *case, precision=precision), *case, precision)


@pytest.mark.parametrize("name", ["4x4 stride 2", "dilation and stride", "two groups", "depthwise"])
@pytest.mark.parametrize("impl", ["gemm", "direct"])
def test_double(name, impl, xp):
    case = operands(*CASES[name], dtype=np.float64)
    held(xp, on_device(xp, *case, impl=impl), *case)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_large_tiles_and_slices(precision, xp, tile):
    tile(128, 3)
    case = operands((2, 9, 9, 20), (3, 2, 132), (1, 2), ((1, 1), (1, 0)), (1, 1), 1)
    made = on_device(xp, *case, precision=precision)
    held(xp, made, *case, precision)
    again = on_device(xp, *case, precision=precision)
    assert all((xp.asnumpy(made[k]) == xp.asnumpy(again[k])).all() for k in PASSES)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("impl", ["gemm", "direct"])
@pytest.mark.parametrize("channels", [8, 6])
def test_epilogue(slices, impl, channels, xp, tile):
    tile(64, slices)
    x, w, g, geo = operands((2, 5, 5, channels), (3, 3, channels), (1, 1), ((1, 1), (1, 1)), (1, 1), 2)
    X, W, G = (xp.asarray(t) for t in (x, w, g))
    bias, residual = X[0, 0, 0].copy(), G.copy()
    plain = launcher.forward(X, W, impl=impl, **geo)
    y = launcher.forward(X, W, impl=impl, bias=bias, residual=residual, **geo)
    np.testing.assert_allclose(xp.asnumpy(y), xp.asnumpy(plain + bias + residual), rtol=1e-6, atol=1e-6)
    plain = launcher.input_grad(G, W, x_shape=x.shape, impl=impl, **geo)
    y = launcher.input_grad(G, W, x_shape=x.shape, impl=impl, bias=bias, residual=X, **geo)
    np.testing.assert_allclose(xp.asnumpy(y), xp.asnumpy(plain + bias + X), rtol=1e-6, atol=1e-6)


def test_views(xp):
    x, w, g, geo = operands((2, 6, 5, 4), (3, 3, 8), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    X, W, G = (xp.asarray(np.ascontiguousarray(t.swapaxes(0, -1))).swapaxes(0, -1) for t in (x, w, g))
    backwards = xp.asarray(np.ascontiguousarray(x[:, ::-1]))[:, ::-1]
    made = {"forward": K.forward(backwards, W, **geo), "input_grad": K.input_grad(G, W, x_shape=x.shape, **geo),
            "weight_grad": K.weight_grad(X, G, w_shape=w.shape, **geo)}  # fmt: skip
    held(xp, made, x, w, g, geo)


def test_not_a_number_stays_in_its_windows(xp):
    x, w, g, geo = operands((1, 6, 6, 4), (3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x[0, 2, 2, 1] = np.nan
    wrong = np.isnan(xp.asnumpy(K.forward(xp.asarray(x), xp.asarray(w), **geo)))
    assert wrong[0, 1:4, 1:4].all() and wrong.sum() == 9 * 4


def test_what_it_does_not_know(xp):
    x, w, g, geo = operands((1, 3, 3, 4), (3, 3, 4), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    X, W = xp.asarray(x), xp.asarray(w)
    with pytest.raises(ValueError, match="'winograd4'"):
        K.forward(X, W, impl="winograd4", **geo)
    with pytest.raises(ValueError, match="'half'"):
        K.forward(X, W, precision="half", **geo)
    with pytest.raises(TypeError, match="both float32 or both float64"):
        K.forward(X, w, **geo)
    with pytest.raises(TypeError, match="both on the CPU"):
        K.forward(x, W, **geo)


def test_capture(xp):
    x, w, g, geo = operands((2, 6, 6, 8), (3, 3, 8), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    X, W, G, bias = (xp.asarray(t) for t in (x, w, g, w[0, 0, 0]))
    run = lambda: (K.forward(X, W, bias=bias, **geo), K.input_grad(G, W, x_shape=x.shape, **geo),
                   K.weight_grad(X, G, w_shape=w.shape, precision="bf16", **geo),
                   K.weight_grad(X, G, w_shape=w.shape, impl="direct", **geo))  # fmt: skip
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        captured = run()
        graph = stream.end_capture()
    for _ in range(2):
        graph.launch(stream)
        for a, b in zip(captured, run()):
            assert (xp.asnumpy(a) == xp.asnumpy(b)).all()
        X *= 3
        G += 1


def test_precision_on_the_cpu():
    x, w, g, geo = operands(*CASES["3x3"])
    for precision in ("tf32", "bf16"):
        y = K.forward(x, w, precision=precision, **geo)
        np.testing.assert_array_equal(y, K.forward(round_to(x, precision), round_to(w, precision), **geo))
        assert (y != K.forward(x, w, **geo)).any()
