"""Diffusion against models that are known exactly: Gaussian data, whose ideal ε is linear, and a mixture of eight
Gaussians on a ring, whose score is closed-form. No network, no luck: every number has a reason."""

import numpy as np
import pytest

import tinygen as tg
from tinygen.models.diffusion import Diffusion, betas, log_likelihood
from tinygen.rng import Rng
from tinygen.tensor import Tensor


class Gauss4:
    """Data N(m, S) in four dimensions. ε*(x_t) = √(1−ᾱ)(ᾱS + (1−ᾱ)I)⁻¹(x_t − √ᾱ m)."""

    def __init__(self, diffusion: Diffusion):
        rng = np.random.default_rng(0)
        a = rng.standard_normal((4, 4))
        self.S = 0.1 * a @ a.T + 0.05 * np.eye(4)
        self.m = np.array([0.3, -0.2, 0.1, 0.0])
        self.d = diffusion

    def draw(self, n, seed=1):
        return self.m + np.random.default_rng(seed).standard_normal((n, 4)) @ np.linalg.cholesky(self.S).T

    def spread(self, i):
        a = self.d.abar[i]
        return a * self.S + (1 - a) * np.eye(4)

    def __call__(self, x, at):
        (i,) = set(np.asarray(at).tolist())
        a = self.d.abar[i]
        eps = np.sqrt(1 - a) * np.linalg.solve(self.spread(i), (x.numpy() - np.sqrt(a) * self.m).T).T
        if self.d.target == "eps":
            return Tensor(eps)
        x0 = (x.numpy() - np.sqrt(1 - a) * eps) / np.sqrt(a)
        return Tensor(x0 if self.d.target == "x0" else np.sqrt(a) * eps - np.sqrt(1 - a) * x0)

    def entropy(self):
        """−E log p(x₀), in nats."""
        return 0.5 * (4 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(self.S)[1])

    def bound(self, variance):
        """L_T + ΣL_{t−1} + L_0 in closed form, with E‖ε − ε*‖² = D − (1−ᾱ) tr(ᾱS + (1−ᾱ)I)⁻¹."""
        d, D = self.d, 4
        a = d.abar[-1]
        total = 0.5 * (a * (np.trace(self.S) + self.m @ self.m) - D * a - D * np.log(1 - a))
        var = d.variance(variance)
        for i in range(d.T):
            a = d.abar[i]
            miss = D - (1 - a) * np.trace(np.linalg.inv(self.spread(i)))
            weight = d.beta[i] ** 2 / (2 * var[i] * d.alpha[i] * (1 - a))
            if i == 0:  # −log N(x₀; μ(x₁), σ²): the posterior is a point, its mean x₀ itself
                total += weight * miss + 0.5 * D * np.log(2 * np.pi * var[0])
            else:
                ratio = d.beta_tilde[i] / var[i]
                total += weight * miss + 0.5 * D * (ratio - 1 - np.log(ratio))
        return total


class Ring8:
    """Eight modes of deviation 0.15 on a circle of radius 2, equal weights; ε* = −√(1−ᾱ) ∇ log p_t."""

    sigma, radius = 0.15, 2.0

    def __init__(self, diffusion):
        angles = np.arange(8) * np.pi / 4
        self.centres = self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.d = diffusion

    def draw(self, n, seed=0):
        rng = np.random.default_rng(seed)
        return self.centres[rng.integers(0, 8, n)] + self.sigma * rng.standard_normal((n, 2))

    def __call__(self, x, at):
        (i,) = set(np.asarray(at).tolist())
        a = self.d.abar[i]
        var = a * self.sigma**2 + 1 - a
        away = x.numpy()[:, None] - np.sqrt(a) * self.centres  # N, 8, 2
        logits = -0.5 * (away**2).sum(-1) / var
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return Tensor(np.sqrt(1 - a) * (weights[..., None] * away).sum(1) / var)

    def near(self, x):
        """Share of points within three deviations of a mode."""
        return (np.linalg.norm(x[:, None] - self.centres, axis=-1).min(1) < 3 * self.sigma).mean()


def last(walk):
    *_, (_, x, _) = walk
    return x


def normal(n, d, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal((n, d)))


# schedules


def test_schedules():
    abar = np.cumprod(1 - betas("linear", 1000))
    assert betas("linear", 1000)[[0, -1]] == pytest.approx([1e-4, 0.02]) and abar[-1] == pytest.approx(4.0e-5, rel=0.02)
    assert (abar < 1e-3).argmax() == 826 - 1  # 0.02, not the 0.2 of one deck, with which it would be step 261
    assert np.cumprod(1 - betas("scaled_linear", 1000))[-1] == pytest.approx(0.0047, rel=0.02)
    cosine = betas("cosine", 1000)
    assert cosine.max() == 0.999 and np.cumprod(1 - cosine)[499] == pytest.approx(
        np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2, rel=1e-9)
    for name in ("linear", "cosine", "sigmoid", "scaled_linear"):
        for T in (50, 200, 1000, 4000):
            b = betas(name, T)
            assert len(b) == T and (b > 0).all() and (b < 1).all()
    with pytest.raises(tg.ConfigError, match="no schedule 'cubic'; there are linear, cosine"):
        betas("cubic", 10)


# forward


def test_the_chain_and_the_closed_form_agree():
    d = Diffusion(50, "linear")
    rng = np.random.default_rng(0)
    x = np.full(200_000, 0.7)
    for i in range(50):
        x = np.sqrt(1 - d.beta[i]) * x + np.sqrt(d.beta[i]) * rng.standard_normal(len(x))
    mean, var = np.sqrt(d.abar[-1]) * 0.7, 1 - d.abar[-1]
    assert abs(x.mean() - mean) < 4 * np.sqrt(var / len(x))
    assert abs(x.var() - var) < 4 * var * np.sqrt(2 / len(x))
    eps = rng.standard_normal((5, 3))
    x0 = rng.standard_normal((5, 3))
    i = np.array([0, 3, 10, 49, 20])
    expected = np.sqrt(d.abar[i])[:, None] * x0 + np.sqrt(1 - d.abar[i])[:, None] * eps
    np.testing.assert_allclose(d.noised(Tensor(x0), i, Tensor(eps)).numpy(), expected, rtol=1e-14)


def test_noise_without_shrinking_grows_by_one_a_step():
    """The chain x_t = x_{t−1} + ε of one deck is the variance-exploding one: Var x_t = t."""
    x = np.random.default_rng(0).standard_normal((50, 100_000)).cumsum(axis=0)
    np.testing.assert_allclose(x.var(axis=1), np.arange(1, 51), rtol=0.03)


# backward


@pytest.mark.parametrize("T", [50, 1000])
def test_two_forms_of_the_reverse_mean_agree(T):
    d = Diffusion(T)
    rng = np.random.default_rng(0)
    x, eps = Tensor(rng.standard_normal((T, 6))), Tensor(rng.standard_normal((T, 6)))
    i = np.arange(T)
    x0, _ = d.x0_and_eps(x, i, eps, clip=False)
    a, b = d.posterior_mean(x0, x, i).numpy(), d.eps_mean(eps, x, i).numpy()
    assert np.abs(a - b).max() <= 1e-12 * np.abs(x0.numpy()).max()


def test_bars_on_every_alpha_would_return_x0():
    """One deck's Algorithm 2 has bars on every α; read literally its mean is x̂₀, not x_{t−1}."""
    d = Diffusion(100)
    rng = np.random.default_rng(0)
    x, eps = rng.standard_normal((100, 3)), rng.standard_normal((100, 3))
    i = np.arange(100)
    a = d.abar[:, None]
    literal = (x - (1 - a) / np.sqrt(1 - a) * eps) / np.sqrt(a)
    np.testing.assert_allclose(literal, d.x0_and_eps(Tensor(x), i, Tensor(eps), False)[0].numpy(), atol=1e-9)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_the_three_targets_are_one_model(target):
    d, reference = Diffusion(40, "cosine", target), Diffusion(40, "cosine")
    x = normal(20, 4)
    ours = last(d.sample_ddim(Gauss4(d), x, steps=40, clip=False)).numpy()
    theirs = last(reference.sample_ddim(Gauss4(reference), x, steps=40, clip=False)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    x0, eps, i = normal(5, 4, 1), normal(5, 4, 2), np.array([0, 10, 20, 30, 39])
    found = d.x0_and_eps(d.noised(x0, i, eps), i, d.target_of(x0, i, eps), clip=False)
    np.testing.assert_allclose(found[0].numpy(), x0.numpy(), atol=1e-6)
    np.testing.assert_allclose(found[1].numpy(), eps.numpy(), atol=1e-9)


@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_1_and_all_steps_is_ddpm(clip):
    d = Diffusion(100)
    model, x = Gauss4(d), normal(500, 4)
    ddpm = last(d.sample_ddpm(model, x, Rng(3), variance="small", clip=clip, name="z")).numpy()
    ddim = last(d.sample_ddim(model, x, Rng(3), steps=100, eta=1.0, clip=clip, name="z")).numpy()
    assert np.abs(ddpm - ddim).max() < 1e-9


def test_the_last_step_adds_no_noise():
    d = Diffusion(50)
    x = normal(10, 4)
    walk = list(d.sample_ddpm(Gauss4(d), x, Rng(0), clip=False))
    assert walk[-1][0] == 0
    np.testing.assert_allclose(walk[-1][1].numpy(), walk[-1][2].numpy(), atol=1e-12)  # x₀ = x̂₀


def test_ancestral_sampling_reaches_the_data():
    d = Diffusion(300)
    model = Gauss4(d)
    x = last(d.sample_ddpm(model, normal(20_000, 4), Rng(0), variance="small", clip=False)).numpy()
    assert np.abs(x.mean(0) - model.m).max() < 0.03
    assert np.abs(np.cov(x.T) - model.S).max() < 0.05 * np.abs(model.S).max()


# bound


def test_the_gap_of_the_bound_halves_as_the_steps_double():
    """With σ² = β throughout, bound − likelihood falls as 1/T; σ² = β̃ pays for its first step whatever T is."""
    gaps = []
    for T in (50, 100, 200, 1000, 4000):
        g = Gauss4(Diffusion(T))
        gaps.append(g.bound("beta") - g.entropy())
    assert all(gap > 0 for gap in gaps) and gaps[-1] < 3e-3
    ratios = np.array(gaps[1:]) / np.array(gaps[:-1])
    np.testing.assert_allclose(ratios, [1 / 2, 1 / 2, 1 / 5, 1 / 4], rtol=0.06)
    g = Gauss4(Diffusion(1000))
    assert g.bound("small") - g.entropy() > 2 and g.bound("large") > g.bound("beta")


@pytest.mark.parametrize("variance", ["beta", "large", "small"])
def test_the_bound_by_sampling_is_the_bound_in_closed_form(variance):
    d = Diffusion(60)
    g = Gauss4(d)
    x0 = Tensor(g.draw(40_000))
    found = d.bound(g, x0, Rng(0), variance=variance, clip=False, levels=None)
    error = found["total"].std() / np.sqrt(x0.shape[0])
    assert abs(found["total"].mean() - g.bound(variance)) < 5 * error
    assert found["L_t"].shape == (60, x0.shape[0])
    assert found["total"].mean() > g.entropy()


def test_l_simple_weighted_is_the_bound():
    d = Diffusion(60)
    g = Gauss4(d)
    x0, eps = Tensor(g.draw(1000)), normal(1000, 4, 5)
    i = 20
    at = np.full(1000, i)
    simple = d.loss(g, x0, at, eps).numpy() * 4  # a mean over four numbers
    var = d.variance("large")[i]
    weight = d.beta[i] ** 2 / (2 * var * d.alpha[i] * (1 - d.abar[i]))
    ratio = d.beta_tilde[i] / var
    expected = weight * simple + 0.5 * 4 * (ratio - 1 - np.log(ratio))
    np.testing.assert_allclose(d.bound_term(g, x0, i, eps, clip=False), expected, rtol=1e-9)


def test_the_prior_term_is_the_divergence_of_gaussians():
    d = Diffusion(1000)
    x0 = np.array([[0.5, -1.0, 0.0]])
    a = d.abar[-1]
    expected = 0.5 * (a * x0**2 + (1 - a) - 1 - np.log(1 - a)).sum()
    assert d.prior_term(x0) == pytest.approx(expected) and 0 < expected < 1e-4


def test_the_decoder_sums_to_one_and_survives_its_tails():
    for levels in (17, 256):
        grid = np.linspace(-1, 1, levels)
        for mean, sigma in ((0.0, 0.3), (0.9, 0.01), (-1.2, 0.05), (0.3, 3.0)):
            mass = np.exp(log_likelihood(grid, np.full(levels, mean), sigma, levels))
            assert mass.sum() == pytest.approx(1, abs=1e-9)
    far = log_likelihood(np.array([-1.0, 1.0, 0.0]), np.array([1.0, -1.0, 1.0]), 0.001, 256)
    assert np.isfinite(far).all() and (far < -1e4).all()


# skipping steps, going back


def test_skipping_steps():
    """Share of samples within 3σ of a mode, with the exact model: 83 % at 10 steps, 97 % at 20, 99 % from 50."""
    d = Diffusion(1000)
    model, x = Ring8(d), normal(10_000, 2)
    share = {}
    for n in (10, 20, 50):
        share[n] = model.near(last(d.sample_ddim(model, x, steps=n, clip=False, spacing="linspace")).numpy())
    assert share[10] > 0.78 and share[20] > 0.94 and share[50] > 0.975
    assert share[10] < share[20] < share[50]
    assert model.near(model.draw(10_000)) == pytest.approx(0.989, abs=0.004)  # the ceiling


def sliced_w2(a, b, directions=64):
    angles = np.arange(directions) * np.pi / directions
    lines = np.stack([np.cos(angles), np.sin(angles)])
    return np.sqrt(((np.sort(a @ lines, axis=0) - np.sort(b @ lines, axis=0)) ** 2).mean())


def test_fifty_steps_are_as_good_as_fresh_data():
    d = Diffusion(1000)
    model = Ring8(d)
    floor = sliced_w2(model.draw(10_000, 1), model.draw(10_000, 2))
    x = last(d.sample_ddim(model, normal(10_000, 2), steps=50, clip=False)).numpy()
    assert sliced_w2(x, model.draw(10_000, 3)) < 2.5 * floor


def test_steps_visited():
    d = Diffusion(1000)
    assert d.steps(10, "leading").tolist() == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    assert d.steps(10, "linspace").tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert d.steps(10, "trailing").tolist() == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert d.steps(1000, "trailing").tolist() == list(range(1000)) and d.steps(1, "trailing").tolist() == [999]
    for n in range(1, 60):
        assert len(set(d.steps(n, "trailing"))) == n
    with pytest.raises(tg.ConfigError, match="1 to 1000 steps, not 0"):
        d.steps(0)
    with pytest.raises(tg.ConfigError, match="no spacing 'even'"):
        d.steps(5, "even")


def test_inversion_gains_six_decibels_a_doubling():
    """DDIM run forwards and back again: 35 dB at 20 steps, and 6 dB more each time the steps double."""
    d = Diffusion(1000)
    model = Ring8(d)
    x0 = Tensor(model.draw(2000))
    psnr = []
    for n in (50, 100, 200):
        z = d.invert_ddim(model, x0, steps=n)
        back = last(d.sample_ddim(model, z, steps=n, clip=False))
        psnr.append(10 * np.log10(4**2 / ((back.numpy() - x0.numpy()) ** 2).mean()))
    assert psnr[0] > 30
    assert 3 < psnr[1] - psnr[0] < 9 and 3 < psnr[2] - psnr[1] < 9
    assert z.numpy().std() == pytest.approx(1, abs=0.05)
