"""The convolutions against PyTorch, against finite differences, and their errors."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.audit.check import check_grads


def random_geometry(rng):
    """(x shape, w shape, attributes) of a random convolution that exists."""
    while True:
        groups = int(rng.integers(1, 4))
        k, s, d = rng.integers(1, 5, 2), rng.integers(1, 4, 2), rng.integers(1, 3, 2)
        pad = rng.integers(0, 3, (2, 2))
        size = rng.integers(1, 9, 2)
        if all(size + pad.sum(1) >= d * (k - 1) + 1):
            break
    C, F = (int(n) * groups for n in rng.integers(1, 4, 2))
    attrs = {"stride": tuple(map(int, s)), "padding": tuple((int(a), int(b)) for a, b in pad),
             "dilation": tuple(map(int, d)), "groups": groups}
    x_shape = (int(rng.integers(1, 4)), *map(int, size), C)
    return x_shape, (*map(int, k), C // groups, F), attrs


def close(a, b, tolerance=1e-10):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.abs(a - b).max(initial=0) <= tolerance * max(1.0, np.abs(b).max(initial=0))


def torch_conv(torch, x, w, b, stride, padding, dilation, groups):
    """The same in torch, with N, H, W, C and kh, kw, C, F outside."""
    (top, bottom), (left, right) = padding
    x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    y = torch.nn.functional.conv2d(x, w.permute(3, 2, 0, 1), b, stride, 0, dilation, groups)
    return y.permute(0, 2, 3, 1)


def both(torch, ours, theirs, arrays):
    """Value, first and second gradients of a scalar made of the result, from both libraries."""
    mine = [tg.Tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ours(*mine), theirs(*other)
    close(y.numpy(), z.detach().numpy())
    first = tg.grad((y * y * y).sum(), mine, create_graph=True)
    second = torch.autograd.grad((z * z * z).sum(), other, create_graph=True)
    for a, b in zip(first, second):
        close(a.numpy(), b.detach().numpy())
    again = tg.grad(sum((g * g).sum() for g in first), mine)
    for a, b in zip(again, torch.autograd.grad(sum((g * g).sum() for g in second), other)):
        close(a.numpy(), b.numpy())


@pytest.mark.parametrize("seed", range(25))
def test_conv2d_agrees_with_torch_to_order_two(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    x_shape, w_shape, attrs = random_geometry(rng)
    arrays = [rng.standard_normal(s) / 2 for s in (x_shape, w_shape, w_shape[3:])]
    both(torch, lambda x, w, b: ops.conv2d(x, w, b, **attrs),
         lambda x, w, b: torch_conv(torch, x, w, b, **attrs), arrays)


@pytest.mark.parametrize("seed", range(25))
def test_conv_transpose2d_agrees_with_torch_to_order_two(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 3))
    C, F = (int(n) * groups for n in rng.integers(1, 4, 2))
    k, s = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    attrs = {"stride": s, "padding": int(rng.integers(0, 2)), "output_padding": int(rng.integers(0, s)),
             "groups": groups, "dilation": int(rng.integers(1, 3))}
    x_shape = (int(rng.integers(1, 3)), *map(int, rng.integers(2, 5, 2)), C)
    arrays = [rng.standard_normal(shape) / 2 for shape in (x_shape, (k, k, C // groups, F), (F,))]

    def theirs(x, w, b):
        a, c = C // groups, F // groups
        w = w.permute(2, 3, 0, 1).reshape(a, groups, c, k, k).transpose(0, 1).reshape(C, c, k, k).contiguous()
        y = torch.nn.functional.conv_transpose2d(x.permute(0, 3, 1, 2).contiguous(), w, b, **attrs)
        return y.permute(0, 2, 3, 1)

    both(torch, lambda x, w, b: ops.conv_transpose2d(x, w, b, **attrs), theirs, arrays)


@pytest.mark.parametrize("impl", ["direct", "gemm", "winograd2", "winograd4", None])
def test_a_transposed_convolution_by_every_algorithm(impl):
    rng = np.random.default_rng(6)
    x, w, b = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
    y = ops.conv_transpose2d(x, w, b, padding=1, impl=impl)
    close(y.numpy(), ops.conv_transpose2d(x, w, b, padding=1, impl="direct").numpy(), 1e-12)
    check_grads(lambda x, w, b: ops.square(ops.conv_transpose2d(x, w, b, padding=1, impl=impl)), [x, w, b], order=2)
    with pytest.raises(tg.ShapeError, match="conv_transpose2d with impl='winograd4' needs a 3×3 kernel, stride 1"):
        ops.conv_transpose2d(x, w, stride=2, impl="winograd4")


def test_one_dimensional_convolutions_agree_with_torch():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((2, 9, 4), (3, 2, 6), (6,))]
    both(torch, lambda x, w, b: ops.conv1d(x, w, b, stride=2, padding=1, dilation=2, groups=2),
         lambda x, w, b: F.conv1d(x.mT, w.permute(2, 1, 0), b, 2, 1, 2, 2).mT, arrays)
    arrays[1] = rng.standard_normal((3, 4, 6))
    both(torch, lambda x, w, b: ops.conv_transpose1d(x, w, b, stride=2, padding=1, output_padding=1),
         lambda x, w, b: F.conv_transpose1d(x.mT, w.permute(1, 2, 0), b, 2, 1, 1).mT, arrays)
    assert ops.conv1d(arrays[0], rng.standard_normal((3, 4, 5)), padding="same", stride=2).shape == (2, 5, 5)
    assert ops.conv1d(arrays[0], rng.standard_normal((3, 4, 5)), padding=(2, 0)).shape == (2, 9, 5)


def test_the_family_is_closed_at_order_three():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 4, 3, 2)), rng.standard_normal((2, 3, 1, 4))
    check_grads(lambda x, w: ops.square(ops.conv2d(x, w, stride=2, padding=1, groups=2)), [x, w], order=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept_and_the_forms_are_adjoint(dtype):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 5, 4, 3)).astype(dtype), rng.standard_normal((3, 3, 3, 2)).astype(dtype)
    y = ops.conv2d(x, w, stride=2, padding=1)
    g = rng.standard_normal(y.shape).astype(dtype)
    gx = ops.conv2d_input_grad(g, w, x_shape=x.shape, stride=2, padding=1)
    gw = ops.conv2d_weight_grad(x, g, w_shape=w.shape, stride=2, padding=1)
    assert y.dtype == gx.dtype == gw.dtype == dtype
    inner = (y.numpy() * g).sum()
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    assert abs((gx.numpy() * x).sum() - inner) < tolerance
    assert abs((gw.numpy() * w).sum() - inner) < tolerance


@pytest.mark.parametrize("size", [(7, 6), (8, 5), (1, 2)])
@pytest.mark.parametrize("kernel", [(3, 2), (4, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_gives_the_size_divided_by_the_stride(size, kernel, stride):
    x, w = np.zeros((1, *size, 1)), np.zeros((*kernel, 1, 1))
    y = ops.conv2d(x, w, stride=stride, padding="same", dilation=2)
    assert y.shape[1:3] == tuple(-(-n // stride) for n in size)


def test_spellings_of_padding():
    x, w = np.ones((1, 5, 6, 1)), np.ones((3, 3, 1, 1))
    expected = ops.conv2d(x, w, padding=((1, 1), (2, 2))).numpy()
    assert (ops.conv2d(x, w, padding=(1, 2)).numpy() == expected).all()
    assert (ops.conv2d(x, w, padding=((1, 1), 2)).numpy() == expected).all()
    assert (ops.conv2d(x, w, None, 1, (1, 2)).numpy() == expected).all()
    assert ops.conv2d(x, w, padding=((2, 0), (0, 1))).shape == (1, 5, 5, 1)


def test_flops_count_two_for_each_product():
    x, w, b = np.zeros((2, 5, 6, 4)), np.zeros((3, 2, 2, 8)), np.zeros(8)
    y = ops.conv2d(x, w, b, stride=2, groups=2)
    products = y.size * 3 * 2 * 2
    flops = {name: op.flops for name, op in ops.registry.items()}
    assert flops["conv2d"](x, w, stride=2, groups=2) == 2 * products
    assert flops["conv2d"](x, w, b, stride=2, groups=2) == 2 * products + y.size
    assert flops["conv2d_input_grad"](y, w, x_shape=x.shape, stride=2, groups=2) == 2 * products
    assert flops["conv2d_weight_grad"](x, y, w_shape=w.shape, stride=2, groups=2) == 2 * products
    x, w = np.zeros((2, 2, 3, 8)), np.zeros((3, 2, 4, 4))
    up = ops.conv_transpose2d(x, w, b[:4], stride=2, groups=2)
    products = x.size * 3 * 2 * 2
    assert flops["conv_transpose2d"](x, w, b[:4], stride=2, groups=2) == 2 * products + up.size


def test_what_a_convolution_keeps():
    x, w = (tg.Tensor(np.ones(s), requires_grad=True) for s in ((1, 3, 3, 2), (1, 1, 2, 2)))
    frozen = ops.conv2d(x, w.detach())
    assert frozen.node.inputs[0] is None and frozen.node.inputs[1] is not None  # w serves x; x is not needed


def message(call):
    with pytest.raises(tg.TinygenError) as found:
        call()
    return str(found.value)


def test_errors():
    x, w = np.zeros((8, 16, 16, 96), np.float32), np.zeros((3, 3, 64, 128), np.float32)
    text = message(lambda: ops.conv2d(x, w, padding=1))
    assert text.startswith("conv2d at ") and "test_ops_conv.py:" in text.splitlines()[0]
    assert "x (8, 16, 16, 96) float32" in text and "w (3, 3, 64, 128) float32" in text
    assert text.endswith("conv2d needs x.C == w.C; 96 ≠ 64.")
    text = message(lambda: ops.conv2d(x, w, groups=2))
    assert text.endswith("conv2d needs x.C == w.C·groups; 96 ≠ 64·2.")
    text = message(lambda: ops.conv2d(x, w[:, :, :32], groups=3))
    assert text.endswith("conv2d needs groups to divide w.F; 3 does not divide 128.")
    small = np.zeros((1, 2, 3, 64), np.float32)
    text = message(lambda: ops.conv2d(small, w, dilation=2, padding=1))
    assert text.endswith("conv2d needs a kernel no larger than the padded image; 5×5 > 4×5.")
    text = message(lambda: ops.conv2d(small[0], w))
    assert "conv2d needs x (N, H, W, C) and w (kh, kw, C/groups, F); they have 3 and 4 axes." in text
    text = message(lambda: ops.conv2d(small, w, np.zeros(3, np.float32), padding=1))
    assert text.endswith("conv2d needs b of shape (F,) = (128,); got (3,).")
    text = message(lambda: ops.conv2d(small, w, padding=-1))
    assert "needs padding ≥ 0" in text and text.endswith("got -1.")
    assert "needs stride to be a whole number ≥ 1" in message(lambda: ops.conv2d(small, w, stride=0))
    assert "float types are not mixed: float32 and float64 meet" in message(
        lambda: ops.conv2d(small, w.astype(float), padding=1))
    assert "conv2d needs floats, not int64" in message(lambda: ops.conv2d(np.zeros(small.shape, int), w))
    text = message(lambda: ops.conv_transpose2d(small, w, stride=2, output_padding=2))
    assert text.endswith("conv_transpose2d needs 0 ≤ output_padding < stride; got 2 with stride (2, 2).")
    text = message(lambda: ops.conv_transpose2d(small, w, padding=3))
    assert "conv_transpose2d needs a result of at least 1×1" in text
    assert "'same' does not determine" in message(lambda: ops.conv_transpose2d(small, w, padding="same"))
    text = message(lambda: ops.conv2d_input_grad(small, w[..., :64], (1, 2, 3, 64), padding=1, stride=2))
    assert "needs gy (N, OH, OW, F) = (1, 1, 2, 64), the shape of conv2d's result; got (1, 2, 3, 64)." in text
    assert "conv1d needs x (N, L, C)" in message(lambda: ops.conv1d(small, w))


@pytest.mark.parametrize("name", ["conv2d_input_grad", "conv2d_weight_grad"])
def test_the_gradients_are_operations_with_gradients_of_their_own(name):
    bad = [r.message for r in tg.check.check_ops([name], order=3) if not r.ok]
    assert not bad, bad


def test_conv2d_add_is_the_sum():
    draw = np.random.default_rng(0).standard_normal
    x, w, b, r = (tg.Tensor(draw(s, np.float32)) for s in ((2, 5, 4, 3), (3, 3, 3, 6), (6,), (2, 5, 4, 6)))
    y = ops.conv2d_add(x, w, b, r, padding=1)
    assert np.array_equal(y.numpy(), (ops.conv2d(x, w, b, padding=1) + r).numpy())
    assert tg.tape.registry["conv2d_add"].flops(x, w, b, r, padding=1) == 2 * 27 * y.size + 2 * y.size
    with pytest.raises(tg.ShapeError, match=r"needs r like the convolution's result, \(2, 5, 4, 6\)"):
        ops.conv2d_add(x, w, b, b, padding=1)
