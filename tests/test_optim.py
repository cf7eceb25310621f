"""Optimisers over modules, schedules, clipping, what a step refuses, and states that continue bit for bit."""

import math

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, ops, optim

F32 = np.float32


def message(call, error=tg.TinygenError):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def network(dtype=np.float64):
    rng = tg.Rng(0)
    return nn.Sequential(nn.Linear(3, 8, rng=rng), nn.Tanh(), nn.Linear(8, 2, rng=rng)).astype(dtype)


def data(step, dtype=np.float64):
    rng = np.random.default_rng(step)
    return tg.Tensor(rng.standard_normal((5, 3)).astype(dtype)), tg.Tensor(rng.standard_normal((5, 2)).astype(dtype))


def loss_of(net, step, dtype=np.float64):
    a, b = data(step, dtype)
    return ops.mean(ops.square(net(a) - b))


def train(net, optimizer, steps, start=0, dtype=np.float64):
    for k in range(start, start + steps):
        optimizer.step(tg.grad(loss_of(net, k, dtype), net.parameters()))


# ---- schedules and clipping


def test_schedules():
    constant = optim.constant(0.5, warm_up=4)
    assert [constant(k) for k in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert optim.constant(0.5)(0) == 0.5
    linear = optim.linear(1.0, steps=10, warm_up=2, end=0.2)
    assert [linear(k) for k in (0, 1, 2, 6, 10, 99)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2])
    cosine = optim.cosine(1.0, steps=8, end=0.1)
    for k in range(9):
        assert cosine(k) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * k / 8)))
    assert cosine(20) == pytest.approx(0.1)
    warmed = optim.cosine(2.0, steps=12, warm_up=4)
    assert [warmed(k) for k in (0, 3, 4, 8, 12)] == pytest.approx([0.5, 2.0, 2.0, 1.0, 0.0])
    decay = optim.step_decay(1.0, every=3, factor=0.1)
    assert [decay(k) for k in (0, 2, 3, 5, 6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_schedules_agree_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
    p = [torch.nn.Parameter(torch.zeros(1))]
    theirs = torch.optim.lr_scheduler
    for ours, make in ((optim.cosine(0.3, 9, end=0.01), lambda o: theirs.CosineAnnealingLR(o, 9, 0.01)),
                       (optim.linear(0.3, 9, end=0.03), lambda o: theirs.LinearLR(o, 1.0, 0.1, 9)),
                       (optim.step_decay(0.3, 4, 0.7), lambda o: theirs.StepLR(o, 4, 0.7))):
        optimizer = torch.optim.SGD(p, lr=0.3)
        schedule = make(optimizer)
        for k in range(9):
            assert ours(k) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
            optimizer.step()
            schedule.step()


def test_a_schedule_is_followed():
    p = tg.Tensor(np.zeros(1, F32), requires_grad=True)
    opt = optim.SGD({"p": p}, lr=lambda k: 10.0**-k)
    for _ in range(3):
        opt.step({"p": tg.Tensor(np.ones(1, F32))})
    assert p.item() == pytest.approx(-1.11, rel=1e-6)


def test_clipping():
    grads = {"a": tg.Tensor(np.array([3.0, 0.0])), "b": tg.Tensor(np.array([[4.0]]))}
    assert optim.global_norm(grads) == 5.0
    clipped = optim.clip_by_norm(grads, 1.0)
    assert clipped["a"].numpy().tolist() == pytest.approx([0.6, 0]) and clipped["b"].item() == pytest.approx(0.8)
    assert optim.clip_by_norm(grads, 10.0)["b"].item() == 4.0
    by_value = optim.clip_by_value(grads, 3.5)
    assert by_value["b"].item() == 3.5 and by_value["a"].dtype == np.float64
    zero = {"a": tg.Tensor(np.zeros(2, F32))}
    assert optim.clip_by_norm(zero, 1.0)["a"].numpy().tolist() == [0, 0]
    huge = {"a": tg.Tensor(np.full(4, 1e30, F32))}
    assert optim.global_norm(huge) == pytest.approx(2e30)  # whose square float32 cannot hold
    assert optim.clip_by_norm(huge, 1.0)["a"].numpy() == pytest.approx(np.full(4, 0.5))


def test_an_optimiser_that_clips_takes_the_step_of_clipped_gradients():
    one, two = network(), network()
    a, b = optim.Adam(one.parameters(), clip_norm=0.05), optim.Adam(two.parameters())
    for k in range(3):
        g = tg.grad(loss_of(one, k), one.parameters())
        a.step(g)
        assert a.norm == pytest.approx(optim.global_norm(g)) and a.norm > 0.05
        b.step(optim.clip_by_norm(tg.grad(loss_of(two, k), two.parameters()), 0.05))
    for k, p in one.parameters().items():
        np.testing.assert_allclose(p.numpy(), two.parameters()[k].numpy(), rtol=1e-13)
    assert b.norm is None


# ---- against PyTorch

PAIRS = {
    "sgd": (lambda p: optim.SGD(p, 0.1), lambda t, p: t.SGD(p, 0.1)),
    "sgd, momentum and L2": (lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.01),
                             lambda t, p: t.SGD(p, 0.1, 0.9, weight_decay=0.01)),
    "sgd, Nesterov": (lambda p: optim.SGD(p, 0.1, 0.9, nesterov=True), lambda t, p: t.SGD(p, 0.1, 0.9, nesterov=True)),
    "rmsprop": (lambda p: optim.RMSProp(p, 0.01, 0.95, weight_decay=0.01),
                lambda t, p: t.RMSprop(p, 0.01, 0.95, weight_decay=0.01)),
    "rmsprop, momentum": (lambda p: optim.RMSProp(p, 0.01, momentum=0.9),
                          lambda t, p: t.RMSprop(p, 0.01, momentum=0.9)),
    "adam": (lambda p: optim.Adam(p, 0.01, (0.8, 0.95), 1e-6), lambda t, p: t.Adam(p, 0.01, (0.8, 0.95), 1e-6)),
    "adam, L2": (lambda p: optim.Adam(p, weight_decay=0.1), lambda t, p: t.Adam(p, weight_decay=0.1)),
    "adamw": (lambda p: optim.AdamW(p), lambda t, p: t.AdamW(p)),
    "adamw, decay": (lambda p: optim.AdamW(p, 0.01, weight_decay=0.3), lambda t, p: t.AdamW(p, 0.01, weight_decay=0.3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_ten_steps_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
    net = network()
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    with torch.no_grad():
        for k in (0, 2):
            theirs[k].weight.copy_(torch.tensor(net[k].w.numpy().T))
            theirs[k].bias.copy_(torch.tensor(net[k].b.numpy()))
    ours, other = PAIRS[name][0](net.parameters()), PAIRS[name][1](torch.optim, theirs.parameters())
    for step in range(10):
        ours.step(tg.grad(loss_of(net, step), net.parameters()))
        a, b = (torch.tensor(t.numpy()) for t in data(step))
        other.zero_grad()
        ((theirs(a) - b) ** 2).mean().backward()
        other.step()
    for k in (0, 2):
        np.testing.assert_allclose(net[k].w.numpy(), theirs[k].weight.detach().numpy().T, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(net[k].b.numpy(), theirs[k].bias.detach().numpy(), rtol=1e-11, atol=1e-13)


# ---- what a step refuses, with nothing changed


def test_a_step_that_is_refused_changes_nothing():
    net = network()
    opt = optim.Adam(net.parameters(), clip_norm=1.0, ema=optim.EMA(net))
    train(net, opt, 2)
    good = tg.grad(loss_of(net, 9), net.parameters())
    kept = {k: v.copy() for k, v in {**net.state(), **opt.state(), **opt.ema.state()}.items()}

    def refused(changes: dict, error):
        grads = {**good, **changes}
        text = message(lambda: opt.step({k: g for k, g in grads.items() if g is not Ellipsis}), error)
        now = {**net.state(), **opt.state(), **opt.ema.state()}
        assert all((now[k] == kept[k]).all() for k in kept), "changed"
        return text

    assert refused({"2.b": ...}, tg.GradientError) == (
        "step() needs one gradient for each parameter; these do not match: ['2.b'].")
    assert refused({"2.b": None}, tg.GradientError) == (
        "step() needs one gradient for each parameter; these do not match: ['2.b'].")
    assert refused({"other": good["0.b"]}, tg.GradientError) == (
        "step() needs one gradient for each parameter; these do not match: ['other'].")
    assert refused({"2.w": good["0.w"]}, tg.GradientError) == (
        "step() got a gradient (3, 8) float64 for 2.w, which is (8, 2) float64.")
    assert refused({"2.b": tg.Tensor(np.zeros(2, F32))}, tg.GradientError) == (
        "step() got a gradient (2,) float32 for 2.b, which is (2,) float64.")
    for value in (np.nan, np.inf, -np.inf):
        bad = good["2.b"].numpy().copy()
        bad[1] = value
        assert refused({"2.b": tg.Tensor(bad)}, tg.NonFiniteError) == (
            "the gradient of 2.b is not finite (1 of 4 parameters); nothing was updated.")
    opt.step(good)
    assert opt.steps == 3


def test_large_but_finite_gradients_are_taken():
    p = tg.Tensor(np.zeros(3, F32), requires_grad=True)
    opt = optim.SGD({"p": p}, 1e-25, clip_norm=1e30)
    opt.step({"p": tg.Tensor(np.full(3, 1e25, F32))})
    assert p.numpy() == pytest.approx(np.full(3, -1.0))


def test_what_cannot_be_optimised():
    leaf = tg.Tensor(np.zeros(2, F32), requires_grad=True)
    text = message(lambda: optim.Adam([leaf]), tg.GradientError)
    assert text == "an optimiser needs parameters by name: pass module.parameters()."
    assert message(lambda: optim.Adam({}), tg.GradientError) == text
    for t in (tg.Tensor(np.zeros(2, F32)), leaf * 2.0):
        assert message(lambda t=t: optim.Adam({"t": t}), tg.GradientError) == (
            "parameter 't' is not a leaf made with requires_grad=True.")
    assert message(lambda: optim.Adam({"p": leaf}, betas=(0.9, 1.0)), ValueError) == (
        "Adam: betas are in [0, 1), not (0.9, 1.0).")
    assert message(lambda: optim.SGD({"p": leaf}, nesterov=True), ValueError) == (
        "SGD: Nesterov's look-ahead needs momentum > 0.")


# ---- a graph does not outlive a step


def test_a_graph_recorded_before_a_step_is_stale_after_it():
    net = network()
    opt = optim.SGD(net.parameters())
    before = loss_of(net, 0)
    opt.step(tg.grad(loss_of(net, 0), net.parameters()))
    text = message(lambda: tg.grad(before, net.parameters()), tg.StaleGraphError)
    assert "was changed in place after" in text and text.endswith("take all gradients before the update.")
    assert any(name in text for name in net.parameters())
    # the same if more was computed after the step, from the old result and the new parameters
    mixed = before + loss_of(net, 1)
    message(lambda: tg.grad(mixed, net.parameters()), tg.StaleGraphError)
    message(lambda: tg.grad(ops.square(before), net.parameters(), allow_unused=True), tg.StaleGraphError)
    tg.grad(loss_of(net, 0), net.parameters())


def test_what_was_changed_elsewhere_is_no_matter():
    """A discriminator's gradient through a picture whose generator has been updated since."""
    g, d = network(), nn.Linear(2, 1, rng=tg.Rng(1)).astype(np.float64)
    fake = g(data(0)[0])
    optim.SGD(g.parameters()).step(tg.grad(loss_of(g, 0), g.parameters()))
    ours = tg.grad(ops.sum(ops.tanh(d(fake))), d.parameters())
    detached = tg.grad(ops.sum(ops.tanh(d(fake.detach()))), d.parameters())
    assert all((ours[k].numpy() == detached[k].numpy()).all() for k in ours)
    message(lambda: tg.grad(ops.sum(d(fake)), g.parameters()), tg.StaleGraphError)


# ---- states


@pytest.mark.parametrize("make", [
    lambda p: optim.Adam(p, optim.cosine(1e-2, 20, 3), clip_norm=0.3), lambda p: optim.AdamW(p),
    lambda p: optim.SGD(p, 0.1, 0.9, nesterov=True), lambda p: optim.SGD(p, 0.1),
    lambda p: optim.RMSProp(p, momentum=0.9), lambda p: optim.RMSProp(p),
], ids=["adam", "adamw", "nesterov", "sgd", "rmsprop momentum", "rmsprop"])
def test_a_loaded_state_continues_bit_for_bit(make):
    net = network(F32)
    opt = make(net.parameters())
    train(net, opt, 4, dtype=F32)
    weights, state = ({k: v.copy() for k, v in s.items()} for s in (net.state(), opt.state()))
    train(net, opt, 4, 4, dtype=F32)
    other = network(F32)
    again = make(other.parameters())
    train(other, again, 1, 17, dtype=F32)  # whatever it did before
    other.load(weights)
    again.load(state)
    assert again.steps == 4
    train(other, again, 4, 4, dtype=F32)
    assert all((net.state()[k] == other.state()[k]).all() for k in weights)
    assert all((opt.state()[k] == again.state()[k]).all() for k in state) and again.steps == 8


def test_a_state_that_does_not_fit_is_refused_whole():
    net = network()
    opt = optim.Adam(net.parameters())
    train(net, opt, 1)
    state = {k: v.copy() for k, v in opt.state().items()}
    bad = {k: v + 1 for k, v in state.items()}
    bad["v.2.b"] = np.zeros(3)
    assert message(lambda: opt.load(bad), tg.CheckpointError) == "the optimiser's v.2.b has shape (3,), not (2,)."
    del bad["v.2.b"]
    bad["u"] = np.zeros(1)
    assert message(lambda: opt.load(bad), tg.CheckpointError) == (
        "the optimiser's state does not fit: ['u', 'v.2.b'].")
    assert all((opt.state()[k] == state[k]).all() for k in state)
    assert message(lambda: optim.SGD(net.parameters()).load(state), tg.CheckpointError).startswith(
        "the optimiser's state does not fit: ['m.")


@pytest.mark.parametrize("make", [optim.Adam, optim.RMSProp, lambda p: optim.SGD(p, momentum=0.9)])
def test_the_order_of_the_axes_in_memory_does_not_matter(make):
    layer = nn.Linear(3, 8, law="orthogonal")
    assert not layer.w.data.flags.c_contiguous  # a transposed factor
    opt = make(layer.parameters())
    for _ in range(2):
        opt.step({k: tg.Tensor(np.ones(p.shape[::-1], F32).T) for k, p in layer.parameters().items()})
    assert (layer.b.numpy() < 0).all()


def test_parameters_that_numpy_cannot_write_are_copied_once():
    values = np.zeros((2, 3), F32).T
    values.flags.writeable = False
    p = tg.Tensor(values, requires_grad=True)
    opt = optim.Adam({"p": p})
    for _ in range(2):
        opt.step({"p": tg.Tensor(np.ones((3, 2), F32))})
    assert (p.numpy() < 0).all() and (values == 0).all() and p.numpy().flags.c_contiguous
