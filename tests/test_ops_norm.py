"""The normalisations against PyTorch and their loops; dropout; errors."""

import numpy as np
import pytest
from numba import njit

import tinygen as tg
from tinygen import ops
from tinygen.kernels import batch_norm as batch_kernel
from tinygen.kernels import layer_norm as layer_kernel
from tinygen.kernels.batch_norm import loops as batch_loops
from tinygen.kernels.layer_norm import loops as layer_loops

layer_forward, layer_backward = njit(layer_loops.forward), njit(layer_loops.backward)
batch_forward, batch_backward = njit(batch_loops.forward), njit(batch_loops.backward)


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return np.abs(a - b).max(initial=0) / max(1.0, np.abs(b).max(initial=0))


def both(torch, ours, theirs, arrays, tolerance=1e-10):
    """Value, first and second gradients of a scalar made of the result, from both libraries."""
    mine = [tg.Tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ours(*mine), theirs(*other)
    assert relative(y.numpy(), z.detach().numpy()) < tolerance
    first = tg.grad((y * y * y).sum(), mine, create_graph=True)
    second = torch.autograd.grad((z * z * z).sum(), other, create_graph=True)
    for a, b in zip(first, second):
        assert relative(a.numpy(), b.detach().numpy()) < tolerance
    again = tg.grad(sum((g * g).sum() for g in first), mine)
    for a, b in zip(again, torch.autograd.grad(sum((g * g).sum() for g in second), other)):
        assert relative(a.numpy(), b.numpy()) < tolerance


def channels_first(f):
    return lambda x, *p: f(x.permute(0, 3, 1, 2), *p).permute(0, 2, 3, 1)


@pytest.mark.parametrize("impl", ["law", "kernel"])
@pytest.mark.parametrize("seed", range(6))
def test_norms_agree_with_torch_to_order_two(seed, impl):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    C = groups * int(rng.integers(2, 5))
    shape = (int(rng.integers(2, 5)), *map(int, rng.integers(2, 7, 2)), C)
    arrays = [3 * rng.standard_normal(shape) + 1, rng.standard_normal(C), rng.standard_normal(C)]
    eps = 10.0 ** -int(rng.integers(2, 6))

    both(torch, lambda x, w, b: ops.group_norm(x, w, b, groups=groups, eps=eps, impl=impl),
         channels_first(lambda x, w, b: F.group_norm(x, groups, w, b, eps)), arrays)
    both(torch, lambda x, w, b: ops.group_norm(x, w, b, groups=groups, eps=eps, silu=True, impl=impl),
         channels_first(lambda x, w, b: F.silu(F.group_norm(x, groups, w, b, eps))), arrays)
    both(torch, lambda x, w, b: ops.layer_norm(x, w, b, eps=eps, impl=impl),
         lambda x, w, b: F.layer_norm(x, (C,), w, b, eps), arrays)
    both(torch, lambda x, w, b: ops.batch_norm(x, w, b, eps=eps, impl=impl)[0],
         channels_first(lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.0, eps)), arrays)


def test_the_others_agree_with_torch():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal(3), rng.standard_normal(3)
    mean, var = rng.standard_normal(3), rng.uniform(0.5, 2, 3)
    m, v = tg.Tensor(mean), tg.Tensor(var)
    tm, tv = torch.tensor(mean), torch.tensor(var)
    both(torch, lambda x, w, b: ops.instance_norm(x, w, b),
         channels_first(lambda x, w, b: F.instance_norm(x, weight=w, bias=b)), [x, w, b])
    both(torch, lambda x: ops.instance_norm(x), channels_first(lambda x: F.instance_norm(x)), [x])
    both(torch, lambda x, w, b: ops.batch_norm_inference(x, w, b, m, v),
         channels_first(lambda x, w, b: F.batch_norm(x, tm, tv, w, b)), [x, w, b])
    both(torch, ops.pixel_norm, lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-8).sqrt(), [x])
    bare = ops.batch_norm_inference(tg.Tensor(x), None, None, m, v, eps=0.1).numpy()
    assert relative(bare, (x - mean) / np.sqrt(var + 0.1)) < 1e-14


@pytest.mark.parametrize("rows,C", [(1, 1), (3, 5), (40, 7), (17, 64)])
def test_kernels_agree_with_their_loops(rows, C):
    rng = np.random.default_rng(rows)
    g, x = rng.standard_normal((2, rows, C)) * 3 + 1
    w, b, g_mean, g_var = rng.standard_normal((4, C))
    y, mean, rstd = layer_forward(x, w, b, 0.01)
    fast, hint = layer_kernel.forward(x, w, b, eps=0.01)
    assert relative(fast, y) < 1e-12
    for a, d in zip(layer_kernel.backward(g, x, w, b, eps=0.01, hint=hint),
                    layer_backward(g, x, w, mean, rstd)):
        assert relative(a, d) < 1e-12
    y, mean, var = batch_forward(x, w, b, 0.01)
    fast, hint = batch_kernel.forward(x, w, b, eps=0.01)
    for a, d in zip(fast, (y, mean, var)):
        assert relative(a, d) < 1e-12
    for a, d in zip(batch_kernel.backward((g, g_mean, g_var), x, w, b, eps=0.01, hint=hint),
                    batch_backward(g, g_mean, g_var, x, w, mean, var, 0.01)):
        assert relative(a, d) < 1e-12


@pytest.mark.parametrize("op", [lambda x: ops.layer_norm(x), lambda x: ops.batch_norm(x)[0],
                                lambda x: ops.group_norm(x, groups=2)])
def test_a_large_mean_does_not_cancel_in_float32(op):
    rng = np.random.default_rng(1)
    x = (1000 + rng.standard_normal((64, 8))).astype(np.float32)
    assert relative(op(x).numpy(), op(x.astype(np.float64)).numpy()) < 1e-3


def test_kernels_take_arrays_that_are_not_contiguous_and_give_the_same_bits_again():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((8, 40, 30)).astype(np.float32)
    for op in (lambda x: ops.layer_norm(x), lambda x: ops.batch_norm(x)[0]):
        strided, packed = op(x.transpose(2, 1, 0)).numpy(), op(x.transpose(2, 1, 0).copy()).numpy()
        assert (strided == packed).all() and strided.flags.c_contiguous


def test_dtypes():
    x = np.ones((2, 3, 4), np.float32)
    plain = [op(x) for op in (ops.layer_norm, ops.instance_norm, ops.pixel_norm)]
    for y in (ops.group_norm(x, groups=2), *ops.batch_norm(x), *plain):
        assert y.dtype == np.float32


# ---- dropout


def test_dropout_keeps_the_mean_and_is_a_function_of_its_stream():
    rng = tg.Rng(0)
    x = tg.Tensor(np.ones((200, 100), np.float32), requires_grad=True)
    y = ops.dropout(x, 0.3, rng, "layer", 5)
    values = np.unique(y.numpy())
    assert len(values) == 2 and np.allclose(values, [0, 1 / 0.7])
    assert abs((y.numpy() == 0).mean() - 0.3) < 5 * np.sqrt(0.21 / 20000)
    assert (ops.dropout(x, 0.3, rng, "layer", 5).numpy() == y.numpy()).all()
    assert (ops.dropout(x, 0.3, rng, "layer", 6).numpy() != y.numpy()).any()
    assert (tg.grad(y.sum(), x).numpy() == y.numpy()).all()
    again = tg.recompute(lambda x: ops.dropout(x, 0.3, rng, "layer", 5) * x)(x)
    assert np.allclose(tg.grad(again.sum(), x).numpy(), 2 * y.numpy())
    assert ops.dropout(x, 0.0, rng, "layer", 5) is x
    with pytest.raises(tg.ShapeError, match="dropout needs 0 ≤ p < 1; got 1"):
        ops.dropout(x, 1, rng, "layer", 5)


def message(call):
    with pytest.raises(tg.TinygenError) as found:
        call()
    return str(found.value)


def test_errors():
    x = np.zeros((2, 4, 4, 6), np.float32)
    text = message(lambda: ops.group_norm(x, groups=4))
    assert text.endswith("group_norm needs groups to divide x.C; 4 does not divide 6.")
    text = message(lambda: ops.group_norm(x, np.ones(5, np.float32), np.ones(6, np.float32), groups=2))
    assert text.startswith("group_norm at ")
    assert text.endswith("group_norm needs w of shape (C,) = (6,); got (5,).")
    assert "layer_norm needs b of shape (C,) = (6,); got (1, 6)." in message(
        lambda: ops.layer_norm(x, None, np.ones((1, 6), np.float32)))
    assert "at least two axes; x has 1" in message(lambda: ops.layer_norm(x[0, 0, 0]))
    assert "batch_norm needs at least one position" in message(lambda: ops.batch_norm(x[:0]))
    assert "needs floats, not int64" in message(lambda: ops.batch_norm(x.astype(int)))
    assert "float32 and float64 meet" in message(lambda: ops.layer_norm(x, np.ones(6)))
