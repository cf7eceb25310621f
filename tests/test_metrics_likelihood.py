"""Bounds and importance weighting: a Gaussian model whose likelihood is known, offsets, hopeless proposals."""

import numpy as np
import pytest

from tinygen import metrics
from tinygen.errors import ConfigError, DtypeError, NonFiniteError, ShapeError


def log_normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


def gaussian_weights(x, k, seed, spread):
    """z ~ N(0, 1), x|z ~ N(z, 0.5²): weights under N(posterior mean, (spread · posterior sd)²)."""
    mean, sd = x / 1.25, np.sqrt(0.2) * spread
    z = mean[:, None] + sd * np.random.default_rng(seed).standard_normal((len(x), k))
    return log_normal(z, 0, 1) + log_normal(x[:, None], z, 0.5) - log_normal(z, mean[:, None], sd)


X = np.linspace(-3, 3, 7)
TRUTH = log_normal(X, 0, np.sqrt(1.25))


def test_the_exact_posterior_has_no_noise():
    r = metrics.importance_weighted(gaussian_weights(X, 20, 0, 1.0))
    assert r.log_likelihood == pytest.approx(TRUTH, rel=1e-13)
    assert r.standard_error == pytest.approx(np.zeros(7), abs=1e-14) and r.effective_samples == pytest.approx(20)
    assert r.mean == pytest.approx(TRUTH.mean()) and r.k == 20


def test_error_and_effective_samples_are_what_they_say():
    runs = [metrics.importance_weighted(gaussian_weights(X, 400, seed, 1.6)) for seed in range(200)]
    values = np.array([r.log_likelihood for r in runs])
    assert values.mean(0) == pytest.approx(TRUTH, abs=0.01)
    told = np.mean([r.standard_error for r in runs], axis=0)
    assert told == pytest.approx(values.std(0), rel=0.15)
    assert all(1 <= e <= 400 for e in runs[0].effective_samples) and runs[0].effective_samples.max() < 390
    # more samples tighten the bound, one sample is the evidence bound
    many = lambda k: np.mean([metrics.importance_weighted(gaussian_weights(X, k, s, 2.5)).mean for s in range(100)])
    assert many(1) < many(5) - 0.1 < TRUTH.mean() - 0.1 and many(1000) == pytest.approx(TRUTH.mean(), abs=0.01)
    one = metrics.importance_weighted(gaussian_weights(X, 1, 1, 2.5))
    assert np.isnan(one.standard_error).all() and (one.effective_samples == 1).all()


def test_weights_of_any_magnitude():
    w = gaussian_weights(X, 50, 2, 1.5)
    for shift in (-30_000.0, 5_000.0):
        r = metrics.importance_weighted(w + shift)
        assert r.log_likelihood - shift == pytest.approx(metrics.importance_weighted(w).log_likelihood, abs=1e-10)
    w[:, 0] = -np.inf  # samples of no weight count as samples
    assert np.isfinite(metrics.importance_weighted(w).log_likelihood).all()
    single = np.full((1, 4), -np.inf)
    single[0, 2] = 1.0
    r = metrics.importance_weighted(single)
    assert r.log_likelihood[0] == pytest.approx(1 - np.log(4)) and r.effective_samples[0] == 1


def test_bits_carry_the_offset_of_their_convention():
    r = metrics.importance_weighted(np.zeros((5, 3)))  # density 1 everywhere
    assert r.bits_per_dim(64, support="unit") == 8
    assert r.bits_per_dim(64, support="symmetric") == pytest.approx(np.log2(127.5))
    assert r.bits_per_dim(64) == 0


def test_bound_terms_add_up():
    rng = np.random.default_rng(3)
    terms = {"reconstruction": 100 + rng.standard_normal(50), "kl": 20 + rng.standard_normal(50)}
    report = metrics.bound_report(terms, 192, support="symmetric")
    assert list(report.terms) == ["reconstruction", "kl"]
    assert report.total == pytest.approx(sum(report.terms.values()) + report.offset, rel=1e-14)
    both = metrics.bits_per_dim(terms["reconstruction"] + terms["kl"], 192, support="symmetric")
    assert report.total == pytest.approx(both.mean(), rel=1e-14)
    assert report.interval.low < report.total < report.interval.high
    assert report.interval.standard_error == pytest.approx(both.std() / np.sqrt(50), rel=0.1)
    assert (report.offset, report.n, report.dims) == (metrics.bits_offset("symmetric"), 50, 192)
    text = str(report)
    assert text.startswith(f"<= {report.total:.4f} bits/dim = reconstruction") and "offset 6.9944" in text
    assert metrics.bound_report({"L_0": 3.0}, 4).total == pytest.approx(3 / (4 * np.log(2)))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: metrics.importance_weighted(np.zeros(3)), ShapeError, r"N,K: a row for each image.*got \(3,\)"),
        (lambda: metrics.importance_weighted(np.zeros((0, 3))), ShapeError, "got"),
        (lambda: metrics.importance_weighted([[0.0, np.nan]]), NonFiniteError, "hold a NaN"),
        (lambda: metrics.importance_weighted([[0.0, np.inf]]), NonFiniteError, "finite ratio of densities"),
        (lambda: metrics.importance_weighted([[-np.inf, -np.inf], [0, 0]]), NonFiniteError, r"of 1 image\(s\)"),
        (lambda: metrics.importance_weighted([["a"]]), DtypeError, "real numbers"),
        (lambda: metrics.importance_weighted([[0.0]]).bits_per_dim(0), ShapeError, "at least 1; got 0"),
        (lambda: metrics.bound_report({}, 4), ShapeError, "at least one term"),
        (lambda: metrics.bound_report({"a": [1.0], "b": [1.0, 2.0]}, 4), ShapeError, r"got a \(1,\), b \(2,\)"),
        (lambda: metrics.bound_report({"kl": [np.inf]}, 4), NonFiniteError, "the term 'kl' has 1 non-finite"),
        (lambda: metrics.bound_report({"kl": [1.0]}, 0), ShapeError, "at least 1; got 0"),
        (lambda: metrics.bound_report({"kl": [1.0]}, 4, support="tanh"), ConfigError, "unknown support 'tanh'"),
    ],
)
def test_errors_say_what_arrived(call, error, text):
    with pytest.raises(error, match=text):
        call()
