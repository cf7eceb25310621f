"""The perceptron GAN: its parts, one step, its state, that it learns eight images; and, slow, that it
learns."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from tinygen import data, models
from tinygen.config import build
from tinygen.models.gan import GAN, PRESETS, Config, Maxout
from tinygen.nn import Init

DIGITS = data.load("digits", "train")

# d_loss, g_loss of three steps of the small preset on the digits, seed 0
GOLDEN = [
    (1.372410535812378, 0.6739135980606079),
    (1.2595975399017334, 0.655713677406311),
    (1.1958699226379395, 0.6263169050216675),
]


def bench(name):
    """A script of bench/ as a module."""
    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(preset="small", seed=0, **changes):
    return GAN(build(Config, PRESETS[preset], changes), tg.Rng(seed))


def trace(model, steps, rng, first=0):
    loader = data.Loader(DIGITS, model.config.batch_size, rng)
    return [model.step(loader.batch(i), rng) for i in range(first, first + steps)]


def test_golden_trace():
    once, again = (trace(made(), 3, tg.Rng(0)) for _ in range(2))
    assert once == again  # bit for bit
    assert np.allclose([(s["d_loss"], s["g_loss"]) for s in once], GOLDEN, rtol=1e-5, atol=0)


def test_it_is_listed_and_describes_itself():
    assert models.load("gan") is GAN and "gan" in models.names()
    assert set(PRESETS) == {"small", "paper"}
    for preset in PRESETS.values():
        build(Config, preset)


def test_samples():
    model = made(g_widths=(32,), d_widths=(32,))
    x = model.sample(5, tg.Rng(3))
    assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and np.abs(x.data).max() <= 1
    assert not x.requires_grad
    assert np.array_equal(x.data, model.sample(5, tg.Rng(3)).data)
    assert not np.array_equal(x.data, model.sample(5, tg.Rng(4)).data)


def test_samples_come_from_the_moving_average():
    model = made(g_widths=(32,), d_widths=(32,), ema=0.5)
    trace(model, 3, tg.Rng(0))
    own, mean = model.sample(4, tg.Rng(0), average=False).data, model.sample(4, tg.Rng(0)).data
    assert not np.array_equal(own, mean)
    with model.ema.applied():
        assert np.array_equal(model.sample(4, tg.Rng(0), average=False).data, mean)
    assert made(ema=0.0).ema is None


def test_maxout_is_the_largest_of_its_pieces():
    layer = Maxout(3, 2, 4, rng=Init(tg.Rng(0)))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    w, b = layer.linear.w.data.reshape(3, 2, 4), layer.linear.b.data.reshape(2, 4)
    assert np.allclose(layer(tg.Tensor(x)).data, (np.einsum("ni,iuk->nuk", x, w) + b).max(2), atol=1e-6)


def test_paper_preset():
    """The published sizes, in small: maxout, dropout, sigmoid outputs, momentum; and what it must not
    have."""
    c = build(Config, PRESETS["paper"])
    assert (c.latent, c.g_widths, c.d_widths, c.pieces, c.dropout) == (100, (1200, 1200), (240, 240), 5, (0.2, 0.5))
    model = made("paper", image_size=8, g_widths=(24, 24), d_widths=(12, 12))
    assert type(model.d_optimizer).__name__ == "SGD" and model.d_optimizer.momentum == 0.5 and model.ema is None
    for layer in model.generator.layers:
        assert 0.04 < np.abs(layer.w.data).max() <= 0.05 and not layer.b.data.any()
    assert np.abs(model.discriminator.layers[0].linear.w.data).max() <= 0.005
    first, second = trace(model, 2, tg.Rng(0))
    assert all(np.isfinite(list(s.values())).all() for s in (first, second))
    x = model.sample(3, tg.Rng(0)).data
    assert np.abs(x).max() <= 1
    model.train()
    with tg.nn.streams(tg.Rng(0), 0):
        noisy = [model.discriminator(tg.Tensor(x)).data for _ in range(2)]
    model.eval()
    quiet = [model.discriminator(tg.Tensor(x)).data for _ in range(2)]
    assert not np.array_equal(*noisy) and np.array_equal(*quiet)


def test_it_learns_points_too():
    model = made(image_size=1, channels=2, output="linear", g_widths=(16,), d_widths=(16,), gradient_penalty=1.0)
    rng = tg.Rng(0)
    x = rng.normal("x", 0, (32, 1, 1, 2)) * 3.0
    scalars = model.step(data.Batch(x, None, None, np.arange(32)), rng)
    assert set(scalars) == {"d_loss", "g_loss", "d_real", "d_fake"}
    assert model.sample(7, rng).shape == (7, 1, 1, 2)


def test_the_learning_rate_falls_as_asked():
    assert made(decay_steps=10, lr=1e-3).d_optimizer.lr(5) == pytest.approx(5e-4)
    assert made(shrink=2.0, lr=1.0).g_optimizer.lr(3) == pytest.approx(1 / 8)


def test_noise_is_fresh_for_each_player_and_step():
    model, drawn = made(g_widths=(8,), d_widths=(8,)), []
    forward = model.generator.forward
    model.generator.forward = lambda z: drawn.append(z.data) or forward(z)
    trace(model, 2, tg.Rng(0))
    assert len(drawn) == 4 and len({a.tobytes() for a in drawn}) == 4


@pytest.mark.parametrize("preset", PRESETS)
def test_resume_is_exact(preset):
    """3 + 3 steps by way of state() and load() end in the same bits as 6."""
    small = {"image_size": 8, "g_widths": (24, 24), "d_widths": (12, 12)}
    whole = made(preset, **small)
    expected = trace(whole, 6, tg.Rng(0))
    half = made(preset, **small)
    trace(half, 3, tg.Rng(0))
    state = {k: v.copy() for k, v in half.state().items()}
    resumed = made(preset, seed=9, **small)
    resumed.load(state)
    assert trace(resumed, 3, tg.Rng(0), first=3) == expected[3:]
    for k, v in whole.state().items():
        assert np.array_equal(v, resumed.state()[k]), k
    assert resumed.iteration == 6


def test_it_learns_eight_images():
    """The generator's samples come to lie at the eight images, and at most of them."""
    index = np.tile(np.arange(8), 4)
    images = data.to_float(DIGITS.images[index])
    batch = data.Batch(tg.Tensor(images), None, None, index)
    model = made(latent=8, g_widths=(64, 64), d_widths=(64, 64), lr=2e-3, r1=1.0, ema=0.98)
    rng = tg.Rng(0)

    def nearest():
        x, t = model.sample(64, tg.Rng(5)).data.reshape(64, -1), images[:8].reshape(8, -1)
        d = np.linalg.norm(x[:, None] - t[None], axis=2)
        return d.min(1).mean(), len(set(d.argmin(1)))

    start, _ = nearest()
    for _ in range(600):
        model.step(batch, rng)
    end, found = nearest()
    assert end < 0.5 * start and found >= 4, (start, end, found)


# ---- that it learns; figures recorded in bench/results/


@pytest.mark.slow
def test_r1_finds_the_modes_that_the_plain_game_loses():
    """Ring of eight Gaussians, 8,000 steps each: without a penalty 1–2 modes, with R1 all eight
    (bench/results/gan_ring8)."""
    ring8 = bench("gan_quality").ring8
    plain, r1 = ring8(r1=0.0), ring8(r1=0.1)
    assert plain["found"] <= 4, plain
    assert r1["found"] == 8 and r1["kl"] < 0.05 and r1["high_quality"] > 0.6, r1


@pytest.mark.slow
def test_digits():
    """The small preset against held-out digits (bench/results/gan_digits)."""
    _, result = bench("gan_quality").digits("gan")
    score = result["score"]
    assert score["fd"]["pixels"]["ratio"] <= 2, score["fd"]
    assert score["judge"]["min"] >= 0.04 and score["judge"]["max"] <= 0.2, score["judge"]
    assert 0.8 <= score["memorisation"]["ratio"] <= 1.2, score["memorisation"]
