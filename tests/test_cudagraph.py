"""A step as one CUDA graph: the emulated device records as CUDA does, and runs nothing until the launch."""

import warnings

import numpy as np
import pytest
from test_device import device  # noqa: F401  (a fixture)

import tinygen as tg
from tinygen import nn, ops
from tinygen.cudagraph import CaptureWarning
from tinygen.data import Batch
from tinygen.optim import EMA, Adam, cosine


class Tiny(nn.Module):
    """A model with all that a graph must renew: noise, a schedule, an average, a counter, running statistics."""

    saved = ("iteration",)

    def __init__(self, features=6, ask=False, odd=False):
        init = nn.Init(tg.Rng(0), "tiny")
        self.first, self.norm = nn.Linear(features, 5, rng=init), nn.BatchNorm(5)
        self.last = nn.Linear(5, features, rng=init)
        self.ema = EMA(self, 0.9)
        trained = nn.ModuleList([self.first, self.last]).parameters()
        self.optimizer = Adam(trained, cosine(1e-2, 50, warm_up=4), clip_norm=1.0)
        self.iteration, self.ask, self.odd = 0, ask, odd

    def step(self, batch, rng):
        x, k = batch.images, self.iteration
        x = x + 0.1 * rng.normal("tiny.eps", 2 * k, x.shape, device=x.device)
        loss = ops.mean(ops.square(self.last(ops.tanh(self.norm(self.first(x)))) - x))
        if self.odd:
            loss = loss * (1.0 + k)
        if self.ask and loss.item() < 0:
            raise AssertionError
        self.optimizer.step(tg.grad(loss, self.optimizer.params))
        self.ema.update()
        self.iteration += 1
        return {"loss": loss.scalar(), "norm": self.optimizer.norm}


def batches(n, size=8):
    r = np.random.default_rng(0)
    return [Batch(tg.Tensor(r.standard_normal((size, 6)).astype(np.float32)), None, None, np.arange(size))
            for _ in range(n)]


def trace(model, step, n=8, size=8):
    rng = tg.Rng(7)
    return [{k: float(v) for k, v in step(b, rng).items()} for b in batches(n, size)]


def plainly(model, device):  # noqa: F811
    def step(batch, rng):
        return model.step(Batch(batch.images.to(device), None, None, batch.index), rng)

    return step


def test_replays_give_the_bits_of_plain_steps(device):  # noqa: F811
    one, two = Tiny().to(device), Tiny().to(device)
    run = tg.capture(one.step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace(one, run) == trace(two, plainly(two, device))
    assert run.replays == 6 and one.iteration == two.iteration == 8 and one.optimizer.steps == 8
    a, b = one.state(), two.state()
    assert a.keys() == b.keys()
    for k in a:
        assert np.array_equal(a[k], b[k]), k


def test_it_follows_the_cpu(device):  # noqa: F811
    there, here = Tiny().to(device), Tiny()
    found, expected = trace(there, tg.capture(there.step)), trace(here, here.step)
    np.testing.assert_allclose([s["loss"] for s in found], [s["loss"] for s in expected], rtol=1e-5)


def test_a_loaded_state_is_taken_over(device):  # noqa: F811
    model = Tiny().to(device)
    run = tg.capture(model.step)
    start = {k: np.array(v) for k, v in model.state().items()}
    first = trace(model, run)
    model.load(start)
    assert run.graph is not None and trace(model, run) == first


def test_a_model_that_moves_is_recorded_again(device):  # noqa: F811
    """To the CPU and back, with its optimiser and averages: as if it had stayed."""
    one, two = Tiny().to(device), Tiny().to(device)
    run = tg.capture(one.step)
    first = trace(one, run, 4)
    one.to("cpu")
    elsewhere = trace(one, run, 2)
    one.to(device)
    found = trace(one, run, 5)
    assert run.graph is not None and run.replays == 2 + 3
    step = plainly(two, device)
    assert first == trace(two, step, 4)
    for s, e in zip(elsewhere, trace(two, step, 2)):
        assert s["loss"] == pytest.approx(e["loss"], rel=1e-4)
    for s, e in zip(found, trace(two, step, 5)):
        assert s["loss"] == pytest.approx(e["loss"], rel=1e-4)


def test_uneven_streams_are_not_recorded(device, monkeypatch):  # noqa: F811
    """A draw whose step doubles from call to call cannot be known ahead."""
    model = Tiny().to(device)

    def step(batch, rng):
        scalars = model.step(batch, rng)
        rng.normal("odd", 2**model.iteration, (3,), device=device)
        return scalars

    with pytest.warns(CaptureWarning, match="random stream 'odd' are uneven: 2, 4, 8"):
        trace(model, tg.capture(step, model), 4)
    assert model.iteration == 4


def test_other_shapes_run_plainly_and_say_so(device):  # noqa: F811
    model = Tiny().to(device)
    run = tg.capture(model.step)
    trace(model, run, 4)
    with pytest.warns(CaptureWarning, match="other inputs"):
        trace(model, run, 1, size=5)
    assert run.replays == 2 and model.iteration == 5


def test_a_step_that_asks_is_not_recorded(device):  # noqa: F811
    model, other = Tiny(ask=True).to(device), Tiny(ask=True).to(device)
    run = tg.capture(model.step)
    with pytest.warns(CaptureWarning, match="Tiny.step is not run as one CUDA graph: "):
        found = trace(model, run)
    assert run.graph is None and run.reason and found == trace(other, plainly(other, device))


def test_a_number_that_changes_is_not_recorded(device, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tinygen.cudagraph.PATIENCE", 3)
    model, other = Tiny(odd=True).to(device), Tiny(odd=True).to(device)
    with pytest.warns(CaptureWarning, match=r"mul took .* a number that changes must be a Tensor"):
        found = trace(model, tg.capture(model.step))
    assert found == trace(other, plainly(other, device))


def test_a_gradient_that_is_not_finite(device):  # noqa: F811
    model = Tiny().to(device)
    run = tg.capture(model.step)
    trace(model, run, 4)
    before = model.first.w.numpy().copy()
    run(Batch(tg.Tensor(np.full((8, 6), np.nan, np.float32)), None, None, np.arange(8)), tg.Rng(7))
    with pytest.raises(tg.NonFiniteError, match="nothing was updated"):
        run.check()
    assert np.array_equal(model.first.w.numpy(), before)


def test_on_the_cpu_it_is_the_step():
    one, two = Tiny(), Tiny()
    assert trace(one, tg.capture(one.step), 3) == trace(two, two.step, 3)
