"""The convolutional VAE: its shapes, one step, its state, that it learns eight images; and, slow, that it learns. What
it shares with the perceptron's is tested in test_model_vae.py."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from tinygen import data, models
from tinygen.config import build
from tinygen.models.conv_vae import PRESETS, Config, ConvVAE
from tinygen.models.vae import VAE

DIGITS = data.load("digits", "train")

# loss, nll, kl of three steps of the small preset on the digits, seed 0
GOLDEN = [
    (243.83480834960938, 243.8135528564453, 0.02125699631869793),
    (240.75213623046875, 240.7344970703125, 0.01763218268752098),
    (234.5806121826172, 234.55218505859375, 0.028430970385670662),
]


def bench(name):
    """A script of bench/ as a module."""
    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(preset="small", seed=0, **changes):
    return ConvVAE(build(Config, PRESETS[preset], changes), tg.Rng(seed))


def trace(model, steps, rng, first=0, images=DIGITS):
    loader = data.Loader(images, model.config.batch_size, rng)
    return [model.step(loader.batch(i), rng) for i in range(first, first + steps)]


def test_golden_trace():
    once, again = (trace(made(), 3, tg.Rng(0)) for _ in range(2))
    assert once == again  # bit for bit
    assert np.allclose([(s["loss"], s["nll"], s["kl"]) for s in once], GOLDEN, rtol=1e-5, atol=0)


def test_it_is_listed_and_is_a_vae():
    assert models.load("conv_vae") is ConvVAE and "conv_vae" in models.names() and issubclass(ConvVAE, VAE)
    for preset in PRESETS.values():
        build(Config, preset)


@pytest.mark.parametrize("size, channels, widths, changes", [
    (8, 1, (4,), {}), (8, 1, (4, 6), {"up": "nearest"}), (16, 3, (4, 5, 6), {"decoder": "bernoulli"}),
    (28, 1, (4, 6), {"hidden": ()}), (32, 3, (4, 5, 6), {"variance": "network", "hidden": (7, 9)}),
    (2, 1, (4,), {"act": "silu"}),
])  # fmt: skip
def test_any_size_that_can_be_halved(size, channels, widths, changes):
    model = made(image_size=size, channels=channels, widths=widths, latent=3, **changes)
    rng = tg.Rng(0)
    x = rng.uniform("x", 0, (3, size, size, channels), -1, 1)
    mean, logvar = model.encoder(x)
    assert mean.shape == logvar.shape == (3, 3)
    maps = channels * (2 if changes.get("variance") == "network" else 1)
    assert model.decoder(mean).shape == (3, size, size, maps)
    assert np.isfinite(list(model.step(data.Batch(x, None, None, np.arange(3)), rng).values())).all()
    assert model.sample(2, rng).shape == (2, size, size, channels)


def test_other_sizes_get_a_sentence():
    for size in (2, 10, 30):
        with pytest.raises(tg.ConfigError, match=f"widths .32, 64., so it needs a multiple of 4, not {size}; resize"):
            build(Config, None, {"image_size": size})
    with pytest.raises(tg.ConfigError, match="halves the side once for each"):
        build(Config, None, {"widths": ()})


def test_paper_preset():
    model = made("paper")
    assert [w.w.shape for w in model.encoder.downs] == [(4, 4, 3, 32), (4, 4, 32, 32), (4, 4, 32, 32)]
    assert [w.w.shape for w in model.decoder.ups] == [(4, 4, 32, 32), (4, 4, 32, 32), (4, 4, 32, 3)]
    assert [w.w.shape for w in model.encoder.hidden.layers] == [(512, 256), (256, 256)]
    assert [w.w.shape for w in model.decoder.hidden.layers] == [(10, 256), (256, 256), (256, 512)]
    emoji = data.load("emoji", "train")
    assert np.isfinite(list(trace(model, 1, tg.Rng(0), images=emoji)[0].values())).all()


def test_every_parameter_learns():
    for changes in ({}, {"up": "nearest", "variance": "network"}):
        model = made(widths=(4, 6), hidden=(8,), **changes)
        before = {k: v.data.copy() for k, v in model.parameters().items()}
        trace(model, 2, tg.Rng(0))
        still = [k for k, v in model.parameters().items() if np.array_equal(v.data, before[k])]
        assert not still, still


def test_resume_is_exact():
    """3 + 3 steps by way of state() and load() end in the same bits as 6."""
    small = {"widths": (4, 6), "hidden": (8,), "latent": 3}
    whole = made(**small)
    expected = trace(whole, 6, tg.Rng(0))
    half = made(**small)
    trace(half, 3, tg.Rng(0))
    state = {k: v.copy() for k, v in half.state().items()}
    resumed = made(seed=9, **small)
    resumed.load(state)
    assert trace(resumed, 3, tg.Rng(0), first=3) == expected[3:]
    for k, v in whole.state().items():
        assert np.array_equal(v, resumed.state()[k]), k


def test_it_learns_eight_images():
    """It gives back each of the eight, and each is among its samples."""
    index = np.tile(np.arange(8), 4)
    images = data.to_float(DIGITS.images[index])
    batch = data.Batch(tg.Tensor(images), None, None, index)
    model, rng = made(latent=2, widths=(16, 32), hidden=(64,), lr=3e-3), tg.Rng(0)
    for _ in range(600):
        model.step(batch, rng)
    again = model.images(model.encode(tg.Tensor(images[:8]))).data
    error, spread = np.sqrt(((again - images[:8]) ** 2).mean()), images[:8].std(0).mean()
    x = model.sample(256, tg.Rng(5)).data.reshape(256, -1)
    d = np.sqrt(((x[:, None] - images[:8].reshape(8, -1)[None]) ** 2).mean(2))
    assert error < 0.15 * spread and np.median(d.min(1)) < 0.65 * spread, (error, np.median(d.min(1)), spread)
    assert len(set(d.argmin(1))) == 8


def test_evaluate_and_pictures_in_colour():
    whole = data.load("emoji", "train")
    emoji = data.Dataset(whole.images[:40, ::2, ::2], whole.labels[:40], label_names=whole.label_names)
    model = made(image_size=16, channels=3, widths=(4, 6), hidden=(8,), dequantise=256)
    found = model.evaluate(emoji, tg.Rng(0), images=10, k=4)
    assert found["iwae.4"] > found["elbo"] and found["images"] == 10
    sheets = model.figures(tg.Rng(0), emoji)
    assert set(sheets) == {"samples", "reconstructions", "interpolation", "latent"}
    assert all(a.dtype == np.uint8 and a.shape[2] == 3 for a in sheets.values())


# ---- that it learns; figures recorded in bench/results/


@pytest.mark.slow
def test_digits():
    """The small preset against held-out digits (bench/results/conv_vae_digits)."""
    result = bench("vae_quality").digits("conv_vae")
    score, kept = result["score"], result["reconstruction"]
    assert result["bounds"]["iwae.256"] > result["bounds"]["elbo"] > -20, result["bounds"]
    assert kept["label_kept"] > 0.93 and kept["psnr"] > 18, kept
    assert score["fd"]["pixels"]["ratio"] <= 8 and 0.04 <= score["judge"]["min"], score
    assert score["judge"]["max"] <= 0.2 and 0.8 <= score["memorisation"]["ratio"] <= 1.3, score
