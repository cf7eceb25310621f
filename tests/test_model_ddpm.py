"""DDPM: one step, its state, its samplers, that it learns eight images; and, slow, that it learns digits."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import data, models
from tinygen.config import build
from tinygen.models.ddpm import DDPM, PRESETS, Config

DIGITS = data.load("digits", "train")
TINY = {"widths": (16, 32), "groups": 4, "batch_size": 8, "T": 50}

# losses of three steps of the small preset on the digits, seed 0
GOLDEN = [1.0377476215362549, 1.02131986618042, 0.9966116547584534]


def made(seed=0, **changes):
    return DDPM(build(Config, PRESETS["small"], changes), tg.Rng(seed))


def trace(model, steps, rng, first=0, images=DIGITS):
    loader = data.Loader(images, model.config.batch_size, rng)
    return [model.step(loader.batch(i), rng)["loss"] for i in range(first, first + steps)]


def test_golden_trace():
    once, again = (trace(made(), 3, tg.Rng(0)) for _ in range(2))
    assert once == again  # bit for bit
    assert np.allclose(once, GOLDEN, rtol=1e-5, atol=0)


def test_it_is_listed():
    assert models.load("ddpm") is DDPM and "ddpm" in models.names()


def test_the_paper_preset_is_the_papers_network():
    c = build(Config, PRESETS["paper"])
    assert DDPM(c, tg.Rng(0)).net.count() == 35_746_307
    assert (c.T, c.schedule, c.lr, c.dropout, c.ema, c.batch_size) == (1000, "linear", 2e-4, 0.1, 0.9999, 128)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_it_learns_eight_images(target):
    """Overfits: the loss falls well below what any network without knowledge of the images could reach."""
    eight = DIGITS.subset(np.arange(8))
    model, rng = made(target=target, **TINY, lr=3e-3), tg.Rng(0)
    losses = trace(model, 250, rng, images=eight)
    assert np.mean(losses[-30:]) < 0.35 * np.mean(losses[:10])


def test_resuming_is_bit_for_bit():
    rng = tg.Rng(0)
    straight = made(**TINY, dropout=0.1)
    trace(straight, 6, rng)
    first = made(**TINY, dropout=0.1)
    trace(first, 3, rng)
    second = made(seed=9, **TINY, dropout=0.1)
    second.load({k: np.array(v) for k, v in first.state().items()})
    trace(second, 3, rng, first=3)
    a, b = straight.state(), second.state()
    assert set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_every_parameter_moves_and_the_average_follows():
    model, rng = made(**TINY), tg.Rng(0)
    before = {k: p.data.copy() for k, p in model.net.parameters().items()}
    trace(model, 3, rng)
    still = [k for k, p in model.net.parameters().items() if np.array_equal(p.data, before[k])]
    assert not still
    shadow = model.ema.shadow
    assert all(not np.array_equal(shadow[k], p.data) for k, p in model.net.parameters().items())


def test_samplers():
    model = made(**TINY)
    for options in ({}, {"sampler": "ddpm"}, {"steps": 5, "eta": 1.0}, {"spacing": "leading", "clip": False}):
        x = model.sample(3, tg.Rng(1), **options)
        assert x.shape == (3, 8, 8, 1) and x.dtype == np.float32
        assert np.abs(x.data).max() <= 1 and x.node is None
        assert np.array_equal(x.data, model.sample(3, tg.Rng(1), **options).data)
    assert not np.array_equal(model.sample(3, tg.Rng(1)).data, model.sample(3, tg.Rng(2)).data)


def test_sampling_uses_the_average_and_gives_the_weights_back():
    model = made(**TINY)
    trace(model, 2, tg.Rng(0))
    own = {k: p.data.copy() for k, p in model.net.parameters().items()}
    model.sample(2, tg.Rng(0), steps=2)
    assert all(np.array_equal(own[k], p.data) for k, p in model.net.parameters().items())


def test_unknown_words_get_a_sentence():
    model = made(**TINY)
    with pytest.raises(tg.ConfigError, match="no sampler 'euler'; there are ddim and ddpm"):
        model.sample(1, tg.Rng(0), sampler="euler")
    with pytest.raises(tg.ConfigError, match="no spacing 'even'"):
        model.sample(1, tg.Rng(0), spacing="even")


def test_the_strip_of_denoising_steps():
    picture = made(**TINY).figures(tg.Rng(0))["denoising"]
    assert picture.dtype == np.uint8 and picture.shape == (6 * 2 * 10, 16 * 10, 1)


def test_the_bound_is_finite_and_in_bits():
    model = made(**TINY)
    found = model.evaluate(data.load("digits", "test"), tg.Rng(0), images=8)
    assert found["bits_per_dim.levels"] == 17
    parts = sum(found[f"bits_per_dim.{k}"] for k in ("L_T", "L_t", "L_0"))
    assert found["bits_per_dim"] == pytest.approx(parts) and 0 < found["bits_per_dim"] < 100


@pytest.mark.slow
def test_it_learns_digits():
    from bench.ddpm_quality import ddpm

    score = ddpm()["score"]
    for fd in score["fd"].values():
        assert fd["ratio"] <= 2, fd["label"]
    assert 0.04 <= score["judge"]["min"] and score["judge"]["max"] <= 0.20
    assert 0.8 <= score["memorisation"]["ratio"] <= 1.2
