"""Kernels and their laws at orders one to three, which of them runs, and recompute."""

import tracemalloc

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops, tape
from tinygen.audit.check import check_grads

MASK = np.array([[True, True, False], [False, False, False]])
QKV = [(1, 2, 2, 2), (1, 2, 3, 2), (1, 2, 3, 1)]
LABELS = np.array([[0, 3], [2, 2], [1, 0]])

# name: (function of impl and tensors, shapes). Small: every number is differenced at three orders.
FUSED = {
    "group_norm": (lambda impl, x, w, b: ops.group_norm(x, w, b, groups=2, eps=0.1, impl=impl),
                   [(2, 3, 4), (4,), (4,)]),
    "group_norm silu": (lambda impl, x, w, b: ops.group_norm(x, w, b, groups=2, silu=True, impl=impl),
                        [(2, 2, 6), (6,), (6,)]),
    "group_norm bare": (lambda impl, x: ops.group_norm(x, groups=2, eps=0.1, impl=impl), [(2, 3, 4)]),
    "layer_norm": (lambda impl, x, w, b: ops.layer_norm(x, w, b, eps=0.01, impl=impl), [(3, 4), (4,), (4,)]),
    "layer_norm no b": (lambda impl, x, w: ops.layer_norm(x, w, eps=0.1, impl=impl), [(2, 2, 3), (3,)]),
    "batch_norm": (lambda impl, x, w, b: ops.batch_norm(x, w, b, eps=0.1, impl=impl),
                   [(3, 2, 2), (2,), (2,)]),
    "batch_norm no w": (lambda impl, x, b: ops.batch_norm(x, None, b, eps=0.1, impl=impl)[0], [(4, 2), (2,)]),
    "attention": (lambda impl, q, k, v: ops.attention(q, k, v, impl=impl), QKV),
    "attention masked": (
        lambda impl, q, k, v: ops.attention(q, k, v, MASK, causal=True, scale=0.7, impl=impl), QKV),
    "softmax_cross_entropy": (lambda impl, z: ops.softmax_cross_entropy(z, LABELS, impl=impl), [(3, 2, 4)]),
}


def arrays_for(shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


@pytest.mark.parametrize("impl", ["law", "kernel"])
@pytest.mark.parametrize("name", FUSED)
def test_three_orders_against_central_differences(name, impl):
    fn, shapes = FUSED[name]
    check_grads(lambda *xs: fn(impl, *xs), arrays_for(shapes), order=3)


def total(y):
    """A scalar of one or several outputs whose second derivatives are not zero."""
    return sum((part * part * part).sum() for part in (y if isinstance(y, tuple) else (y,)))


# sizes that are odd, that have a tail after any vector width, and that reach the threaded paths
SIZES = {
    "group_norm": [((3, 5, 7, 6), (6,), (6,)), ((2, 65, 48), (48,), (48,)), ((4, 40, 40, 20), (20,), (20,))],
    "layer_norm no b": [((7, 33), (33,)), ((1, 5), (5,)), ((50, 3, 129), (129,))],
    "batch_norm": [((37, 5), (5,), (5,)), ((1, 3), (3,), (3,)), ((9, 11, 13, 17), (17,), (17,))],
    "attention": [((2, 3, 17, 9), (2, 3, 31, 9), (2, 3, 31, 5)), ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1))],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name,shapes", [(n, s) for n, several in SIZES.items() for s in several])
def test_kernel_agrees_with_law(name, shapes, dtype):
    fn, found = FUSED[name][0], {}
    for impl in ("kernel", "law"):
        xs = [tg.Tensor(a, requires_grad=True) for a in arrays_for(shapes, 1, dtype)]
        y = fn(impl, *xs)
        found[impl] = [*(y if isinstance(y, tuple) else (y,)), *tg.grad(total(y), xs)]
    for a, b in zip(found["kernel"], found["law"]):
        assert a.dtype == b.dtype == dtype and a.shape == b.shape
        error = np.abs(a.numpy() - b.numpy()).max() / max(1.0, np.abs(b.numpy()).max())
        assert error < (1e-10 if dtype == np.float64 else 2e-5)


def test_statistics_do_not_count_as_constants_in_the_second_derivative():
    """What a kernel that saves its statistics gets wrong, and that the difference is far above any
    tolerance."""
    xs = [tg.Tensor(a, requires_grad=True) for a in arrays_for([(2, 3, 4), (4,), (4,)], 2)]
    x, w, _ = xs

    def second(gx):
        return tg.grad((gx * gx).sum(), x).numpy()

    def gradient(impl):
        return tg.grad(total(ops.layer_norm(*xs, impl=impl)), x, create_graph=True)

    truth = second(gradient("law"))
    y = ops.layer_norm(*xs, impl="law")
    mean = x.mean(-1, True).detach()
    rstd = (1 / ops.sqrt(ops.var(x, -1, True) + 1e-5)).detach()
    u, h = (x - mean) * rstd, 3 * y * y * w
    frozen = rstd * (h - h.mean(-1, True) - u * (h * u).mean(-1, True))
    # the first derivative is right either way
    assert np.allclose(frozen.numpy(), gradient("law").numpy(), rtol=1e-4)
    scale = np.abs(truth).max()
    assert np.abs(second(frozen) - truth).max() > 0.01 * scale
    assert np.abs(second(gradient("kernel")) - truth).max() < 1e-10 * scale


@pytest.mark.parametrize("impl", ["law", "kernel"])
def test_one_tensor_in_several_slots(impl):
    check_grads(lambda x: ops.attention(x, x, x, causal=True, impl=impl), arrays_for([(1, 2, 3, 2)]), order=3)
    check_grads(lambda x, w: ops.group_norm(x, w, w, groups=2, eps=0.1, impl=impl),
                arrays_for([(2, 3, 4), (4,)]), order=2)


# ---- which one runs


def seen(fn):
    """Names of the operations that run."""
    names = []
    with tape.observe(lambda op, arrays, y, attrs, node: names.append(op.name)):
        fn()
    return names


def test_kernel_or_law():
    (x64,) = arrays_for([(2, 3, 4)])
    x32 = x64.astype(np.float32)
    assert seen(lambda: ops.group_norm(x32, groups=2)) == ["group_norm"]
    assert "group_norm" not in seen(lambda: ops.group_norm(x64, groups=2))
    assert seen(lambda: ops.group_norm(x64, groups=2, impl="kernel")) == ["group_norm"]
    assert "group_norm" not in seen(lambda: ops.group_norm(x32, groups=2, impl="law"))
    q = np.ones((1, 1, 2, 2), np.float32)
    assert seen(lambda: ops.attention(q, q, q, np.ones((2, 2), bool))) == ["attention"]
    bias = np.zeros((2, 2), np.float32)
    assert "matmul" in seen(lambda: ops.attention(q, q, q, bias))  # a float mask: the law
    with pytest.raises(ValueError, match="impl is 'law' or 'kernel', not 'fast'"):
        ops.group_norm(x32, groups=2, impl="fast")


def test_the_law_runs_from_the_second_order_only():
    x = tg.Tensor(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32), requires_grad=True)
    y = ops.layer_norm(x).sum()
    assert seen(lambda: tg.grad(y, x, retain_graph=True)).count("layer_norm_grad") == 1
    assert "rsqrt" not in seen(lambda: tg.grad(y, x, create_graph=True))
    g = tg.grad(y, x, create_graph=True)
    assert "rsqrt" in seen(lambda: tg.grad((g * g).sum(), x))


def test_constant_inputs_and_inputs_left_out():
    x, w = arrays_for([(4, 3), (3,)], dtype=np.float32)
    b = tg.Tensor(np.zeros(3, np.float32), requires_grad=True)
    assert tg.grad(total(ops.layer_norm(x, w, b)), b).shape == (3,)
    assert tg.grad(total(ops.layer_norm(x, None, b)), b).shape == (3,)
    leaf = tg.Tensor(x, requires_grad=True)
    g = tg.grad(total(ops.layer_norm(leaf, None, b)), [leaf, b], create_graph=True)
    assert [t.shape for t in tg.grad(total(tuple(g)), [leaf, b])] == [(4, 3), (3,)]


def test_each_output_alone():
    x = tg.Tensor(arrays_for([(5, 3)], dtype=np.float32)[0], requires_grad=True)
    for impl in ("law", "kernel"):
        y, mean, var = ops.batch_norm(x, impl=impl)
        assert np.allclose(mean.numpy(), x.numpy().mean(0), atol=1e-6)
        assert np.allclose(var.numpy(), x.numpy().var(0), atol=1e-6)
        assert np.allclose(tg.grad(mean.sum(), x).numpy(), 1 / 5)
        assert np.allclose(tg.grad(ops.batch_norm(x, impl=impl)[2].sum(), x).numpy(),
                           2 * (x.numpy() - x.numpy().mean(0)) / 5, atol=1e-6)
        assert not mean.detach().requires_grad


def test_a_failing_kernel_is_not_replaced_in_silence():
    """An array that the kernel refuses raises; only impl="law" asks for the law."""
    half = np.zeros((2, 4), np.float16)
    with pytest.raises(tg.DtypeError, match="float32 or float64"):
        ops.layer_norm(half, impl="kernel")


# ---- recompute


def block(w1, w2):
    return lambda x: ops.tanh(ops.silu(x @ w1) @ w2) * x


def leaves(*shapes, dtype=np.float64):
    return [tg.Tensor(a / 2, requires_grad=True) for a in arrays_for(shapes, 5, dtype)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recompute_gives_the_same_bits(dtype):
    x, w1, w2 = leaves((4, 3), (3, 5), (5, 3), dtype=dtype)
    found = []
    for wrap in (lambda f: f, tg.recompute, lambda f: tg.recompute(tg.recompute(f))):
        y = wrap(block(w1, w2))(wrap(block(w1, w2))(x))
        found.append([y, *tg.grad(total(y), [x, w1, w2])])
    for other in found[1:]:
        assert all((a.numpy() == b.numpy()).all() for a, b in zip(found[0], other))


def test_recompute_to_order_three():
    def fn(x, w1, w2):
        inner = tg.recompute(block(w1, w2))
        return tg.recompute(lambda t: inner(inner(t)))(x)

    check_grads(fn, arrays_for([(2, 2), (2, 2), (2, 2)]), order=3)


def test_recompute_around_kernels_with_parameters_outside():
    x, w, b = leaves((2, 3, 4), (4,), (4,), dtype=np.float32)

    def fn(x):
        h = ops.group_norm(x, w, b, groups=2, silu=True).reshape(2, 1, 3, 4)
        return ops.attention(h, h, h) + x.mean()

    found = []
    for run in (fn, tg.recompute(fn)):
        g = tg.grad(total(run(x)), [x, w, b], create_graph=True)
        found.append([*g, *tg.grad(total(tuple(g)), [x, w, b])])
    for a, b in zip(*found):
        assert np.allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_recompute_with_an_input_that_is_also_captured_constants_and_twice_the_same():
    x, w = leaves((3, 3), (3, 3))

    def fn(a, b, power=1):
        return a @ w @ b + (a * x) ** power

    for args in ((x, x), (x, w), (w, x)):
        plain = tg.grad(total(fn(*args, power=3)), [x, w])
        again = tg.grad(total(tg.recompute(fn)(*args, power=3)), [x, w])
        assert all(np.allclose(a.numpy(), b.numpy(), rtol=1e-12) for a, b in zip(plain, again))
    constant = np.ones((3, 3))
    assert tg.grad(tg.recompute(lambda t: t @ w)(tg.Tensor(constant)).sum(), w).shape == (3, 3)
    assert not tg.recompute(lambda t: t * 2.0)(tg.Tensor(constant)).requires_grad
    with tg.no_grad():
        assert not tg.recompute(lambda t: t * 2.0)(x).requires_grad


def test_recompute_keeps_less():
    def chain(x):
        for _ in range(16):
            x = ops.tanh(x)
        return x

    x = tg.Tensor(np.random.default_rng(0).standard_normal(1 << 16), requires_grad=True)
    kept = []
    for run in (chain, tg.recompute(chain)):
        tracemalloc.start()
        y = run(run(x))
        kept.append(tracemalloc.get_traced_memory()[0] / x.data.nbytes)
        tracemalloc.stop()
        del y
    assert kept[0] > 31 and kept[1] < 3
