"""How well the variational autoencoders learn, against a known truth: writes
bench/results/{vae_ppca,vae_digits,conv_vae_digits}.json.

    python bench/vae_quality.py ppca       linear networks on linear Gaussian data: the bound against the exact
                                           likelihood
    python bench/vae_quality.py vae        the small preset on digits, and the same with a Bernoulli decoder: bounds on
                                           held-out images, reconstruction, Fréchet distance, labels, memorisation
    python bench/vae_quality.py conv_vae   the same
    … --seed S  --out FOLDER (pictures as PNG)  --dry (print, do not record)

The tests of tests/test_model_vae.py and test_model_conv_vae.py call the same functions.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

import tinygen as tg
from tinygen import config, data, metrics, models
from tinygen.models.vae import bound

SAMPLES = 4096


# ---- linear Gaussian data: probabilistic PCA (Tipping & Bishop 1999)


def ppca_data(n: int = 2048, dims: int = 8, latent: int = 2, sigma: float = 0.5, seed: int = 0) -> np.ndarray:
    """n points x = W z + μ + σ ε, (n, dims), float64."""
    pick = np.random.default_rng(seed)
    W, mean = pick.standard_normal((dims, latent)), pick.standard_normal(dims)
    return pick.standard_normal((n, latent)) @ W.T + mean + sigma * pick.standard_normal((n, dims))


def ppca_optimum(x: np.ndarray, latent: int) -> dict[str, np.ndarray]:
    """The maximum likelihood W (dims, latent) with orthogonal columns, mean (dims,) and variance () (Tipping & Bishop
    1999, eq. 7 and 8)."""
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    variance = values[latent:].mean()
    return {"W": vectors[:, :latent] * np.sqrt(values[:latent] - variance), "mean": mean, "variance": variance}


def gaussian_log_likelihood(x: np.ndarray, W: np.ndarray, mean: np.ndarray, variance: float) -> np.ndarray:
    """log N(x; mean, W Wᵀ + variance·I) of each point, (n,)."""
    C = W @ W.T + variance * np.eye(len(W))
    d = x - mean
    mahalanobis = (d * np.linalg.solve(C, d.T).T).sum(1)
    return -0.5 * (mahalanobis + np.linalg.slogdet(C)[1] + len(W) * math.log(2 * math.pi))


def linear_vae(dims: int, latent: int, seed: int = 0, **changes: Any):
    """A VAE without hidden layers whose Gaussian decoder has one σ: probabilistic PCA, if it is let learn."""
    VAE = models.load("vae")
    settings = {"image_size": 1, "channels": dims, "latent": latent, "widths": (), "decoder": "gaussian", "sigma": 1.0}
    return VAE(config.build(VAE.Config, None, {**settings, **changes}), tg.Rng(seed))


def marginal(model) -> dict[str, Any]:
    """The Gaussian that a linear VAE's decoder describes, as `gaussian_log_likelihood` takes it."""
    out = model.decoder.out
    return {"W": out.w.numpy().T, "mean": out.b.numpy(), "variance": float(np.exp(model.pixels.logvar.numpy()[0]))}


def elbo(model, x: np.ndarray) -> np.ndarray:
    """The exact ELBO of a linear VAE at each point, through its own terms: −log p(x|z) is quadratic in ε, so its mean
    is that over the 2·latent points ±√latent·e_j."""
    latent, n = model.config.latent, len(x)
    batch = model.constant(x.reshape(n, 1, 1, -1))
    total = np.zeros(n)
    points = math.sqrt(latent) * np.concatenate([np.eye(latent), -np.eye(latent)])
    for point in points:
        nll, kl = model.terms(batch, model.constant(np.tile(point, (n, 1))))
        total -= (nll.numpy() + kl.numpy()) / len(points)
    return total


def ppca(seed: int = 0, steps: int = 2000) -> dict[str, Any]:
    """Train a linear VAE by its own step, all points at once, and compare in nats a point: the best likelihood there
    is, the likelihood of the learned decoder, and the learned bound."""
    x = ppca_data(seed=seed)
    model = linear_vae(x.shape[1], 2, seed, lr=0.05, decay_steps=steps)
    rng, start = tg.Rng(seed), time.perf_counter()
    batch = data.Batch(tg.Tensor(x.reshape(len(x), 1, 1, -1).astype(np.float32)), None, None, np.arange(len(x)))
    for _ in range(steps):
        model.step(batch, rng)
    seconds = time.perf_counter() - start
    best = gaussian_log_likelihood(x, **ppca_optimum(x, 2)).mean()
    exact = gaussian_log_likelihood(x, **marginal(model.astype(np.float64)))
    bounds = elbo(model, x)
    log_w = model.log_weights(model.constant(x[:256].reshape(-1, 1, 1, x.shape[1])), 64, rng)["log_w"]
    return {"seed": seed, "steps": steps, "seconds": round(seconds, 1),
            "points": len(x), "dims": x.shape[1], "latent": 2,
            "best_log_likelihood": float(best), "log_likelihood": float(exact.mean()), "elbo": float(bounds.mean()),
            "gap": float((exact - bounds).mean()), "smallest_gap": float((exact - bounds).min()),
            "iwae_256_points": {str(k): bound(log_w, k) for k in (1, 8, 64)},
            "log_likelihood_256_points": float(exact[:256].mean())}  # fmt: skip


# ---- digits


def trained(name: str, seed: int = 0, steps: int | None = None, **overrides: Any) -> tuple[Any, dict[str, Any]]:
    """The small preset of a model after its training on the digits, and what that took."""
    Model = models.load(name)
    c = config.build(Model.Config, Model.PRESETS["small"], overrides)
    rng, steps = tg.Rng(seed), steps or Model.steps
    model = Model(c, rng)
    loader = data.Loader(data.load("digits", "train"), c.batch_size, rng)
    start = time.perf_counter()
    for i in range(steps):
        last = model.step(loader.batch(i), rng)
    seconds = time.perf_counter() - start
    return model, {"seed": seed, "steps": steps, "seconds": round(seconds, 1), "last_step": last,
                   "config": config.to_dict(c)}


def digits(name: str, seed: int = 0, out: Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Held-out bounds, reconstruction and the scores of samples of the small preset on digits."""
    model, result = trained(name, seed, **overrides)
    train, test = data.load("digits", "train"), data.load("digits", "test")
    rng = tg.Rng(seed + 1)
    bounds = model.evaluate(test, rng, k=256)
    again = data.to_uint8(model.images(model.encode(tg.Tensor(data.to_float(test.images)))).numpy())
    judge = metrics.KernelJudge(train.images, train.labels)
    reconstruction = {
        "psnr": metrics.psnr(again, test.images, data_range=255), "label_kept": judge.accuracy(again, test.labels),
        "label_kept_by_the_images_themselves": judge.accuracy(test.images, test.labels), "images": len(test),
    }  # fmt: skip
    drawn = data.to_uint8(model.sample(SAMPLES, rng).numpy())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for figure, picture in model.figures(tg.Rng(seed), test).items():
            large = picture if len(picture) > 400 else picture.repeat(4, 0).repeat(4, 1)
            data.save_png(out / f"{name}_{figure}.png", large)
    score = metrics.score_digits(drawn, train, test)
    return {**result, "bounds": bounds, "reconstruction": reconstruction, "score": score}


def main() -> None:
    import record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ppca", "vae", "conv_vae"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    if args.what == "ppca":
        name, result = "vae_ppca", ppca(args.seed)
        print(*(f"{k} {v}" for k, v in result.items()), sep="\n")
    else:
        name, result = f"{args.what}_digits", digits(args.what, args.seed, args.out)
        results = {"gaussian": result}
        if args.what == "vae":
            out = args.out and args.out / "bernoulli"
            results["bernoulli"] = digits(args.what, args.seed, out, decoder="bernoulli")
        for k, v in results.items():
            print(k, v["bounds"], v["reconstruction"], *metrics.score_lines(v["score"]), f"{v['seconds']} s", sep="\n")
        result = results if len(results) > 1 else result
    if not args.dry:
        print("wrote", record.write(name, result))


if __name__ == "__main__":
    main()
