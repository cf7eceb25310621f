"""The perceptron VAE: its two terms against sampling and against probabilistic PCA, where everything is known; its
bounds, one step, its state, that it learns eight images, its pictures; and, slow, that it learns."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from tinygen import data, models, ops
from tinygen.config import build
from tinygen.models.scatter import scatter
from tinygen.models.vae import PRESETS, VAE, Config, bound, grey_levels, log_mean_exp, plane

DIGITS = data.load("digits", "train")

# loss, nll, kl of three steps of the small preset on the digits, seed 0
GOLDEN = [
    (243.75701904296875, 243.75067138671875, 0.006346700247377157),
    (218.5394287109375, 218.50570678710938, 0.033715419471263885),
    (196.04608154296875, 195.96609497070312, 0.07999381422996521),
]


def bench(name):
    """A script of bench/ as a module."""
    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


quality = bench("vae_quality")


def made(preset="small", seed=0, **changes):
    return VAE(build(Config, PRESETS[preset], changes), tg.Rng(seed))


def trace(model, steps, rng, first=0):
    loader = data.Loader(DIGITS, model.config.batch_size, rng)
    return [model.step(loader.batch(i), rng) for i in range(first, first + steps)]


def tensor(a):
    return tg.Tensor(np.asarray(a))


def digits(n=16):
    return tg.Tensor(data.to_float(DIGITS.images[:n]))


# ---- probabilistic PCA: with linear networks the best ELBO is the likelihood (Lucas et al. 2019)


def at_the_optimum(x, latent=2):
    """A linear VAE, in float64, with the maximum likelihood W and σ² of Tipping & Bishop 1999, and the posterior that
    belongs to them: N(M⁻¹Wᵀ(x − μ), σ²M⁻¹), M = WᵀW + σ²I, which is diagonal as the columns of W are orthogonal."""
    best = quality.ppca_optimum(x, latent)
    W, mean, variance = best["W"], best["mean"], best["variance"]
    M = np.diag(W.T @ W) + variance
    model = quality.linear_vae(x.shape[1], latent).astype(np.float64)
    for t, a in ((model.decoder.out.w, W.T), (model.decoder.out.b, mean),
                 (model.pixels.logvar, np.log([variance])),
                 (model.encoder.mean.w, W / M), (model.encoder.mean.b, -mean @ W / M),
                 (model.encoder.logvar.w, np.zeros_like(W)), (model.encoder.logvar.b, np.log(variance / M))):
        t.assign(np.ascontiguousarray(a, dtype=np.float64))
    return model


def points(model, x):
    return model.constant(x.reshape(len(x), 1, 1, -1))


def test_at_the_optimum_the_elbo_is_the_log_likelihood():
    x = quality.ppca_data(200)
    model = at_the_optimum(x)
    exact = quality.gaussian_log_likelihood(x, **quality.marginal(model))
    assert np.abs(quality.elbo(model, x) - exact).max() < 1e-10
    # q is the posterior itself, so that every single importance weight is p(x)
    assert np.abs(model.log_weights(points(model, x), 3, tg.Rng(0))["log_w"] - exact).max() < 1e-10
    # and nothing is left to learn
    nll, kl = 0.0, 0.0
    for sign in (1, -1):
        for axis in np.eye(2):
            terms = model.terms(points(model, x), tensor(np.tile(sign * math.sqrt(2) * axis, (200, 1))))
            nll, kl = nll + ops.mean(terms[0]) / 4, kl + ops.mean(terms[1]) / 4
    for name, g in tg.grad(nll + kl, model.parameters()).items():
        assert np.abs(g.numpy()).max() < 1e-10, name


def test_training_reaches_the_log_likelihood():
    """Recorded in bench/results/vae_ppca: best −8.76548, learned −8.76548, ELBO −8.76554 nats."""
    found = quality.ppca()
    assert 0 <= found["gap"] < 1e-3 and found["smallest_gap"] > 0, found
    assert 0 <= found["best_log_likelihood"] - found["log_likelihood"] < 1e-3, found


def test_the_elbo_is_never_above_the_log_likelihood():
    x = quality.ppca_data(100)
    for seed in range(5):
        model = quality.linear_vae(8, 2, seed, init=0.3 * (seed + 1)).astype(np.float64)
        exact = quality.gaussian_log_likelihood(x, **quality.marginal(model))
        assert (quality.elbo(model, x) < exact).all()


def test_the_bound_grows_with_k_up_to_the_log_likelihood():
    """Worse and worse posteriors around the optimum: 1, 4, 16, 64, 4096 draws."""
    x = quality.ppca_data(50)
    for off in (0.1, 0.4):
        model = at_the_optimum(x)
        model.encoder.logvar.b.assign(model.encoder.logvar.b.data + off)
        model.encoder.mean.b.assign(model.encoder.mean.b.data + off / 4)
        exact = quality.gaussian_log_likelihood(x, **quality.marginal(model)).mean()
        log_w = model.log_weights(points(model, x), 4096, tg.Rng(0))["log_w"]
        bounds = [bound(log_w, k) for k in (1, 4, 16, 64, 4096)]
        assert (np.diff(bounds) > 0).all()
        assert bounds[0] < exact - 1e-3 and abs(bounds[-1] - exact) < 2e-3, (bounds, exact)
        assert abs(bounds[0] - quality.elbo(model, x).mean()) < 0.01


# ---- the two terms


def test_kl_and_reconstruction_are_sums_over_dimensions_and_means_over_images():
    for decoder in ("bernoulli", "gaussian"):
        model = made(latent=3, decoder=decoder).astype(np.float64)
        x = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8, 1))
        eps = np.random.default_rng(1).standard_normal((5, 3))
        nll, kl = (t.numpy() for t in model.terms(tensor(x), tensor(eps)))
        mean, logvar = (t.numpy() for t in model.encoder(tensor(x)))
        assert np.allclose(kl, -0.5 * (1 + logvar - mean**2 - np.exp(logvar)).sum(1), rtol=1e-12)
        out = model.decoder(tensor(mean + np.exp(0.5 * logvar) * eps)).numpy()
        if decoder == "bernoulli":
            y, g = 1 / (1 + np.exp(-out)), (x + 1) / 2
            expected = -(g * np.log(y) + (1 - g) * np.log(1 - y))
        else:
            s = model.config.sigma
            expected = 0.5 * ((x - out) / s) ** 2 + math.log(s * math.sqrt(2 * math.pi))
        assert np.allclose(nll, expected.sum((1, 2, 3)), rtol=1e-6 if decoder == "gaussian" else 1e-12)


def test_kl_by_sampling():
    model = made(latent=4)
    x, draws = digits(8), 20_000
    found = model.log_weights(x, 1, tg.Rng(0))
    mean, logvar = (t.numpy().astype(np.float64) for t in model.encoder(x))
    eps = np.random.default_rng(0).standard_normal((draws, 8, 4))
    z = mean + np.exp(0.5 * logvar) * eps
    estimate = 0.5 * (z**2 - eps**2 - logvar).sum(2)  # log q − log p
    error = estimate.std(0) / math.sqrt(draws)
    assert (np.abs(estimate.mean(0) - found["kl"]) < 4 * error).all()


def test_gradients():
    model = made(latent=2, widths=(5,), act="tanh").astype(np.float64)
    x, eps = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)), np.random.default_rng(1).standard_normal((3, 2))

    def loss():
        nll, kl = model.terms(tensor(x), tensor(eps))
        return ops.mean(nll) + ops.mean(kl)

    found = tg.grad(loss(), model.parameters())
    pick = np.random.default_rng(2)
    for name, p in model.parameters().items():
        i = tuple(pick.integers(0, s) for s in p.shape)
        h, values = 1e-5, []
        for sign in (1, -1):
            changed = p.data.copy()
            changed[i] += sign * h
            own = p.data
            p.assign(changed)
            values.append(loss().item())
            p.assign(own)
        slope = (values[0] - values[1]) / (2 * h)
        assert abs(slope - found[name].data[i]) < 1e-5 * max(1, abs(slope)), name


def test_network_variance():
    model = made(variance="network", sigma=0.5, channels=3, image_size=4)
    x, z = tg.Rng(0).uniform("x", 0, (2, 4, 4, 3), -1, 1), tg.Rng(0).normal("z", 0, (2, 2))
    out = model.decoder(z)
    assert out.shape == (2, 4, 4, 6) and "pixels.logvar" in model.buffers()
    mean, logvar = out.data[..., :3], out.data[..., 3:] + 2 * math.log(0.5)
    expected = 0.5 * (logvar + (x.data - mean) ** 2 / np.exp(logvar) + math.log(2 * math.pi))
    assert np.allclose(model.pixels.nll(out, x).data, expected.sum((1, 2, 3)), rtol=1e-5)
    assert model.images(z).shape == (2, 4, 4, 3)


def test_which_variance_is_learned():
    for variance, learned in (("fixed", False), ("shared", True), ("network", False)):
        model = made(variance=variance)
        assert ("pixels.logvar" in model.parameters()) == learned
        trace(model, 2, tg.Rng(0))
        assert (model.pixels.logvar.data != np.float32(2 * math.log(0.3))).any() == learned


def test_beta_and_warm_up():
    for changes, weight in (({}, 1.0), ({"beta": 4.0}, 4.0), ({"beta": 2.0, "kl_warm_up": 10}, 0.2)):
        s = trace(made(**changes), 1, tg.Rng(0))[0]
        assert s["loss"] == pytest.approx(s["nll"] + weight * s["kl"], rel=1e-6)
        assert s["elbo"] == pytest.approx(-s["nll"] - s["kl"], rel=1e-6)
    warm = trace(made(kl_warm_up=2), 4, tg.Rng(0))
    assert [round((s["loss"] - s["nll"]) / s["kl"], 3) for s in warm] == [0.5, 1, 1, 1]


def test_what_the_decoder_learns():
    x, rng = digits(64), tg.Rng(0)
    grey = (x.data + 1) / 2
    assert np.array_equal(made().seen(x, rng, "a", 0).data, x.data)
    hard = made(decoder="bernoulli", binarise="threshold").seen(x, rng, "a", 0).data
    assert np.array_equal(hard, np.where(grey > 0.5, 1, -1))
    model = made(decoder="bernoulli", binarise="random")
    drawn = np.stack([(model.seen(x, rng, "a", i).data + 1) / 2 for i in range(400)])
    assert set(np.unique(drawn)) == {0, 1}
    assert np.abs(drawn.mean(0) - grey).max() < 5 * 0.5 / 20
    assert np.array_equal(drawn[:, grey == 0].max(0), np.zeros((grey == 0).sum()))
    noise = made(dequantise=17).seen(x, rng, "a", 0).data - x.data
    assert np.abs(noise).max() <= 1 / 16 + 1e-6 and np.abs(noise.mean()) < 2e-3


def test_grey_values_bound_the_random_binary_images():
    """E log p(b|z) over b ~ Bernoulli(g) is minus the cross entropy of g."""
    model = made(decoder="bernoulli")
    x, z = digits(1), tg.Rng(0).normal("z", 0, (1, 2))
    out = model.decoder(z)
    g = (x.data + 1) / 2
    b = np.random.default_rng(0).random((20_000, 8, 8, 1)) < g
    nll = model.pixels.nll(tensor(np.repeat(out.data, len(b), 0)), tensor(np.where(b, 1, -1).astype(np.float32))).data
    assert abs(nll.mean() - model.pixels.nll(out, x).item()) < 4 * nll.std() / math.sqrt(len(b))


@pytest.mark.parametrize("changes, text", [
    ({"binarise": "random"}, "binarise is for a Bernoulli decoder"),
    ({"decoder": "bernoulli", "dequantise": 17}, "dequantise is for a Gaussian decoder"),
    ({"dequantise": 1}, "counts grey levels: 0 for none, or 2 and more"),
    ({"sigma": 0.0}, "sigma must be above zero, not 0.0"),
    ({"latent": 0}, "latent must be at least 1, not 0"),
])  # fmt: skip
def test_settings_that_make_no_sense_get_a_sentence(changes, text):
    with pytest.raises(tg.ConfigError, match=text):
        build(Config, None, changes)


# ---- the model


def test_golden_trace():
    once, again = (trace(made(), 3, tg.Rng(0)) for _ in range(2))
    assert once == again  # bit for bit
    assert np.allclose([(s["loss"], s["nll"], s["kl"]) for s in once], GOLDEN, rtol=1e-5, atol=0)


def test_it_is_listed_and_describes_itself():
    assert models.load("vae") is VAE and "vae" in models.names()
    for preset in PRESETS.values():
        build(Config, preset)


def test_paper_preset():
    model = made("paper", image_size=8)
    assert [layer.w.shape for layer in model.encoder.hidden.layers] == [(64, 500)]
    assert [layer.w.shape for layer in model.decoder.hidden.layers] == [(20, 500)]
    assert abs(model.encoder.mean.w.data.std() - 0.01) < 1e-3 and not model.encoder.mean.b.data.any()
    assert type(model.pixels).__name__ == "Bernoulli" and abs(model.optimizer.weight_decay * 60_000 - 1) < 1e-3
    assert np.isfinite(list(trace(model, 1, tg.Rng(0))[0].values())).all()


@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian"])
def test_samples(decoder):
    model = made(decoder=decoder)
    x = model.sample(5, tg.Rng(3))
    assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and np.abs(x.data).max() <= 1
    assert not x.requires_grad
    assert np.array_equal(x.data, model.sample(5, tg.Rng(3)).data)
    assert not np.array_equal(x.data, model.sample(5, tg.Rng(4)).data)
    drawn = model.sample(200, tg.Rng(3), pixels=True).data
    if decoder == "bernoulli":
        assert set(np.unique(drawn)) == {-1, 1}
    assert np.abs(drawn.mean(0) - model.sample(200, tg.Rng(3)).data.mean(0)).max() < 5 / math.sqrt(200)
    assert np.ptp(model.sample(5, tg.Rng(3), temperature=0.0).data, axis=0).max() == 0


def test_noise_is_fresh_at_each_step_and_for_each_image():
    model, seen = made(), []
    terms = model.terms
    model.terms = lambda x, eps: seen.append(eps.data) or terms(x, eps)
    trace(model, 3, tg.Rng(0))
    assert len(np.unique(np.concatenate(seen), axis=0)) == 3 * 64


@pytest.mark.parametrize("changes", [{}, {"decoder": "bernoulli", "binarise": "random", "kl_warm_up": 5},
                                     {"variance": "network", "dequantise": 17, "decay_steps": 9}])
def test_resume_is_exact(changes):
    """3 + 3 steps by way of state() and load() end in the same bits as 6."""
    whole = made(**changes)
    expected = trace(whole, 6, tg.Rng(0))
    half = made(**changes)
    trace(half, 3, tg.Rng(0))
    state = {k: v.copy() for k, v in half.state().items()}
    resumed = made(seed=9, **changes)
    resumed.load(state)
    assert trace(resumed, 3, tg.Rng(0), first=3) == expected[3:]
    for k, v in whole.state().items():
        assert np.array_equal(v, resumed.state()[k]), k
    assert resumed.iteration == 6


@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian"])
def test_it_learns_eight_images(decoder):
    """It gives back each of the eight, and its samples lie at the eight images."""
    index = np.tile(np.arange(8), 4)
    images = data.to_float(DIGITS.images[index])
    batch = data.Batch(tg.Tensor(images), None, None, index)
    model, rng = made(decoder=decoder, lr=3e-3), tg.Rng(0)
    for _ in range(800):
        last = model.step(batch, rng)
    again = model.images(model.encode(tg.Tensor(images[:8]))).data
    error = np.sqrt(((again - images[:8]) ** 2).mean())
    x = model.sample(64, tg.Rng(5)).data.reshape(64, -1)
    d = np.sqrt(((x[:, None] - images[:8].reshape(8, -1)[None]) ** 2).mean(2))
    spread = images[:8].std(0).mean()
    assert error < 0.15 * spread and np.median(d.min(1)) < 0.3 * spread, (error, np.median(d.min(1)), spread)
    assert len(set(d.argmin(1))) == 8 and 1.5 < last["kl"] < 6, last  # log 8 = 2.08 nats tell which image


# ---- bounds, pictures


def test_evaluate():
    model = made(dequantise=17)
    trace(model, 50, tg.Rng(0))
    test = data.load("digits", "test")
    found = model.evaluate(test, tg.Rng(0), images=100, k=16)
    assert found == model.evaluate(test, tg.Rng(0), images=100, k=16)
    assert found["images"] == 100 and found["draws"] == 16 and 0 <= found["latent_in_use"] <= 2
    assert found["elbo"] == pytest.approx(-found["elbo.nll"] - found["elbo.kl"]) and found["iwae.16"] > found["elbo"]
    assert found["bits_per_dim"] == pytest.approx(-found["elbo"] / (64 * math.log(2)) + math.log2(16 / 2))
    plain = made(decoder="bernoulli").evaluate(test, tg.Rng(0), images=20, k=2)
    assert plain["bits_per_dim"] == pytest.approx(-plain["elbo"] / (64 * math.log(2)))


def test_bits_of_a_density_that_is_known():
    """A decoder that says N(0, σ²) of every pixel, with σ so large that the density is flat: 17 levels then cost
    log₂ of √(2π)σ levels each, since noise as wide as a level makes the density a probability."""
    model = made(variance="fixed", sigma=100.0)
    for t in (model.decoder.out.w, model.decoder.out.b, model.encoder.mean.w, model.encoder.mean.b,
              model.encoder.logvar.w, model.encoder.logvar.b):
        t.assign(np.zeros_like(t.data))
    found = model.evaluate(DIGITS, tg.Rng(0), images=50, k=4)
    assert found["elbo.kl"] == 0 and found["latent_in_use"] == 0
    assert found["bits_per_dim"] == pytest.approx(math.log2(math.sqrt(2 * math.pi) * 100 * 16 / 2), abs=1e-3)
    assert found["iwae.4"] == pytest.approx(found["elbo"], abs=1e-4)


def test_helpers():
    assert log_mean_exp(np.array([[1000.0, 1000.0 + math.log(3)]]), 1) == pytest.approx([1000 + math.log(2)])
    assert grey_levels(DIGITS.images) == 17 and grey_levels(np.arange(256, dtype=np.uint8)) == 256
    with pytest.raises(tg.ShapeError, match="a bound of k = 5 draws needs log weights of at least so many"):
        bound(np.zeros((4, 3)), 5)
    z = plane(4)
    assert z.shape == (16, 2) and np.allclose(z.mean(0), 0, atol=1e-6)
    assert z[0, 0] == z[:, 0].min() and z[0, 1] == z[:, 1].max()  # top left
    assert z[3, 0] == pytest.approx(1.1503, abs=1e-3)  # Φ⁻¹(7/8)


def test_pictures():
    model = made()
    trace(model, 20, tg.Rng(0))
    sheets = model.figures(tg.Rng(0), DIGITS)
    assert set(sheets) == {"samples", "manifold", "reconstructions", "interpolation", "latent"}
    assert all(a.dtype == np.uint8 for a in sheets.values())
    assert sheets["manifold"].shape == (181, 181) and sheets["latent"].shape == (480, 480, 3)
    assert sheets["reconstructions"].shape == (73, 73) and sheets["interpolation"].shape == (73, 82)
    cell = data.to_uint8(model.images(plane(20)).numpy())[21, :, :, 0]
    assert np.array_equal(sheets["manifold"][10:18, 10:18], cell)  # second row, second column
    assert set(model.figures(tg.Rng(0))) == {"samples", "manifold"}
    assert "manifold" not in made(latent=3).figures(tg.Rng(0), DIGITS.subset(np.arange(5)))


def test_scatter_puts_points_where_they_are():
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    image = scatter(p, None, size=100)
    assert (image[50, 97] < 200).any() and (image[3, 50] < 200).any() and (image[97, 50] == 255).all()
    a, b = scatter(p, np.array([0, 1]), ["x", "y"]), scatter(np.pad(p, ((0, 0), (0, 3))), np.array([0, 1]))
    assert a.shape == b.shape == (480, 480, 3)


# ---- that it learns; figures recorded in bench/results/


@pytest.mark.slow
def test_digits():
    """The small preset against held-out digits (bench/results/vae_digits). Two dimensions, and means in place of
    draws, are blurred: the Fréchet distance is far from a GAN's."""
    result = quality.digits("vae")
    score, kept = result["score"], result["reconstruction"]
    assert result["bounds"]["iwae.256"] > result["bounds"]["elbo"] > -36, result["bounds"]
    assert kept["label_kept"] > 0.7 and kept["psnr"] > 14, kept
    assert score["fd"]["pixels"]["ratio"] <= 14 and score["judge"]["min"] >= 0.04, score
