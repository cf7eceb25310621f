"""What samples are: labels by a judge, memorisation, modes, bits per dimension, the score of digits."""

import json

import numpy as np
import pytest

from tinygen import metrics
from tinygen.data import load
from tinygen.errors import ConfigError, DataError, DtypeError, ShapeError


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train"), load("digits", split="test")


@pytest.fixture(scope="module")
def judge(digits):
    return metrics.KernelJudge(digits[1].images, digits[1].labels)


def test_judge_reads_digits_it_was_not_fitted_on(digits, judge):
    train, test = digits
    assert judge.n == len(test) == 898
    assert judge.accuracy(train.images, train.labels) >= 0.97
    assert metrics.KernelJudge(train.images, train.labels).accuracy(test.images, test.labels) >= 0.97


def test_judge_histogram_and_confidence(digits, judge):
    train, _ = digits
    shares = metrics.label_histogram(judge, train.images)
    assert shares.shape == (10,) and shares.sum() == pytest.approx(1)
    assert np.abs(shares - np.bincount(train.labels) / len(train)).max() < 0.01
    assert judge.histogram(train.images[train.labels == 3])[3] > 0.95
    clear = np.median(judge.margins(train.images))
    noise = np.random.default_rng(0).random((200, 8, 8, 1))
    blends = (train.images[:400:2] / 255.0 + train.images[1:400:2] / 255.0) / 2
    assert (
        clear > 1.5
        and np.median(judge.margins(noise)) < 0.5
        and np.median(judge.margins(blends)) < 0.8 * clear
    )


def test_judge_solves_its_equation():
    rng = np.random.default_rng(1)
    x, y = rng.random((30, 2, 2, 1)), rng.integers(0, 3, 30)
    j = metrics.KernelJudge(x, y, gamma=0.7, ridge=0.3)
    v = x.reshape(30, 4)
    kernel = np.exp(-0.7 * ((v[:, None] - v) ** 2).sum(2))
    alpha = np.linalg.inv(kernel + 0.3 * np.eye(30)) @ np.where(np.arange(3) == y[:, None], 1.0, -1.0)
    assert np.abs(j.scores(x) - kernel @ alpha).max() < 1e-10
    assert np.array_equal(j.scores(x), metrics.KernelJudge(x, y, gamma=0.7, ridge=0.3).scores(x))


def test_memorisation_of_real_copied_and_broken_images(digits):
    train, test = digits
    rng = np.random.default_rng(2)
    half = rng.permutation(len(test)) < len(test) // 2
    real = metrics.memorisation_ratio(
        samples=test.images[half], train=train.images, heldout=test.images[~half]
    )
    assert 0.9 < real.ratio < 1.1 and 0.9 < real.mean_ratio < 1.1 and real.near_share < 0.05
    assert real.interval[0] < real.ratio < real.interval[1]

    copies = np.clip(train.images / 255.0 + 0.02 * rng.standard_normal(train.images.shape), 0, 1)
    copied = metrics.memorisation_ratio(samples=copies, train=train.images, heldout=test.images)
    assert copied.ratio < 0.5 and copied.near_share > 0.99
    assert metrics.memorisation_ratio(samples=train.images, train=train.images, heldout=test.images).ratio == 0

    static = rng.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
    assert metrics.memorisation_ratio(samples=static, train=train.images, heldout=test.images).ratio > 1.5
    assert (real.n_samples, real.n_heldout, real.n_train) == (449, 449, 899)


def test_a_few_copies_show_in_near_share(digits):
    train, test = digits
    mixed = np.concatenate([test.images[:400], train.images[:40]])
    m = metrics.memorisation_ratio(samples=mixed, train=train.images, heldout=test.images)
    assert m.ratio > 0.8 and m.near_share == pytest.approx(40 / 440, abs=0.03)


def test_number_of_queries_does_not_bias_the_ratio(digits):
    train, test = digits
    full = metrics.memorisation_ratio(samples=test.images, train=train.images, heldout=test.images)
    rng = np.random.default_rng(3)
    few = [
        metrics.memorisation_ratio(
            samples=test.images[rng.permutation(898)[:200]], train=train.images, heldout=test.images, resamples=10
        )
        for _ in range(30)
    ]
    assert full.ratio == 1
    assert np.mean([m.ratio for m in few]) == pytest.approx(1, abs=0.02)


def test_nearest_distances_are_exact():
    rng = np.random.default_rng(4)
    r = rng.integers(0, 256, (50, 5, 4, 3), dtype=np.uint8)
    q = rng.integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
    d, near = metrics.nearest_distances(q, r)
    table = np.sqrt((((q[:, None].astype(float) - r) / 255) ** 2).sum((2, 3, 4)))
    assert np.array_equal(near, table.argmin(1)) and np.abs(d - table.min(1)).max() < 1e-14
    assert np.array_equal(metrics.nearest_distances(r, r)[0], np.zeros(50))


def ring(n, modes, rng, sigma=0.05):
    centres = metrics.ring_centres(8)
    return centres[rng.choice(modes, n)] + sigma * rng.standard_normal((n, 2))


def test_ring_modes():
    rng = np.random.default_rng(5)
    full = metrics.ring_modes(ring(20000, range(8), rng))
    assert (full.found, full.modes, full.n) == (8, 8, 20000)
    assert full.high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.004)
    assert full.kl < 0.001 and sum(full.counts) == round(full.high_quality * 20000)

    one = metrics.ring_modes(ring(1000, [3], rng, sigma=0.01))
    assert one.found == 1 and one.high_quality == 1 and one.kl == pytest.approx(np.log(8))
    assert metrics.ring_modes(ring(1000, [0, 2, 5], rng)).found == 3
    blurred = metrics.ring_modes(ring(20000, range(8), rng, sigma=0.1))
    assert blurred.found == 8 and blurred.high_quality == pytest.approx(1 - np.exp(-9 / 8), abs=0.01)
    nowhere = metrics.ring_modes(np.zeros((10, 2)))
    assert nowhere.found == 0 and nowhere.high_quality == 0 and np.isnan(nowhere.kl)


def test_a_mode_needs_a_tenth_of_its_share():
    centres = metrics.ring_centres(8)
    for extra, found in ((12, 1), (13, 2)):
        # 1000 samples: the share of a mode is 125, a tenth of it 12.5
        counts = [1000 - extra, extra]
        assert metrics.ring_modes(np.repeat(centres[:2], counts, axis=0)).found == found


def test_grid_modes():
    rng = np.random.default_rng(6)
    centres = metrics.grid_centres()
    assert centres.shape == (25, 2) and np.abs(centres).max() == 4 and np.abs(centres.mean(0)).max() == 0
    draw = lambda modes, n: centres[rng.choice(modes, n)] + 0.05 * rng.standard_normal((n, 2))
    full = metrics.grid_modes(draw(25, 25000))
    assert full.found == 25 and full.kl < 0.002 and full.high_quality > 0.98
    partial = metrics.grid_modes(np.concatenate([draw(23, 9000), rng.uniform(-5, 5, (1000, 2))]))
    assert partial.found == 23 and partial.high_quality == pytest.approx(0.89, abs=0.01)
    assert partial.kl == pytest.approx(np.log(25 / 23), abs=0.01)


def test_bits_per_dim():
    d = 64
    assert metrics.bits_offset("unit") == 8
    assert metrics.bits_offset("symmetric") == pytest.approx(6.99435, abs=1e-5)
    # the uniform distribution, told three ways: probabilities, density on [0, 1], density on [-1, 1]
    assert metrics.bits_per_dim(d * np.log(256), d) == pytest.approx(8)
    assert metrics.bits_per_dim(0.0, d, support="unit") == 8
    # 256 bins of width 2/255 cover a little more than [-1, 1]
    assert metrics.bits_per_dim(d * np.log(512 / 255), d, support="symmetric") == pytest.approx(8)
    assert metrics.bits_per_dim(d * np.log(17), d) == pytest.approx(4.087, abs=1e-3)
    assert metrics.bits_per_dim(0.0, d, support="unit", levels=17) == pytest.approx(4.087, abs=1e-3)
    assert metrics.bits_per_dim(np.zeros((2, 3)), d).shape == (2, 3)


@pytest.mark.parametrize("samples, blocks", [(898, 1), (1796, 2), (300, 1)])
def test_score_digits(digits, samples, blocks):
    train, test = digits
    rng = np.random.default_rng(7)
    jitter = rng.integers(-6, 7, (samples, 8, 8, 1))
    drawn = np.clip(train.images[rng.integers(len(train), size=samples)].astype(int) + jitter, 0, 255).astype(
        np.uint8
    )
    score = metrics.score_digits(drawn, train, test, splits=10)
    json.dumps(score)
    n = min(samples, 898)
    assert score["n"] == {"samples": samples, "samples_in_fd": blocks * n, "train": 899, "heldout": 898}
    for name, dims in (("randconv-v1", 32), ("pixels", 64)):
        f = score["fd"][name]
        route = "cholesky" if n > dims else "nuclear"
        assert f["label"] == f"FD[{name}/{dims} | native 8x8 | N={n}/{n} | ddof1 | {route}]"
        assert f["ratio"] == pytest.approx(f["value"] / f["floor"])
        assert 0.5 < f["ratio"] < 2.5 and f["blocks"] == blocks
        assert 0.5 < f["memoriser"] < 1.5
    j = score["judge"]
    assert (
        j["accuracy"] >= 0.97
        and sum(j["counts"]) == samples
        and (j["fitted_on"], j["measured_on"]) == (898, 899)
    )
    assert (
        sum(j["shares"]) == pytest.approx(1) and j["min"] == min(j["shares"]) and j["max"] == max(j["shares"])
    )
    assert score["memorisation"]["ratio"] < 0.5
    assert score["card"]["extractors"]["randconv-v1"].startswith("sha256:")
    assert score["card"]["resize"] == {"randconv-v1": "native 8x8", "attributes-v1": "bilinear-aa 32x32",
                                       "pixels": "native 8x8"}  # fmt: skip
    text = "\n".join(metrics.score_lines(score))
    assert "FID" not in text and "FID" not in json.dumps(score)
    assert f"N={n}/{n}" in text and "times the floor" in text


def test_score_digits_is_deterministic_and_takes_pairs(digits):
    train, test = digits
    a = metrics.score_digits(train.images[:200], train, test, splits=5)
    pairs = [(d.images, d.labels) for d in digits]
    assert a == metrics.score_digits(train.images[:200], *pairs, splits=5)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda t, h: metrics.score_digits(t.images / 255.0, t, h),
            DtypeError,
            "samples is float64; digits are",
        ),
        (
            lambda t, h: metrics.score_digits(t.images[:, :4], t, h),
            ShapeError,
            r"samples has shape \(899, 4, 8, 1\)",
        ),
        (
            lambda t, h: metrics.score_digits(t.images, (t.images // 16, t.labels), h),
            DataError,
            r"train spans 0\.\.15; scale the digits' 17 levels to 0\.\.255",
        ),
        (
            lambda t, h: metrics.score_digits(t.images, (t.images, h.labels), h),
            ShapeError,
            "one label per image",
        ),
        (lambda t, h: metrics.KernelJudge(t.images, h.labels), ShapeError, "labels are 899 integers"),
        (
            lambda t, h: metrics.KernelJudge(t.images, t.labels, gamma=0),
            ConfigError,
            "gamma and ridge are positive",
        ),
        (
            lambda t, h: metrics.KernelJudge(t.images, t.labels).labels(t.images[:, :4]),
            ShapeError,
            r"fitted on images \(8, 8, 1\); got \(4, 8, 1\)",
        ),
        (
            lambda t, h: metrics.memorisation_ratio(samples=t.images, train=t.images[:, :4], heldout=h.images),
            ShapeError,
            "sizes must agree",
        ),
        (
            lambda t, h: metrics.memorisation_ratio(samples=t.images[:0], train=t.images, heldout=h.images),
            ShapeError,
            "got 0 and 898",
        ),
        (
            lambda t, h: metrics.memorisation_ratio(samples=h.images, train=t.images, heldout=t.images),
            ShapeError,
            "training images too",
        ),
        (lambda t, h: metrics.ring_modes(np.zeros((4, 3))), ShapeError, r"must share D.*\(4, 3\), \(8, 2\)"),
        (
            lambda t, h: metrics.ring_modes(np.zeros((4, 2)), sigma=0),
            ConfigError,
            "sigma is a standard deviation",
        ),
        (lambda t, h: metrics.bits_per_dim(1.0, 0), ShapeError, "at least 1; got 0"),
        (
            lambda t, h: metrics.bits_per_dim(1.0, 4, support="tanh"),
            ConfigError,
            "unknown support 'tanh'; choose",
        ),
        (lambda t, h: metrics.bits_per_dim(1.0, 4, levels=1), ConfigError, "at least 2; got 1"),
    ],
)
def test_errors_say_what_arrived(digits, call, error, text):
    with pytest.raises(error, match=text):
        call(*digits)
