"""The moving average of weights and buffers: values, warm-up, being put in place and taken out again, states."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, ops, optim

F32 = np.float32


def message(call, error=tg.TinygenError):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


class Net(nn.Module):
    def __init__(self):
        rng = tg.Rng(0)
        self.a, self.norm, self.b = nn.Linear(3, 4, rng=rng), nn.BatchNorm(4), nn.Linear(4, 2, rng=rng)
        self.seen = tg.Tensor(np.zeros((), np.int64))

    def forward(self, x):
        if self.training:
            self.seen.assign(self.seen.data + 1)
        return self.b(ops.tanh(self.norm(self.a(x))))


def images(step):
    return tg.Tensor(np.random.default_rng(step).standard_normal((6, 3)).astype(F32))


def gradients(net, step):
    return tg.grad(ops.mean(ops.square(net(images(step)) - 1.0)), net.parameters())


def test_values_and_warm_up():
    class One(nn.Module):
        def __init__(self):
            self.w = tg.Tensor(np.zeros(1), requires_grad=True)
            self.buffer = tg.Tensor(np.zeros(1))
            self.count = tg.Tensor(np.zeros(1, np.int64))

    net = One()
    warm, cold = optim.EMA(net, 0.9), optim.EMA(net, 0.9, warm_up=False)
    expected = [0.0, 0.0]
    for n in range(200):
        net.w.assign(np.array([float(n)]))
        net.buffer.assign(np.array([-float(n)]))
        net.count.assign(np.array([n]))
        for k, (ema, d) in enumerate(((warm, min(0.9, (1 + n) / (10 + n))), (cold, 0.9))):
            assert ema.next_decay() == d
            ema.update()
            expected[k] = d * expected[k] + (1 - d) * n
            assert ema.shadow["w"][0] == pytest.approx(expected[k], rel=1e-12)
            assert ema.shadow["buffer"][0] == pytest.approx(-expected[k], rel=1e-12)
            assert ema.shadow["count"][0] == n and ema.shadow["count"].dtype == np.int64
    assert warm.updates == 200
    assert message(lambda: optim.EMA(net, 1.0), ValueError) == "EMA: decay is in [0, 1), not 1.0."


@pytest.mark.parametrize("make", [
    lambda p, ema: optim.Adam(p, 1e-2, ema=ema), lambda p, ema: optim.SGD(p, 0.1, 0.9, ema=ema),
    lambda p, ema: optim.RMSProp(p, ema=ema),
], ids=["adam", "sgd", "rmsprop"])
def test_an_average_carried_by_the_optimiser_is_that_of_update(make):
    carried, apart = Net(), Net()
    ours, theirs = optim.EMA(carried, 0.97), optim.EMA(apart, 0.97)
    a, b = make(carried.parameters(), ours), make(apart.parameters(), None)
    for k in range(12):
        a.step(gradients(carried, k))
        b.step(gradients(apart, k))
        theirs.update()
    assert ours.updates == theirs.updates == 12 and set(ours.shadow) == {*carried.parameters(), *carried.buffers()}
    assert all((carried.state()[k] == apart.state()[k]).all() for k in carried.state())
    for k in ours.shadow:
        np.testing.assert_allclose(ours.shadow[k], theirs.shadow[k], rtol=3e-7, atol=1e-8, err_msg=k)
    assert ours.shadow["seen"] == 12 and (ours.shadow["norm.mean"] != 0).any()


def test_an_optimiser_of_a_part_averages_by_identity_and_not_by_name():
    """The part's parameter "w" is the whole's "b.w"; the whole's own "w" is another."""

    class Whole(nn.Module):
        def __init__(self):
            self.w = tg.Tensor(np.zeros((4, 2), F32), requires_grad=True)
            self.b = nn.Linear(4, 2)

    whole = Whole()
    ema = optim.EMA(whole, 0.5, warm_up=False)
    before = {k: v.copy() for k, v in ema.shadow.items()}
    opt = optim.SGD(whole.b.parameters(), 1.0, ema=ema)
    opt.step({k: tg.Tensor(np.ones(p.shape, F32)) for k, p in whole.b.parameters().items()})
    assert (ema.shadow["w"] == 0).all()
    for k in ("b.w", "b.b"):
        np.testing.assert_allclose(ema.shadow[k], before[k] - 0.5, rtol=1e-6)


def test_applied_puts_the_averages_in_place_and_the_weights_back():
    net = Net()
    ema = optim.EMA(net, 0.5)
    opt = optim.Adam(net.parameters(), 0.1, ema=ema)
    for k in range(4):
        opt.step(gradients(net, k))
    own, x = {k: v.copy() for k, v in net.state().items()}, images(9)
    net.eval()
    y = net(x).numpy()
    assert any((own[k] != ema.shadow[k]).any() for k in own)
    with ema.applied() as same:
        assert same is net and all((net.state()[k] == ema.shadow[k]).all() for k in own)
        averaged = net(x).numpy()
    assert (averaged != y).any() and (net(x).numpy() == y).all()

    shadow = {k: v.copy() for k, v in ema.shadow.items()}
    with pytest.raises(RuntimeError, match="halfway"):
        with ema.applied():
            net.train()(x)  # moves running statistics, even inside
            raise RuntimeError("halfway")
    assert all((net.state()[k] == own[k]).all() for k in own)
    assert all((ema.shadow[k] == shadow[k]).all() for k in shadow)
    opt.step(gradients(net, 5))  # and training goes on


def test_a_spectral_norm_is_applied_averaged():
    net = nn.SpectralNorm(nn.Linear(6, 5, rng=tg.Rng(2)), warm_up=1)
    ema = optim.EMA(net, 0.9)
    opt = optim.SGD(net.parameters(), 0.5, ema=ema)
    for k in range(30):
        x = tg.Tensor(np.random.default_rng(k).standard_normal((4, 6)).astype(F32))
        opt.step(tg.grad(ops.mean(ops.square(net(x) - 1.0)), net.parameters()))
    net.eval()
    with ema.applied():
        exact = np.linalg.svd(net.layer.w.numpy(), compute_uv=False)[0]
        assert abs(net.sigma().item() / exact - 1) < 0.05


def test_states():
    net = Net()
    ema = optim.EMA(net, 0.9)
    for _ in range(3):
        net.a.w.assign(net.a.w.data + 1)
        ema.update()
    state = {k: v.copy() for k, v in ema.state().items()}
    assert set(state) == {"updates", *(f"shadow.{k}" for k in ema.shadow)}
    other = optim.EMA(Net(), 0.9)
    other.load(state)
    assert other.updates == 3 and all((other.shadow[k] == ema.shadow[k]).all() for k in ema.shadow)
    assert not np.shares_memory(other.shadow["a.w"], state["shadow.a.w"])

    bad = {k: v + 1 for k, v in state.items()}
    bad["shadow.seen"] = np.zeros(2, np.int64)
    assert message(lambda: other.load(bad), tg.CheckpointError) == "the moving average of seen has shape (2,), not ()."
    del bad["shadow.seen"]
    assert message(lambda: other.load(bad), tg.CheckpointError) == "the moving average does not fit: ['shadow.seen']."
    assert other.updates == 3 and all((other.shadow[k] == ema.shadow[k]).all() for k in ema.shadow)


def test_an_average_travels_in_the_state_of_the_model_that_holds_it():
    class Model(nn.Module):
        def __init__(self):
            self.net = Net()
            self.ema = optim.EMA(self.net, 0.9)
            self.opt = optim.Adam(self.net.parameters(), ema=self.ema)

    a, b = Model(), Model()
    for k in range(3):
        a.opt.step(gradients(a.net, k))
    b.load({k: np.array(v) for k, v in a.state().items()})
    for k in range(3, 6):
        a.opt.step(gradients(a.net, k))
        b.opt.step(gradients(b.net, k))
    assert {"ema.updates", "ema.shadow.a.w", "opt.m.a.w", "net.a.w"} <= set(a.state())
    assert all((a.state()[k] == b.state()[k]).all() for k in a.state()) and b.ema.updates == 6
