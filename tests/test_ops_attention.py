"""Attention against PyTorch and finite differences; masks, rows that see nothing, and errors."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.audit.check import check_grads


def draw(rng, N=2, heads=3, Tq=5, Tk=7, d=4, dv=6):
    return [rng.standard_normal(s) for s in ((N, heads, Tq, d), (N, heads, Tk, d), (N, heads, Tk, dv))]


def relative(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() / max(1.0, np.abs(np.asarray(b)).max())


def torch_attention(torch, q, k, v, mask, causal, scale):
    s = q @ k.transpose(-1, -2) * (scale if scale else q.shape[-1] ** -0.5)
    Tq, Tk = s.shape[-2:]
    if mask is not None:
        mask = torch.tensor(mask)
        s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask
    if causal:
        s = s.masked_fill(~torch.ones(Tq, Tk, dtype=torch.bool).tril(Tk - Tq), -torch.inf)
    return torch.softmax(s, -1) @ v


@pytest.mark.parametrize("kind,impl", [*((k, i) for k in ("plain", "causal", "boolean", "both")
                                         for i in ("law", "kernel")), ("float", "law")])
def test_attention_agrees_with_torch_to_order_two(kind, impl):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(len(kind))
    arrays = draw(rng)
    mask = None
    if kind in ("boolean", "both"):
        mask = rng.random((2, 1, 5, 7)) < 0.7
        mask[..., 0] = True  # torch gives NaN for a row that sees nothing
    elif kind == "float":
        mask = rng.standard_normal((5, 7))
    attrs = {"causal": kind in ("causal", "both"), "scale": 0.4 if kind == "causal" else None}
    mine = [tg.Tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = ops.attention(*mine, mask, impl=impl, **attrs)
    z = torch_attention(torch, *other, mask, **attrs)
    assert relative(y.numpy(), z.detach().numpy()) < 1e-10
    first = tg.grad((y * y).sum(), mine, create_graph=True)
    theirs = torch.autograd.grad((z * z).sum(), other, create_graph=True)
    for a, b in zip(first, theirs):
        assert relative(a.numpy(), b.detach().numpy()) < 1e-10
    again = tg.grad(sum((g * g).sum() for g in first), mine)
    for a, b in zip(again, torch.autograd.grad(sum((g * g).sum() for g in theirs), other)):
        assert relative(a.numpy(), b.numpy()) < 1e-10


@pytest.mark.parametrize("impl", ["law", "kernel"])
def test_a_query_that_sees_nothing_gives_zero_at_every_order(impl):
    rng = np.random.default_rng(0)
    q, k, v = (tg.Tensor(a, requires_grad=True) for a in draw(rng))
    mask = np.ones((2, 1, 5, 7), bool)
    mask[0, 0, 2] = False
    y = ops.attention(q, k, v, mask, impl=impl)
    assert (y.numpy()[0, :, 2] == 0).all() and (y.numpy()[1] != 0).all()
    g = tg.grad((y * y * y).sum() + y.sum(), [q, k, v], create_graph=True)
    h = tg.grad(sum((a * a).sum() for a in g), [q, k, v], create_graph=True)
    third = tg.grad(sum((a * a).sum() for a in h), [q, k, v])
    for order in (g, h, third):
        assert all(np.isfinite(a.numpy()).all() for a in order)
        assert (order[0].numpy()[0, :, 2] == 0).all()


def test_minus_infinity_in_a_float_mask_forbids_without_nan():
    rng = np.random.default_rng(1)
    arrays = draw(rng)
    allowed = rng.random((2, 3, 5, 7)) < 0.6
    allowed[0, 1, 3] = False
    bias = tg.Tensor(np.where(allowed, rng.standard_normal(allowed.shape), -np.inf), requires_grad=True)
    q, k, v = (tg.Tensor(a, requires_grad=True) for a in arrays)
    y = ops.attention(q, k, v, bias)
    assert np.isfinite(y.numpy()).all() and (y.numpy()[0, 1, 3] == 0).all()
    g = tg.grad((y * y).sum(), [q, k, v, bias], create_graph=True)
    h = tg.grad(sum((a * a).sum() for a in g), [q, k, v, bias])
    for order in (g, h):
        assert all(np.isfinite(a.numpy()).all() for a in order)
        assert (order[3].numpy()[~allowed] == 0).all()
    forbidding = ops.attention(*arrays, np.where(allowed, 0.0, -np.inf))
    assert relative(forbidding.numpy(), ops.attention(*arrays, allowed).numpy()) < 1e-14


def test_a_float_mask_is_differentiable_and_broadcasts():
    rng = np.random.default_rng(2)
    check_grads(lambda q, k, v, m: ops.attention(q, k, v, m, causal=True),
                [*draw(rng, 1, 2, 2, 3, 2, 2), rng.standard_normal((1, 2, 1, 3))], order=2)


def test_causal_offset_lets_the_last_query_see_every_key():
    v = np.eye(4)[None, None]
    y = ops.attention(np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 4, 3)), v, causal=True).numpy()[0, 0]
    assert np.allclose(y, [[1 / 3, 1 / 3, 1 / 3, 0], [1 / 4] * 4])
    more = ops.attention(np.zeros((1, 1, 4, 3)), np.zeros((1, 1, 2, 3)), v[..., :2, :], causal=True)
    more = more.numpy()[0, 0]
    assert (more[:2] == 0).all() and np.allclose(more[2], [1, 0, 0, 0])


def test_large_scores_and_float32():
    rng = np.random.default_rng(3)
    q, k, v = (a.astype(np.float32) for a in draw(rng))
    y = ops.attention(q * 1e3, k * 1e3, v)
    assert y.dtype == np.float32 and np.isfinite(y.numpy()).all()
    mask = rng.random((5, 7)) < 0.5
    kernel, law = (ops.attention(q, k, v, mask, impl=impl).numpy() for impl in ("kernel", "law"))
    assert relative(kernel, law) < 1e-5


def message(call):
    with pytest.raises(tg.TinygenError) as found:
        call()
    return str(found.value)


def test_errors():
    q, k, v = draw(np.random.default_rng(4))
    assert message(lambda: ops.attention(q[..., :3], k, v)).endswith("attention needs q.d == k.d; 3 ≠ 4.")
    assert message(lambda: ops.attention(q, k, v[:, :, :5])).endswith("attention needs k.T == v.T; 7 ≠ 5.")
    assert "attention needs q (N, heads, T, d); it has 3 axes." in message(lambda: ops.attention(q[0], k, v))
    assert "the same N and heads" in message(lambda: ops.attention(q[:1], k, v))
    assert "a mask that broadcasts to (N, heads, Tq, Tk) = (2, 3, 5, 7); got (7, 5)." in message(
        lambda: ops.attention(q, k, v, np.ones((7, 5), bool)))
    assert "a mask of booleans" in message(lambda: ops.attention(q, k, v, np.ones((5, 7), int)))
    assert "one float type" in message(lambda: ops.attention(q, k.astype(np.float32), v))
    assert "a float mask runs the law" in message(
        lambda: ops.attention(q, k, v, np.ones((5, 7)), impl="kernel"))
