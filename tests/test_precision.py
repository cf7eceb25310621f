"""The precision of products: a policy that is written on each operation, the same on every device."""

import numpy as np
import pytest
from test_device import device  # noqa: F401  (a fixture)

import tinygen as tg
from tinygen import nn, ops
from tinygen.kernels.gemm import round_to
from tinygen.modes import mode

r = np.random.default_rng(0)
A, B = (r.standard_normal(s).astype(np.float32) for s in ((5, 7), (7, 6)))
X, W = (r.standard_normal(s).astype(np.float32) for s in ((2, 5, 6, 4), (3, 3, 4, 5)))
Q, K, V = (r.standard_normal((1, 2, 6, 4)).astype(np.float32) for _ in range(3))
CASES = {
    "matmul": (lambda a, b: ops.matmul(a, b), (A, B)),
    "linear": (lambda x, w: ops.linear(x, w), (A, B)),
    "einsum": (lambda a, b: ops.einsum("ij,jk->ik", a, b), (A, B)),
    "conv2d": (lambda x, w: ops.conv2d(x, w, padding=1), (X, W)),
    "conv_transpose2d": (lambda x, w: ops.conv_transpose2d(x, w, stride=2, padding=1), (X, W)),
    "attention": (lambda q, k, v: ops.attention(q, k, v), (Q, K, V)),
}


def values(fn, arrays, where="cpu", dtype=None):
    """The result and its gradients."""
    xs = [tg.Tensor(a if dtype is None else a.astype(dtype), requires_grad=True) for a in arrays]
    xs = [tg.Tensor(tg.backend.move(x.data, where), requires_grad=True) for x in xs]
    y = fn(*xs)
    g = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)  # not what tf32 holds exactly
    return [v.numpy() for v in (y, *tg.grad(y, xs, tg.Tensor(tg.backend.move(g.astype(y.dtype), where))))]


@pytest.mark.parametrize("name", [n for n in CASES if n != "attention"])
@pytest.mark.parametrize("kind", ["tf32", "bf16"])
def test_the_law_is_the_exact_product_of_rounded_operands(name, kind):
    """So for the value; and so for both gradients, in which the cotangent is an operand."""
    fn, (a, b) = CASES[name]
    with tg.precision(kind):
        y, ga, gb = values(fn, (a, b))
    exact = values(fn, (round_to(a, kind), round_to(b, kind)), dtype=np.float64)[0]
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    plain = values(fn, (a, b), dtype=np.float64)
    for found, whole in zip((y, ga, gb), plain):
        off = np.abs(found - whole).max() / np.abs(whole).max()
        assert 1e-5 < off < (2e-3 if kind == "tf32" else 2e-2)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["tf32", "bf16"])
def test_a_device_rounds_as_the_cpu_does(name, kind, device):  # noqa: F811
    fn, arrays = CASES[name]
    with tg.precision(kind):
        there, here = values(fn, arrays, device), values(fn, arrays)
    # attention's kernel rounds e^(s − max), the law its quotient by the sum
    close = 3e-6 if name != "attention" else 1e-3 if kind == "tf32" else 1e-2
    for f, e in zip(there, here):
        np.testing.assert_allclose(f, e, rtol=0, atol=close * np.abs(e).max())


def test_it_is_written_on_the_operation():
    """And its gradient keeps to it, outside of the policy."""
    x = tg.Tensor(A, requires_grad=True)
    with tg.precision("tf32"):
        y = ops.matmul(x, tg.Tensor(B))
    assert y.node.attrs["precision"] == "tf32" and mode.precision == "float32"
    seen = []
    with tg.tape.observe(lambda op, arrays, y, attrs, node: seen.append((op.name, attrs.get("precision")))):
        tg.grad(y, x, tg.Tensor(np.ones_like(y.data)))
    assert seen == [("matmul", "tf32")]


def test_statement_and_context():
    try:
        tg.precision("bf16")
        assert mode.precision == "bf16"
        with tg.precision("tf32"):
            assert mode.precision == "tf32"
        assert mode.precision == "bf16"
    finally:
        tg.precision("float32")
    with pytest.raises(ValueError, match="float32, tf32, bf16, not 'half'"):
        tg.precision("half")
    assert mode.precision == "float32"


def test_float64_stays_exact():
    with tg.precision("bf16"):
        y = ops.matmul(tg.Tensor(A.astype(np.float64)), tg.Tensor(B.astype(np.float64)))
    assert np.array_equal(y.numpy(), A.astype(np.float64) @ B.astype(np.float64))


def test_recompute_keeps_the_precision_of_the_forward_pass():
    layer = nn.Linear(7, 6, rng=nn.Init(tg.Rng(0), "x"))
    f = lambda x: ops.tanh(layer(x))
    x = tg.Tensor(A, requires_grad=True)
    grads = []
    for fn in (f, tg.recompute(f)):
        with tg.precision("bf16"):
            y = ops.sum(fn(x))
        grads.append([g.numpy() for g in tg.grad(y, [x, layer.w])])
    for a, b in zip(*grads):
        assert np.array_equal(a, b)
