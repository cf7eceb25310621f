"""Every model on a device: its gradients against float64 on the CPU, its first steps against the CPU's, as plain steps
and as a CUDA graph; and a run that changes places."""

import os
import subprocess
import sys

import numpy as np
import pytest
from test_device import device  # noqa: F401  (a fixture)

import tinygen as tg
from tinygen import data, models, run, train
from tinygen.optim import Optimizer

SMALL = {
    "gan": {"batch_size": 8},
    "vae": {"batch_size": 8},
    "conv_vae": {"batch_size": 4},
    "dcgan": {"batch_size": 4, "width": 4},
    "ddpm": {"batch_size": 2, "widths": (8, 16), "groups": 4, "dropout": 0.1},
}


def test_every_model_is_here():
    assert set(SMALL) == set(models.names())


class Rng64(tg.Rng):
    """The same float32 draws, in float64."""

    def normal(self, *args, **kwargs):
        return super().normal(*args, **kwargs).astype(np.float64)

    def uniform(self, *args, **kwargs):
        return super().uniform(*args, **kwargs).astype(np.float64)


def made(name, where):
    digits = data.load("digits")
    settings = run.settings_for(name, overrides=SMALL[name], data="digits", images=digits, device=where)
    loader = data.Loader(digits, settings.config["batch_size"], tg.Rng(0))
    return run.make_model(settings).train(), loader


def gradients(monkeypatch, name, where, dtype=np.float32):
    """Those that the first step hands to its optimisers, and what it reports."""
    model, loader = made(name, where)
    batch, found = loader.batch(0), []
    if dtype == np.float64:
        model.astype(np.float64)
        for value in vars(model).values():
            if isinstance(value, Optimizer):
                value.moments = {s: {k: a.astype(dtype) for k, a in g.items()} for s, g in value.moments.items()}
            if isinstance(value, tg.optim.EMA):
                value.shadow = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in value.shadow.items()}
    images = tg.Tensor(batch.images.data.astype(dtype)).to(where)
    with monkeypatch.context() as patched:
        # nobody moves: what comes second in a step then does not depend on rounding in what came first
        patched.setattr(Optimizer, "step", lambda self, grads: found.append({k: g.numpy() for k, g in grads.items()}))
        rng = (Rng64 if dtype == np.float64 else tg.Rng)(0)
        scalars = model.step(data.Batch(images, batch.labels, batch.captions, batch.index), rng)
    return found, {k: v for k, v in scalars.items() if v is not None}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_gradients_against_float64(name, device, monkeypatch):  # noqa: F811
    found, scalars = gradients(monkeypatch, name, device)
    expected, exact = gradients(monkeypatch, name, "cpu", np.float64)
    for k in exact:
        assert float(scalars[k]) == pytest.approx(float(exact[k]), rel=2e-5, abs=1e-6)
    assert len(found) == len(expected)
    for f, e in zip(found, expected):
        assert f.keys() == e.keys()
        whole = max(float(np.abs(v).max()) for v in e.values())
        for k in f:
            assert np.abs(f[k] - e[k]).max() <= 3e-5 * max(np.abs(e[k]).max(), 1e-2 * whole), k


@pytest.mark.parametrize("name", sorted(SMALL))
def test_first_steps_against_the_cpu(name, device):  # noqa: F811
    """As a CUDA graph from the third on; and bit for bit what plain steps on the device give."""
    traces = {}
    for what, where in (("cpu", "cpu"), ("plain", device), ("graph", device)):
        model, loader = made(name, where)
        step = tg.capture(model.step) if what == "graph" else model.step
        traces[what] = [train.one_step(step, loader, i, tg.Rng(0), where) for i in range(5)]
        if what == "graph":
            assert step.replays == 3, step.reason
    assert traces["plain"] == traces["graph"]
    for here, there in zip(traces["cpu"], traces["graph"]):
        for k in here:
            assert there[k] == pytest.approx(here[k], rel=1e-4, abs=1e-5), k


def test_samples_are_the_cpus(device):  # noqa: F811
    here, there = made("gan", "cpu")[0], made("gan", device)[0]
    a, b = (m.sample(4, tg.Rng(3)) for m in (here, there))
    assert b.device == device
    np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@pytest.mark.parametrize("how", [{"steps": 6}, {"steps": 5, "eta": 1.0, "clip": False}])
def test_diffusion_samples_are_the_cpus(how, device):  # noqa: F811
    """The network as a CUDA graph from the third step on."""
    here, there = made("ddpm", "cpu")[0], made("ddpm", device)[0]
    a, b = (m.sample(3, tg.Rng(3), **how).numpy() for m in (here, there))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_run_changes_places(device, tmp_path, monkeypatch):  # noqa: F811
    """Trained on the device, gone on with there bit for bit; then on the CPU."""
    if "TINYGEN_CUDA" not in os.environ:
        pytest.skip("of the emulated device: it is the same code, and takes a GPU minutes to start")
    flags = ["--batch-size", "8", "--log-every", "1", "--sample-every", "100", "--save-every", "2", "--quiet"]

    def tinygen(*args):
        done = subprocess.run([sys.executable, "-m", "tinygen", *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    tinygen("train", "gan", "--out", one, "--device", "cuda:0", "--steps", "8", *flags)
    tinygen("train", "gan", "--out", two, "--device", "cuda:0", "--steps", "4", *flags)
    tinygen("train", "gan", "--out", two, "--resume", "--steps", "8", "--quiet")
    assert tg.checkpoint.load(f"{one}/checkpoint.safetensors")[0].keys()
    a, b = (tg.checkpoint.load(f"{p}/checkpoint.safetensors")[0] for p in (one, two))
    for k in a:
        assert np.array_equal(a[k], b[k]), k
    tinygen("train", "gan", "--out", two, "--resume", "--steps", "10", "--device", "cpu", "--quiet")
    tinygen("sample", two, "-n", "4", "-o", str(tmp_path / "grid.png"), "--device", "cuda:0")
