"""The CUDA attention against its formula in float64, over precisions, tails, masks and widths."""

import numpy as np
import pytest

from tinygen.kernels import attention as seam
from tinygen.kernels.attention import cuda as kernel

# relative to the largest entry, or to 1: products of rounded operands for "tf32" (10 bits) and "bf16" (7 bits)
BUDGET = {"float32": 2e-6, "tf32": 2e-3, "bf16": 2e-2}


def inputs(seed, N, heads, Tq, Tk, d, dv):
    """g, q, k, v"""
    r = np.random.default_rng(seed)
    shapes = (Tq, dv), (Tq, d), (Tk, d), (Tk, dv)
    return tuple(r.standard_normal((N, heads, *shape)).astype(np.float32) for shape in shapes)


def law(g, q, k, v, mask, causal, scale):
    """y, gq, gk, gv in float64."""
    g, q, k, v = (a.astype(np.float64) for a in (g, q, k, v))
    s = scale * q @ k.swapaxes(-1, -2)
    seen = np.ones(s.shape, bool) if mask is None else np.broadcast_to(mask, s.shape)
    if causal:
        seen = seen & np.tri(*s.shape[2:], s.shape[3] - s.shape[2], dtype=bool)
    s = np.where(seen, s, -np.inf)
    top = s.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    gp = g @ v.swapaxes(-1, -2)
    gs = scale * p * (gp - (p * gp).sum(-1, keepdims=True))
    return p @ v, gs @ k, gs.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g


def run(xp, arrays, mask=None, causal=False, scale=None, precision="float32"):
    g, q, k, v = (xp.asarray(a) for a in arrays)
    mask = None if mask is None else xp.asarray(mask)
    how = dict(causal=causal, scale=q.shape[3] ** -0.5 if scale is None else scale, precision=precision)
    y, hint = kernel.forward(q, k, v, mask, **how)
    return [xp.asnumpy(a) for a in (y, *kernel.backward(g, q, k, v, mask, hint=hint, **how))]


def check(xp, arrays, mask=None, causal=False, scale=None, precision="float32"):
    found = run(xp, arrays, mask, causal, scale, precision)
    want = law(*arrays, mask, causal, arrays[1].shape[3] ** -0.5 if scale is None else scale)
    for name, a, b in zip(("y", "gq", "gk", "gv"), found, want):
        assert a.shape == b.shape and a.dtype == np.float32
        if b.size:
            error = abs(a - b).max() / max(1.0, abs(b).max())
            assert error <= BUDGET[precision], f"{name}: {error:.1e}"
    return found


@pytest.mark.tiny
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_small(xp, precision):
    """More queries and more keys than a tile, neither a multiple of it; a mask; causal."""
    mask = np.random.default_rng(1).random((1, 1, 66, 69)) < 0.7
    check(xp, inputs(0, 1, 1, 66, 69, 8, 8), mask, True, precision=precision)


@pytest.mark.tiny
def test_rows_that_are_not_aligned(xp):
    check(xp, inputs(1, 1, 1, 5, 70, 7, 5))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("shape", [(2, 2, 65, 130, 32, 32), (1, 1, 130, 63, 128, 128)])
def test_precisions(xp, shape, precision):
    check(xp, inputs(2, *shape), precision=precision)


@pytest.mark.parametrize("shape, causal", [
    ((1, 1, 1, 1, 1, 1), False), ((1, 3, 1, 200, 64, 64), False), ((2, 1, 100, 40, 20, 12), True),
    ((1, 2, 40, 100, 12, 28), True), ((1, 1, 64, 64, 33, 60), False), ((1, 1, 128, 128, 64, 64), True),
    ((1, 1, 70, 70, 16, 100), False)])  # fmt: skip
def test_shapes(xp, shape, causal):
    check(xp, inputs(3, *shape), causal=causal)


@pytest.mark.parametrize("form", [(2, 3, 20, 70), (2, 1, 20, 70), (3, 1, 70), (20, 1), (1, 1, 1, 70), (70,), ()])
def test_masks(xp, form):
    mask = np.random.default_rng(4).random(form) < 0.6 if form else np.array(True)
    check(xp, inputs(5, 2, 3, 20, 70, 8, 8), mask)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_queries_that_see_nothing(xp, precision):
    mask = np.ones((1, 1, 70, 66), bool)
    mask[0, 0, ::3] = False
    arrays = inputs(6, 1, 1, 70, 66, 16, 16)
    y, gq, _, _ = check(xp, arrays, mask, precision=precision)
    assert (y[0, 0, ::3] == 0).all() and (gq[0, 0, ::3] == 0).all()
    y, gq, gk, gv = run(xp, arrays, np.zeros((1, 1, 1, 1), bool), precision=precision)
    assert not (y.any() or gq.any() or gk.any() or gv.any())


def test_large_scores(xp):
    """Scores of a thousand: the saved log-sum-exp has the digits that probabilities need."""
    g, q, k, v = inputs(7, 1, 1, 66, 66, 16, 16)
    k = np.where(np.arange(16) == 0, 1.0, 1e-3 * k).astype(np.float32)
    q = np.where(np.arange(16) == 0, 1000.0, q).astype(np.float32)
    found, want = run(xp, (g, q, k, v), scale=1.0), law(g, q, k, v, None, False, 1.0)
    for a, b in zip(found, want):
        assert abs(a - b).max() / max(1.0, abs(b).max()) < 1e-3  # 1000 · 6e-8 in a score, a few times over


def test_the_hint_is_the_cpus(xp):
    from tinygen.kernels.attention import cpu

    _, q, k, v = inputs(8, 1, 2, 40, 50, 16, 16)
    _, (_, lse) = kernel.forward(*(xp.asarray(a) for a in (q, k, v)), None, causal=True, scale=0.25)
    wide = (a.astype(np.float64) for a in (q, k, v))
    want = cpu.forward(*wide, None, causal=True, scale=0.25)[1]
    np.testing.assert_allclose(xp.asnumpy(lse), want, rtol=1e-6, atol=1e-6)


def test_nans_stay_in_their_rows(xp):
    _, q, k, v = inputs(9, 1, 1, 6, 70, 8, 8)
    q[0, 0, 2, 3] = np.nan
    for precision in BUDGET:
        y = xp.asnumpy(kernel.forward(*(xp.asarray(a) for a in (q, k, v)), None, causal=False, scale=1.0,
                                      precision=precision)[0])
        assert np.isnan(y[0, 0, 2]).all() and np.isfinite(np.delete(y, 2, 2)).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 8, 8), (2, 1, 0, 4, 8, 8), (2, 1, 3, 0, 8, 8), (2, 1, 3, 4, 8, 0)])
def test_empty(xp, shape):
    assert not any(a.any() for a in run(xp, inputs(10, *shape)))


def test_turned_inputs_and_the_same_bits(xp):
    arrays = inputs(11, 1, 2, 40, 70, 16, 16)
    once, again = run(xp, arrays), run(xp, arrays)
    turned = [xp.asarray(np.ascontiguousarray(a.transpose(0, 2, 1, 3))).transpose(0, 2, 1, 3) for a in arrays]
    y, hint = seam.forward(*turned[1:], None, causal=False, scale=0.25)
    for a, b, c in zip(once, again, (y, *seam.backward(*turned, None, causal=False, scale=0.25, hint=hint))):
        assert np.array_equal(a, b) and np.array_equal(a, xp.asnumpy(c))


@pytest.mark.parametrize("d", [16, 144])
def test_capture(xp, d):
    g, q, k, v = (xp.asarray(a) for a in inputs(12, 1, 2, 20, 70, d, d))
    mask = xp.asarray(np.random.default_rng(0).random((20, 70)) < 0.5)

    def step():
        y, hint = seam.forward(q, k, v, mask, causal=True, scale=0.25)
        return y, *seam.backward(g, q, k, v, mask, causal=True, scale=0.25, hint=hint)

    step()
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        captured = step()
        graph = stream.end_capture()
    for factor in (1.0, 0.5):
        k *= factor
        graph.launch()
        xp.cuda.Device(0).synchronize()
        for a, b in zip(captured, step()):
            assert np.array_equal(xp.asnumpy(a), xp.asnumpy(b))


def test_wide_heads(xp, monkeypatch):
    """More than 128 numbers a head: whole scores, cut by matrices and by queries where there are too many."""
    arrays = inputs(13, 2, 2, 40, 30, 130, 20)
    mask = np.random.default_rng(1).random((2, 1, 40, 30)) < 0.6
    mask[0, 0, 3] = False
    check(xp, arrays, mask, True)
    for most in (2 * 40 * 30, 7 * 30):
        monkeypatch.setattr(kernel, "_SCORES", most)
        check(xp, arrays, mask, True)


def test_unknown_precisions(xp):
    q = xp.zeros((1, 1, 2, 4), np.float32)
    with pytest.raises(ValueError, match="not 'half'"):
        kernel.forward(q, q, q, None, causal=False, scale=1.0, precision="half")
    with pytest.raises(TypeError, match="float64"):
        kernel.forward(*[q.astype(np.float64)] * 3, None, causal=False, scale=1.0)
