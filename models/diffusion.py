"""The mathematics of Gaussian diffusion: schedules, the two directions, samplers, the bound. No network in here.

Sources: Ho et al. 2020 ("DDPM", equation numbers below unless said otherwise), Nichol & Dhariwal 2021 ("iDDPM"), Song
et al. 2021 ("DDIM"), Salimans & Ho 2022 (v). Step t of the papers runs over 1..T; the network and the arrays here use
the index i = t − 1 in 0..T−1, so ᾱ[0] = 1 − β₁ and ᾱ of "before the first step" is 1.

    x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε                                                  (4)
    x̂₀ = (x_t − √(1−ᾱ_t) ε̂)/√ᾱ_t,   v = √ᾱ_t ε − √(1−ᾱ_t) x₀
    μ̃_t = √ᾱ_{t−1} β_t/(1−ᾱ_t) · x₀ + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) · x_t               (7)
    β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) · β_t                                              (7)

A *model* is any function (x_t, i) -> prediction, x_t a Tensor N,…, i integers (N,), an array or a Tensor; so the
samplers and the bound can be tested with models that are known exactly. Coefficients are float64; tensors keep their
own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.backend import move
from tinygen.errors import ConfigError
from tinygen.rng import Rng
from tinygen.tape import no_grad
from tinygen.tensor import Tensor

Model = Callable[[Tensor, Any], Tensor]

SCHEDULES = ("linear", "cosine", "sigmoid", "scaled_linear")
TARGETS = ("eps", "x0", "v")
VARIANCES = ("small", "large", "beta")
SPACINGS = ("leading", "linspace", "trailing")


def betas(schedule: str, T: int) -> np.ndarray:
    """β_1..β_T of a named schedule, float64.

    linear: 1e-4 to 0.02 at T = 1000 (Ho et al. §4), scaled by 1000/T for other T, so that ᾱ_T stays about 4e-5.
    cosine: ᾱ = cos²((t/T + s)/(1 + s)·π/2) with s = 0.008, β ≤ 0.999 (iDDPM, eq. 17).
    sigmoid: ᾱ falls along a sigmoid from −3 to 3 (Jabri et al. 2022, Algorithm 1), β ≤ 0.999.
    scaled_linear: linear in √β from 0.00085 to 0.012 (Rombach et al. 2022); ᾱ_T is 0.0047 there, not zero.
    """
    t = np.arange(T + 1) / T
    match schedule:
        case "linear":
            return np.minimum(np.linspace(1e-4, 0.02, T) * (1000 / T), 0.999)
        case "scaled_linear":
            return np.minimum(np.linspace(0.00085**0.5, 0.012**0.5, T) ** 2 * (1000 / T), 0.999)
        case "cosine":
            f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        case "sigmoid":
            f = 1 / (1 + np.exp(6 * t - 3))
            f = (f - f[-1]) / (f[0] - f[-1])
        case _:
            raise ConfigError(f"there is no schedule {schedule!r}; there are {', '.join(SCHEDULES)}.")
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


class Diffusion:
    """A schedule of T steps, what the model predicts ("eps", "x0" or "v"), and everything that follows from them.

    Arrays of length T, index i = t − 1: beta, alpha, abar (ᾱ_t), abar_before (ᾱ_{t−1}), beta_tilde, signal (√ᾱ_t),
    noise (√(1−ᾱ_t)). Where i is asked for it is an integer array or Tensor (N,); a Tensor lies where the samples do.
    """

    def __init__(self, T: int = 1000, schedule: str = "linear", target: str = "eps"):
        if T < 2:
            raise ConfigError(f"diffusion needs at least 2 steps, not {T}.")
        if target not in TARGETS:
            raise ConfigError(f"there is no target {target!r}; there are {', '.join(TARGETS)}.")
        self.T, self.schedule, self.target = T, schedule, target
        self.beta = betas(schedule, T)
        self.alpha = 1 - self.beta
        self.abar = np.cumprod(self.alpha)
        self.abar_before = np.append(1.0, self.abar[:-1])
        self.beta_tilde = self.beta * (1 - self.abar_before) / (1 - self.abar)
        self.signal, self.noise = np.sqrt(self.abar), np.sqrt(1 - self.abar)
        self._tables: dict[tuple, Tensor] = {}

    def _at(self, table: str, i: np.ndarray | Tensor, like: Tensor) -> Tensor:
        """The table's entry for each sample, as N,1,…,1 of like's dtype and device."""
        if not isinstance(i, Tensor):
            return _per_sample(getattr(self, table)[i], like)
        key = table, like.dtype, like.device
        if key not in self._tables:  # once: a training step waits for no copy
            self._tables[key] = Tensor(move(getattr(self, table).astype(like.dtype), like.device))
        return ops.reshape(ops.take(self._tables[key], i, axis=0), shape=(-1,) + (1,) * (like.ndim - 1))

    # ---- the forward direction, and the three targets

    def noised(self, x0: Tensor, i: np.ndarray | Tensor, eps: Tensor) -> Tensor:
        """x_t of (4), for each sample at its own index."""
        return self._at("signal", i, x0) * x0 + self._at("noise", i, x0) * eps

    def target_of(self, x0: Tensor, i: np.ndarray | Tensor, eps: Tensor) -> Tensor:
        """What the model should have said."""
        if self.target == "eps":
            return eps
        if self.target == "x0":
            return x0
        return self._at("signal", i, x0) * eps - self._at("noise", i, x0) * x0

    def loss(self, model: Model, x0: Tensor, i: np.ndarray | Tensor, eps: Tensor) -> Tensor:
        """Squared error of the prediction, by sample (N,): its mean is L_simple (14) for the target eps."""
        d = model(self.noised(x0, i, eps), i) - self.target_of(x0, i, eps)
        return ops.mean(d * d, axis=tuple(range(1, d.ndim)))

    def x0_and_eps(self, x: Tensor, i: np.ndarray, prediction: Tensor, clip: bool) -> tuple[Tensor, Tensor]:
        """(x̂₀, ε̂) of a prediction. With clip, x̂₀ is held in [−1, 1] and ε̂ is derived from the clipped x̂₀: left as it
        was, the two would no longer say the same thing, and DDIM with η = 1 would not be DDPM."""
        a, s = self._at("signal", i, x), self._at("noise", i, x)
        if self.target == "eps":
            x0, eps = (x - s * prediction) / a, prediction
        elif self.target == "x0":
            x0, eps = prediction, (x - a * prediction) / s
        else:
            x0, eps = a * x - s * prediction, s * x + a * prediction
        if clip:
            x0 = ops.clip(x0, low=-1.0, high=1.0)
            eps = (x - a * x0) / s
        return x0, eps

    # ---- the backward direction

    def variance(self, kind: str) -> np.ndarray:
        """σ² of each step: "small" β̃_t, "large" β_t, both with β̃_2 for the first step, whose β̃_1 is 0, as the code of
        Ho et al. has it ("fixedsmall", "fixedlarge"); "beta" is β_t throughout."""
        if kind not in VARIANCES:
            raise ConfigError(f"there is no variance {kind!r}; there are {', '.join(VARIANCES)}.")
        var = (self.beta_tilde if kind == "small" else self.beta).copy()
        if kind != "beta":
            var[0] = self.beta_tilde[1]
        return var

    def posterior_mean(self, x0: Tensor, x: Tensor, i: np.ndarray) -> Tensor:
        """μ̃_t(x_t, x₀) of (7)."""
        first = np.sqrt(self.abar_before[i]) * self.beta[i] / (1 - self.abar[i])
        second = np.sqrt(self.alpha[i]) * (1 - self.abar_before[i]) / (1 - self.abar[i])
        return _per_sample(first, x) * x0 + _per_sample(second, x) * x

    def eps_mean(self, eps: Tensor, x: Tensor, i: np.ndarray) -> Tensor:
        """The same mean in terms of ε: (x_t − β_t/√(1−ᾱ_t) ε)/√α_t of (11)."""
        return (x - _per_sample(self.beta[i] / np.sqrt(1 - self.abar[i]), x) * eps) * _per_sample(
            self.alpha[i] ** -0.5, x
        )

    def sample_ddpm(
        self, model: Model, x: Tensor, rng: Rng, *, variance: str = "large", clip: bool = True, name: str = "ddpm"
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Ancestral sampling (Algorithm 2) from x = x_T: yields (i, x_{t−1}, x̂₀) after each of the T steps. No noise is
        added in the last one. Noise comes from the stream `name`, step i."""
        sigma = np.sqrt(self.variance(variance))
        for i in range(self.T - 1, -1, -1):
            with no_grad():
                at = np.full(x.shape[0], i)
                x0, _ = self.x0_and_eps(x, at, model(x, at), clip)
                x = self.posterior_mean(x0, x, at)
                if i > 0:
                    x = x + float(sigma[i]) * rng.normal(name, i, x.shape, dtype=x.dtype, device=x.device)
            yield i, x, x0

    def steps(self, count: int, spacing: str = "trailing") -> np.ndarray:
        """`count` indices out of 0..T−1, ascending: "leading" 0, T/count, …; "linspace" both ends; "trailing" T−1 and
        back (Lin et al. 2023, Table 2). Only the last two visit T − 1, where x_T is."""
        if not 1 <= count <= self.T:
            raise ConfigError(f"sampling takes 1 to {self.T} steps, not {count}.")
        match spacing:
            case "leading":
                return np.arange(count) * (self.T // count)
            case "linspace":
                return np.round(np.linspace(0, self.T - 1, count)).astype(int) if count > 1 else np.array([self.T - 1])
            case "trailing":
                return np.round(np.arange(self.T, 0, -self.T / count)[:count]).astype(int)[::-1] - 1
        raise ConfigError(f"there is no spacing {spacing!r}; there are {', '.join(SPACINGS)}.")

    def sample_ddim(
        self,
        model: Model,
        x: Tensor,
        rng: Rng | None = None,
        *,
        steps: int = 50,
        eta: float = 0.0,
        clip: bool = True,
        spacing: str = "trailing",
        name: str = "ddim",
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """DDIM (Song et al. 2021, eq. 12 and 16) over a subsequence of the steps: yields (i, x_{t'}, x̂₀) after each.

        x_{t'} = √ᾱ_{t'} x̂₀ + √(1−ᾱ_{t'}−σ²) ε̂ + σz with σ = η √((1−ᾱ_{t'})/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_{t'}); t' is the step
        actually visited next. η = 0 is deterministic; η = 1 with all T steps is DDPM with β̃.
        """
        if eta and rng is None:
            raise ConfigError("DDIM with η > 0 draws noise: pass an rng.")
        visited = self.steps(steps, spacing)
        for k in range(len(visited) - 1, -1, -1):
            i = int(visited[k])
            before = self.abar[visited[k - 1]] if k else 1.0
            sigma = eta * np.sqrt((1 - before) / (1 - self.abar[i])) * np.sqrt(1 - self.abar[i] / before)
            with no_grad():
                at = np.full(x.shape[0], i)
                x0, eps = self.x0_and_eps(x, at, model(x, at), clip)
                x = float(np.sqrt(before)) * x0 + float(np.sqrt(max(1 - before - sigma**2, 0.0))) * eps
                if rng is not None and sigma > 0:
                    x = x + float(sigma) * rng.normal(name, i, x.shape, dtype=x.dtype, device=x.device)
            yield i, x, x0

    def invert_ddim(self, model: Model, x0: Tensor, *, steps: int = 50, spacing: str = "trailing") -> Tensor:
        """The x_T from which deterministic DDIM comes back to x0: its steps run forwards, each with the ε̂ found at the
        step's start (Song et al. 2021, eq. 14); exact as the number of steps grows."""
        visited = self.steps(steps, spacing)
        x, before = x0, 1.0
        with no_grad():
            for k, i in enumerate(visited):
                # the model is asked at the level x has; the clean image has none, so the first step asks at its end
                at = np.full(x.shape[0], visited[max(k - 1, 0)])
                _, eps = self.x0_and_eps(x, at, model(x, at), clip=False)
                clean = (x - float(np.sqrt(1 - before)) * eps) * float(before**-0.5)
                before = self.abar[i]
                x = float(np.sqrt(before)) * clean + float(np.sqrt(1 - before)) * eps
        return x

    # ---- the variational bound

    def bound_term(
        self,
        model: Model,
        x0: Tensor,
        i: int,
        eps: Tensor,
        *,
        variance: str = "large",
        clip: bool = True,
        levels: int | None = 256,
    ) -> np.ndarray:
        """L_{t−1} of (5) for each sample (N,), in nats, at t = i + 1, for one draw of ε.

        For t > 1 the divergence of two Gaussians, between the posterior (7) and the model's step. For t = 1 the decoder
        −log p(x₀|x₁): a Gaussian integrated over the bin of each of `levels` grey values in [−1, 1], the outer bins
        open (13); with levels=None the density itself.
        """
        with no_grad():
            at = np.full(x0.shape[0], i)
            x = self.noised(x0, at, eps)
            x0_hat, _ = self.x0_and_eps(x, at, model(x, at), clip)
            mean = self.posterior_mean(x0_hat, x, at).numpy().astype(np.float64)
            true = self.posterior_mean(x0, x, at).numpy().astype(np.float64)
        var, axes = self.variance(variance)[i], tuple(range(1, x0.ndim))
        if i == 0:
            return -log_likelihood(x0.numpy().astype(np.float64), mean, np.sqrt(var), levels).sum(axis=axes)
        ratio = self.beta_tilde[i] / var
        return 0.5 * ((true - mean) ** 2 / var + ratio - 1 - np.log(ratio)).sum(axis=axes)

    def prior_term(self, x0: np.ndarray) -> np.ndarray:
        """L_T of (5) for each sample (N,), in nats: KL(q(x_T|x₀) ‖ N(0, I)), in closed form."""
        a = self.abar[-1]
        x0 = np.asarray(x0, np.float64)
        return 0.5 * (a * x0**2 + (1 - a) - 1 - np.log(1 - a)).sum(axis=tuple(range(1, x0.ndim)))

    def bound(
        self,
        model: Model,
        x0: Tensor,
        rng: Rng,
        *,
        variance: str = "large",
        clip: bool = True,
        levels: int | None = 256,
        name: str = "bound",
    ) -> dict[str, np.ndarray]:
        """The variational bound on −log p(x₀) by term, in nats a sample: "L_T" (N,), "L_t" (T, N) with L_0 first, and
        "total" (N,). One ε a term, from the stream `name`, step i."""
        noise = lambda i: rng.normal(name, i, x0.shape, dtype=x0.dtype, device=x0.device)
        terms = [
            self.bound_term(model, x0, i, noise(i), variance=variance, clip=clip, levels=levels)
            for i in range(self.T)
        ]
        prior = self.prior_term(x0.numpy())
        return {"L_T": prior, "L_t": np.stack(terms), "total": prior + np.sum(terms, axis=0)}


def log_likelihood(x: np.ndarray, mean: np.ndarray, sigma: float, levels: int | None) -> np.ndarray:
    """log of the decoder (13), element by element, float64: the mass of N(mean, σ²) in x's bin, open beyond ±1, in log
    space throughout so that the tails stay finite; the log density for levels=None."""
    z = (x - mean) / sigma
    if levels is None:
        return -0.5 * z**2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    from scipy.special import log_ndtr

    half = 1 / (levels - 1) / sigma  # half a bin, in units of σ
    flip = np.where(z > 0, -1.0, 1.0)  # by symmetry take the side where the distribution function is small
    low, high = (np.minimum(flip * (z - half), flip * (z + half)), np.maximum(flip * (z - half), flip * (z + half)))
    open_low = np.where(flip > 0, x < -1 + 0.5 / (levels - 1), x > 1 - 0.5 / (levels - 1))
    open_high = np.where(flip > 0, x > 1 - 0.5 / (levels - 1), x < -1 + 0.5 / (levels - 1))
    log_high = np.where(open_high, 0.0, log_ndtr(high))
    log_low = log_ndtr(low)
    # log(e^a − e^b) = a + log1p(−e^(b−a))
    inside = log_high + np.log1p(-np.exp(np.minimum(log_low - log_high, -1e-300)))
    return np.where(open_low, log_high, inside)


def _per_sample(values: np.ndarray, like: Tensor) -> Tensor:
    """Values (N,) as a Tensor N,1,…,1 of like's dtype and device."""
    values = np.asarray(values, dtype=like.dtype).reshape((-1,) + (1,) * (like.ndim - 1))
    return Tensor(move(values, like.device))
