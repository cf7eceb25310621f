"""The DCGAN: its shapes and first weights, batch norm in training and evaluation, one step, its state, the
latent tools, that it learns eight images; and, slow, that it learns."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from tinygen import data, losses, models
from tinygen.config import build
from tinygen.models.dcgan import DCGAN, PRESETS, Config, Generator, ink, lerp, slant, slerp
from tinygen.nn import Init

DIGITS = data.load("digits", "train")

# d_loss, g_loss of three steps of the small preset on the digits, seed 0
GOLDEN = [
    (1.365426778793335, 0.8368306159973145),
    (1.2283308506011963, 0.8330566883087158),
    (1.1622581481933594, 0.780613899230957),
]


def made(seed=0, **changes):
    return DCGAN(build(Config, PRESETS["small"], changes), tg.Rng(seed))


def trace(model, steps, rng, first=0):
    loader = data.Loader(DIGITS, model.config.batch_size, rng)
    return [model.step(loader.batch(i), rng) for i in range(first, first + steps)]


def test_golden_trace():
    once, again = (trace(made(), 3, tg.Rng(0)) for _ in range(2))
    assert once == again  # bit for bit
    assert np.allclose([(s["d_loss"], s["g_loss"]) for s in once], GOLDEN, rtol=1e-5, atol=0)


def test_it_is_listed():
    assert models.load("dcgan") is DCGAN and "dcgan" in models.names()


@pytest.mark.parametrize("size, channels, base, kernel", [
    (4, 1, 2, 4), (8, 1, 4, 5), (8, 1, 2, 4), (16, 3, 4, 4), (28, 1, 7, 5), (32, 3, 4, 5), (64, 3, 4, 5),
])  # fmt: skip
def test_any_size_that_doubles_up(size, channels, base, kernel):
    model = made(image_size=size, channels=channels, base=base, kernel=kernel, width=4, latent=6)
    rng = tg.Rng(0)
    x = rng.uniform("x", 0, (3, size, size, channels), -1, 1)
    scalars = model.step(data.Batch(x, None, None, np.arange(3)), rng)
    assert np.isfinite(list(scalars.values())).all()
    assert model.sample(2, rng).shape == (2, size, size, channels)


def test_other_sizes_get_a_sentence():
    for size in (2, 9, 12, 28):
        with pytest.raises(tg.ConfigError, match=f"dcgan starts at 2×2 and doubles: .* not {size}; resize them"):
            build(Config, None, {"image_size": size})


def test_paper_preset():
    """Figure 1: 100 → 4×4×1024 → 512 → 256 → 128 → 64×64×3, kernels of 5; and D its mirror."""
    c = build(Config, PRESETS["paper"])
    G = Generator(c, Init(tg.Rng(0)))
    assert G.project.w.shape == (100, 4 * 4 * 1024)
    assert [up.w.shape for up in G.ups] == [(5, 5, 1024, 512), (5, 5, 512, 256), (5, 5, 256, 128), (5, 5, 128, 3)]
    assert (c.lr, c.beta1, c.batch_size, c.noise) == (2e-4, 0.5, 128, "uniform")


def test_guidelines():
    """Batch norm everywhere but at G's output and D's input; no biases beside it; first weights of §4."""
    model = made(width=64, image_size=16)
    G, D = model.generator, model.discriminator
    assert len(G.norms) == len(G.ups) and len(D.norms) == len(D.downs) - 1
    assert not any(k.endswith(".b") and "norms" not in k for k in model.parameters())
    for k, p in model.parameters().items():
        if k.endswith(".w"):
            mean = 1.0 if "norms" in k else 0.0
            assert abs(p.data.mean() - mean) < 0.01 and 0.015 < p.data.std() < 0.025, k
        else:
            assert not p.data.any()
    x = model.generator(model.noise(4, tg.Rng(0))).data
    assert np.abs(x).max() <= 1


def test_batch_norm_in_training_and_evaluation():
    """In training an image depends on its batch and the running statistics move; in evaluation neither."""
    model = made(width=8)
    trace(model, 2, tg.Rng(0))
    G, z = model.generator, model.noise(6, tg.Rng(1))

    def buffers():
        return {k: b.data.copy() for k, b in G.buffers().items()}

    before = buffers()
    G.eval()
    whole, part = G(z).data, G(tg.Tensor(z.data[:2])).data
    assert np.allclose(whole[:2], part, atol=1e-6)
    assert all(np.array_equal(before[k], b) for k, b in buffers().items())
    G.train()
    whole, part = G(z).data, G(tg.Tensor(z.data[:2])).data
    assert not np.allclose(whole[:2], part, atol=1e-3)
    assert all(not np.array_equal(before[k], b) for k, b in buffers().items())


def test_the_average_takes_the_statistics_along():
    model = made(width=8, ema=0.5)
    rng, G, shadow = tg.Rng(0), model.generator, model.ema.shadow
    assert set(shadow) == set(G.parameters()) | set(G.buffers()) and G.buffers()
    trace(model, 1, rng)
    before = {k: v.copy() for k, v in shadow.items()}
    d = model.ema.next_decay()
    trace(model, 1, rng, first=1)
    for k, t in {**G.parameters(), **G.buffers()}.items():
        assert np.allclose(shadow[k], d * before[k] + (1 - d) * t.data, atol=1e-6), k
    mean, own = model.sample(3, rng).data, model.sample(3, rng, average=False).data
    assert not np.array_equal(mean, own)
    assert np.array_equal(mean, model.sample(3, rng).data)


def test_real_images_and_fakes_are_normalised_apart():
    model, rng = made(width=8), tg.Rng(0)
    loader = data.Loader(DIGITS, 16, rng)
    batch, D, G = loader.batch(0), model.discriminator, model.generator
    model.train()
    with tg.no_grad():
        fake = G(model.noise(16, rng, "dcgan.z.d", 0))
        apart = losses.d_logistic(D(batch.images), D(fake)).item()
        both = D(tg.Tensor(np.concatenate([batch.images.data, fake.data])))
        together = losses.d_logistic(both[:16], both[16:]).item()
    assert made(width=8).step(batch, rng)["d_loss"] == pytest.approx(apart, rel=1e-6)
    assert abs(together - apart) > 1e-4


def test_a_step_moves_each_player_by_its_own_gradient_alone():
    model, log = made(width=8), []

    def snapshot():
        return {k: {n: p.data.copy() for n, p in net.parameters().items()}
                for k, net in (("d", model.discriminator), ("g", model.generator))}

    for who, optimizer in (("d", model.d_optimizer), ("g", model.g_optimizer)):
        def watched(grads, who=who, step=optimizer.step):
            before = snapshot()
            step(grads)
            log.append((who, set(grads), before, snapshot()))
        optimizer.step = watched
    trace(model, 1, tg.Rng(0))
    assert [who for who, *_ in log] == ["d", "g"]
    for who, names, before, after in log:
        other = "g" if who == "d" else "d"
        assert names == set(before[who])
        assert all(np.array_equal(before[other][k], after[other][k]) for k in before[other])
        assert all(not np.array_equal(before[who][k], after[who][k]) for k in before[who])


def test_resume_is_exact():
    """3 + 3 steps by way of state() and load() end in the same bits as 6: weights, statistics, Adam,
    average."""
    whole = made(width=8)
    expected = trace(whole, 6, tg.Rng(0))
    half = made(width=8)
    trace(half, 3, tg.Rng(0))
    state = {k: v.copy() for k, v in half.state().items()}
    resumed = made(width=8, seed=9)
    resumed.load(state)
    assert trace(resumed, 3, tg.Rng(0), first=3) == expected[3:]
    for k, v in whole.state().items():
        assert np.array_equal(v, resumed.state()[k]), k
    assert any(re.search(r"ema\.shadow\.norms.*mean", k) for k in state)


# ---- the latent space


def test_lerp_and_slerp():
    a, b = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    for path in (lerp, slerp):
        assert np.allclose(path(a, b, 0.0), a, atol=1e-6) and np.allclose(path(a, b, 1.0), b, atol=1e-6)
        assert path(a, b, 0.3).dtype == np.float32
    assert np.allclose(lerp(a, b, 0.25), 0.75 * a + 0.25 * b, atol=1e-6)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    half = slerp(a, b, 0.5)
    assert np.allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)  # stays on the sphere, and halves the angle
    assert np.allclose((half * a).sum(1), (half * b).sum(1), atol=1e-6)
    assert np.allclose(slerp(a, a, 0.4), a, atol=1e-6) and np.isfinite(slerp(a, -a, 0.5)).all()


@pytest.mark.parametrize("noise, spread", [("uniform", 1 / 3), ("normal", 1.0)])
def test_arithmetic_keeps_the_spread_of_z(noise, spread):
    """Means of three have a third of the variance, so mean − mean + mean has that of z; single exemplars
    three times it."""
    model = made(noise=noise, width=4, latent=32)
    z = model.noise(900, tg.Rng(0)).data.reshape(100, 3, 3, 32)
    assert abs(z.var() / spread - 1) < 0.05
    for k, expected in ((3, 1.0), (1, 3.0)):
        out = np.stack([model.arithmetic(a[:k], b[:k], c[:k]) for a, b, c in z])
        assert abs(out.var() / spread - expected) < 0.1 * expected
    with pytest.raises(tg.ShapeError, match=r"arithmetic needs exemplars \(k, 32\)"):
        model.arithmetic(z[0, 0], z[0, 1], z[0, 2, 0])


def test_interpolation_walks_straight_for_uniform_z_and_round_for_normal():
    for noise, path in (("uniform", lerp), ("normal", slerp)):
        model = made(noise=noise, width=4)
        a, b = model.noise(3, tg.Rng(0)).data, model.noise(3, tg.Rng(1)).data
        way = model.interpolate(a, b, steps=5)
        assert way.shape == (3, 5, 32) and np.allclose(way[:, 1], path(a, b, 0.25), atol=1e-6)


def test_ink_and_slant():
    x = -np.ones((2, 5, 5, 1), np.float32)
    x[0, range(5), range(5)] = 1  # \ : the top leans to the left
    x[1, range(5), range(4, -1, -1)] = 1  # /
    assert np.allclose(ink(x), -1 + 2 / 5)
    assert np.allclose(slant(x), [-1, 1], atol=1e-4)


def test_figures():
    for channels in (1, 3):
        model = made(width=4, channels=channels)
        found = model.figures(tg.Rng(0))
        assert set(found) == {"interpolation", "arithmetic", "turn"}
        for picture in found.values():
            assert picture.dtype == np.uint8 and picture.ndim == (2 if channels == 1 else 3)
        again = model.figures(tg.Rng(0))
        assert all(np.array_equal(found[k], again[k]) for k in found)


def test_it_learns_eight_images():
    """The generator's samples come near the eight images, and to most of them; nothing holds them there (no
    penalty)."""
    index = np.tile(np.arange(8), 4)
    images = data.to_float(DIGITS.images[index])
    batch = data.Batch(tg.Tensor(images), None, None, index)
    model, rng = made(latent=8, width=32, lr=2e-3, ema=0.95), tg.Rng(0)

    def nearest():
        x, t = model.sample(64, tg.Rng(5)).data.reshape(64, -1), images[:8].reshape(8, -1)
        d = np.linalg.norm(x[:, None] - t[None], axis=2)
        return d.min(1).mean(), len(set(d.argmin(1)))

    start, _ = nearest()
    for _ in range(200):
        model.step(batch, rng)
    end, found = nearest()
    assert end < 0.7 * start and found >= 5, (start, end, found)


# ---- that it learns; figures recorded in bench/results/


@pytest.mark.slow
def test_digits_and_the_latent_space():
    """The small preset against held-out digits, and its latent tools (bench/results/dcgan_digits)."""
    path = Path(__file__).parent.parent / "bench" / "gan_quality.py"
    spec = importlib.util.spec_from_file_location("gan_quality", path)
    quality = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quality)
    model, result = quality.digits("dcgan")
    score = result["score"]
    assert max(fd["ratio"] for fd in score["fd"].values()) <= 3, score["fd"]
    assert score["judge"]["min"] >= 0.04 and score["judge"]["max"] <= 0.2, score["judge"]
    assert 0.8 <= score["memorisation"]["ratio"] <= 1.2, score["memorisation"]
    tools = quality.latent_tools(model)
    assert tools["midpoint_confidence"] >= 0.8, tools
    # heavy − light + light' is heavy twice as often as a sample is (light' itself never); single exemplars give
    # pictures that are less like digits
    sums = tools["arithmetic"]
    assert sums["heavy_with_3"] >= 0.4 and sums["ink_gained_in_sd_with_3"] >= 1, sums
    assert sums["confidence_with_1"] < sums["confidence_with_3"] - 0.05, sums
    assert tools["turn_in_sd"] >= 1, tools
