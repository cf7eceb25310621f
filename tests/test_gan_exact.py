"""What the losses and penalties of GANs must do exactly, without luck: penalties of known discriminators, the
best discriminator between two known densities, and who receives gradient from what."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

import tinygen as tg
from tinygen import losses, ops
from tinygen.config import build
from tinygen.models.gan import GAN, Config, Discriminator, Generator
from tinygen.nn import Init
from tinygen.optim import Adam, linear


def discriminator(size, channels, widths, seed=0):
    config = build(Config, None, {"image_size": size, "channels": channels, "d_widths": widths, "output": "linear"})
    return Discriminator(config, Init(tg.Rng(seed)))


def quantiles(mean, n=1024):
    """n points that stand for N(mean, 1): its quantiles at the middles of n equal shares."""
    return (mean + ndtri((np.arange(n) + 0.5) / n)).astype(np.float32)


# ---- the gradient penalty


def test_unit_slope_has_no_penalty_and_the_usual_mistakes_have_one():
    """D(x) = ⟨w, x⟩ with ‖w‖ = 1. Norms over one axis, or over the whole batch, are what public code got
    wrong."""
    w = np.random.default_rng(0).standard_normal((8, 8, 3))
    w /= np.linalg.norm(w)
    x = np.random.default_rng(1).standard_normal((8, 8, 8, 3))

    def D(x):
        return ops.sum(x * tg.Tensor(w), axis=(1, 2, 3))

    assert losses.gradient_penalty(D, x).item() < 1e-20
    assert abs(losses.r1_penalty(D, x).item() - 1) < 1e-12
    g = np.broadcast_to(w, x.shape)
    wrong = {
        "channels": np.mean((np.sqrt((g**2).sum(3)) - 1) ** 2),
        "height": np.mean((np.sqrt((g**2).sum(1)) - 1) ** 2),
        "batch": (np.sqrt((g**2).sum()) - 1) ** 2,
    }
    assert abs(wrong["batch"] - (math.sqrt(8) - 1) ** 2) < 1e-12
    assert all(value > 0.5 for value in wrong.values()), wrong


def test_wgan_gp_settles_where_theory_says_linear_critic():
    """Between N(0, I) and N(Δ, I) a linear critic of slope s loses −sΔ + λ(s − 1)²: least at s = 1 + Δ/2λ.
    Data N,1,1,2."""
    delta, weight = 3.0, 10.0
    fake = np.random.default_rng(0).standard_normal((64, 1, 1, 2))
    real = fake + np.array([delta, 0.0])
    u = np.random.default_rng(1).uniform(size=64)
    w = tg.Tensor(np.array([0.3, -0.8]), requires_grad=True)
    D = lambda x: ops.sum(ops.reshape(x, shape=(-1, 2)) * w, axis=1)  # noqa: E731
    for _ in range(200):
        loss = losses.d_wasserstein(D(tg.Tensor(real)), D(tg.Tensor(fake)))
        loss = loss + weight * losses.gradient_penalty(D, losses.interpolate(real, fake, u))
        w.assign(w.data - 0.04 * tg.grad(loss, w).data)
    assert np.allclose(w.data, [1 + delta / (2 * weight), 0], atol=1e-6)
    distance = np.mean(D(tg.Tensor(real)).data) - np.mean(D(tg.Tensor(fake)).data)
    assert abs(distance - 3.45) < 1e-5


def test_wgan_gp_settles_where_theory_says_network_critic():
    """The same for a network, whose penalty needs the second derivative: slope 1.15 and distance 3.45."""
    delta, weight, steps, rng = 3.0, 10.0, 400, tg.Rng(0)
    D = discriminator(1, 2, (32, 32))
    optimizer = Adam(D.parameters(), linear(1e-2, steps), betas=(0.0, 0.9))
    slopes, distances = [], []
    for i in range(steps):
        real = rng.normal("real", i, (128, 1, 1, 2)).data + np.array([delta, 0], np.float32)
        fake = rng.normal("fake", i, (128, 1, 1, 2)).data
        between = losses.interpolate(real, fake, rng.uniform("u", i, (128,)))
        distance = -losses.d_wasserstein(D(tg.Tensor(real)), D(tg.Tensor(fake)))
        loss = weight * losses.gradient_penalty(D, between) - distance
        optimizer.step(tg.grad(loss, optimizer.params))
        if i >= steps - 100:
            x = tg.Tensor(between.data, requires_grad=True)
            slopes.append(np.linalg.norm(tg.grad(ops.sum(D(x)), x).data.reshape(-1, 2), axis=1).mean())
            distances.append(distance.item())
    assert abs(np.mean(slopes) - 1.15) < 0.02, np.mean(slopes)
    assert abs(np.mean(distances) - 3.45) < 0.1, np.mean(distances)


# ---- the best discriminator


@pytest.mark.parametrize("name, best", [
    ("non_saturating", lambda x: 2 * x - 2),  # logit of p/(p + q) for N(2, 1) against N(0, 1)
    ("least_squares", lambda x: 1 / (1 + np.exp(2 - 2 * x))),
])  # fmt: skip
def test_the_discriminator_becomes_the_one_that_theory_names(name, best):
    """N(2, 1) against N(0, 1), full batches of quantiles (Goodfellow et al. 2014, Proposition 1; Mao et al.
    2017, eq. 5)."""
    D, steps = discriminator(1, 1, (64, 64)), 400
    real, fake = (tg.Tensor(quantiles(m).reshape(-1, 1, 1, 1)) for m in (2.0, 0.0))
    optimizer = Adam(D.parameters(), linear(1e-2, steps))
    for _ in range(steps):
        loss = losses.GAN_LOSSES[name].d(D(real), D(fake))
        optimizer.step(tg.grad(loss, optimizer.params))
    x = np.linspace(-1, 3, 81, dtype=np.float32)
    found = D(tg.Tensor(x.reshape(-1, 1, 1, 1))).data[:, 0]
    assert np.abs(found - best(x)).max() <= 0.2, np.abs(found - best(x)).max()
    if name == "non_saturating":  # the value −V = log 4 − 2·JSD, by quadrature
        t = np.linspace(-8, 10, 20001)
        p, q = (np.exp(-((t - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (2.0, 0.0))
        value = np.trapezoid(p * np.log1p(q / p) + q * np.log1p(p / q), t)
        assert abs(loss.item() - value) < 0.01


def test_the_saturating_loss_is_flat_where_d_wins():
    """dL/dlogit = −σ(q) saturating and −σ(−q) non-saturating, for each of n fakes over n (§3)."""
    q = np.array([-10.0, -3.0, 0.0, 3.0])
    s = 1 / (1 + np.exp(-q))
    for name, expected in (("saturating", -s / 4), ("non_saturating", -(1 - s) / 4)):
        logits = tg.Tensor(q, requires_grad=True)
        assert np.allclose(tg.grad(losses.GAN_LOSSES[name].g(logits), logits).data, expected, rtol=1e-12)


# ---- who receives gradient from what


@pytest.mark.parametrize("name", losses.GAN_LOSSES)
def test_gradient_flow_of_the_losses(name):
    """D's loss reaches all of D and, through detached fakes, none of G; G's loss reaches all of G, through
    D."""
    config = build(Config, None, {"g_widths": (12,), "d_widths": (12,), "latent": 3})
    rng = tg.Rng(0)
    G, D = Generator(config, Init(rng, "g")), Discriminator(config, Init(rng, "d"))
    x, z = rng.uniform("x", 0, (6, 8, 8, 1), -1, 1), rng.normal("z", 0, (6, 3))
    loss, dp, gp = losses.GAN_LOSSES[name], D.parameters(), G.parameters()

    d = loss.d(D(x), D(G(z).detach()))
    cut = tg.grad(d, list(gp.values()) + list(dp.values()), allow_unused=True)
    assert all(g is None for g in cut[: len(gp)])
    # of a Wasserstein critic the last bias cancels, E(fake + b) − E(real + b); within its margin the hinge is
    # the same
    free = {"layers.1.b"} if name in ("wasserstein", "hinge") else set()
    for k, g in zip(dp, cut[len(gp) :]):
        assert (np.abs(g.data).max() < 1e-7) == (k in free), k

    g = loss.g(D(G(z)))
    assert all(np.abs(v.data).max() > 0 for v in tg.grad(g, gp, retain_graph=True).values())
    assert all(np.abs(v.data).max() > 0 for v in tg.grad(g, dp).values())  # so it is D's optimiser that must not step


def test_gradient_flow_of_the_penalties():
    """A penalty on the slope reaches D's weights; of the biases none, where D is piecewise linear; and
    nothing of G."""
    config = build(Config, None, {"g_widths": (12,), "d_widths": (12, 12), "latent": 3})
    rng = tg.Rng(0)
    G, D = Generator(config, Init(rng, "g")), Discriminator(config, Init(rng, "d"))
    x, z = rng.uniform("x", 0, (6, 8, 8, 1), -1, 1), rng.normal("z", 0, (6, 3))
    between = losses.interpolate(x, G(z), rng.uniform("u", 0, (6,)))
    for value in (losses.r1_penalty(D, x), losses.gradient_penalty(D, between)):
        found = tg.grad(value, D.parameters(), allow_unused=True, retain_graph=True)
        for k, g in found.items():
            flows = g is not None and np.abs(g.data).max() > 0
            assert flows == k.endswith(".w"), k
        assert all(g is None for g in tg.grad(value, list(G.parameters().values()), allow_unused=True))


@pytest.mark.parametrize("switches", [{}, {"r1": 0.0}, {"gradient_penalty": 10.0}, {"loss": "saturating"}])
def test_a_step_moves_each_player_by_its_own_gradient_alone(switches):
    """D's update leaves G as it is and the other way about; each update has the gradients of its own network
    only."""
    model = GAN(build(Config, None, {"g_widths": (16,), "d_widths": (16,), **switches}), tg.Rng(0))
    log = []

    def snapshot():
        return {k: {n: p.data.copy() for n, p in net.parameters().items()}
                for k, net in (("d", model.discriminator), ("g", model.generator))}

    for who, optimizer in (("d", model.d_optimizer), ("g", model.g_optimizer)):
        def watched(grads, who=who, step=optimizer.step):
            before = snapshot()
            step(grads)
            log.append((who, set(grads), before, snapshot()))
        optimizer.step = watched
    rng = tg.Rng(1)
    x = rng.uniform("x", 0, (8, 8, 8, 1), -1, 1)
    model.step(tg.data.Batch(x, None, None, np.arange(8)), rng)

    assert [who for who, *_ in log] == ["d", "g"]
    for who, names, before, after in log:
        other = "g" if who == "d" else "d"
        assert names == set(before[who])
        assert all(np.array_equal(before[other][k], after[other][k]) for k in before[other])
        assert all(not np.array_equal(before[who][k], after[who][k]) for k in before[who])
    assert all(np.array_equal(log[0][3][w][k], log[1][2][w][k]) for w in "dg" for k in log[0][3][w])
