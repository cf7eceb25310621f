"""Named random streams: frozen for ever, distributed as they claim, independent of each other.

The draws are fixed by their names, so a statistical test either always passes or never does; a right
generator would fail each of them with probability about 1e-4.
"""

import itertools
import random

import numpy as np
import pytest
from scipy import stats

from tinygen.errors import ConfigError, DtypeError, ShapeError
from tinygen.rng import Rng

N = 400_000
Z = 4.0  # standard errors; two-sided tail 6e-5
P = 1e-4


def test_golden_values():
    """A change of any of these breaks the reproducibility of every recorded run."""
    r = Rng(2024)
    assert r.key("z", 3) == 0x8900894799F74F13 and Rng(0).key("a", 0) == 0x3C49A2B6A17D7B07
    normal = [-0.9277007, -1.4819862, -0.65716195, 1.0746067, 1.2707291, 0.4101114]
    uniform = [0.21687031, 0.024772763, 0.6609835, 0.3557315, 0.4523402, 0.56774133]
    np.testing.assert_array_equal(r.normal("z", 3, 6).numpy(), np.array(normal, np.float32))
    np.testing.assert_array_equal(r.uniform("z", 3, 6).numpy(), np.array(uniform, np.float32))
    normal = [-0.9277006814900005, -1.4819861427588246, -0.6571619495414619, 1.074606685792063]
    uniform = [0.21687031302740645, 0.024772822511240244, 0.6609835078050242, 0.3557315417651129]
    np.testing.assert_allclose(r.normal("z", 3, 4, np.float64).numpy(), normal, rtol=1e-15)
    np.testing.assert_array_equal(r.uniform("z", 3, 4, dtype=np.float64).numpy(), uniform)
    assert r.integers("z", 3, 8, 0, 1000).numpy().tolist() == [216, 660, 452, 337, 410, 49, 220, 951]
    big = [-7223096457989209729, -3126875233847829387, -5051269881229754438, -6111833235326419306]
    assert r.integers("z", 3, 4, -(2**63), 0).numpy().tolist() == big
    assert r.permutation("z", 3, 10).numpy().tolist() == [5, 8, 0, 6, 3, 4, 2, 9, 1, 7]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_is_normal(dtype):
    x = Rng(1).normal("moments", 0, N, dtype).numpy().astype(np.float64)
    for name, value, variance in [
        ("mean", x.mean(), 1),
        ("variance", x.var() - 1, 2),
        ("skewness", stats.skew(x), 6),
        ("kurtosis", stats.kurtosis(x), 24),
    ]:
        assert abs(value) < Z * np.sqrt(variance / N), name
    assert stats.kstest(x, "norm").pvalue > P
    assert stats.kstest(x[::2], "norm").pvalue > P and stats.kstest(x[1::2], "norm").pvalue > P
    tail = np.count_nonzero(np.abs(x) > 4)
    assert stats.binomtest(tail, N, 2 * stats.norm.sf(4)).pvalue > P


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_is_uniform(dtype):
    x = Rng(1).uniform("moments", 0, N, -2.0, 3.0, dtype).numpy().astype(np.float64)
    u = (x + 2) / 5
    for name, value, variance in [
        ("mean", u.mean() - 1 / 2, 1 / 12),
        ("variance", ((u - 0.5) ** 2).mean() - 1 / 12, 1 / 180),
        ("third moment", ((u - 0.5) ** 3).mean(), 1 / 448),
    ]:
        assert abs(value) < Z * np.sqrt(variance / N), name
    assert stats.kstest(u, "uniform").pvalue > P
    for lane in range(4):
        assert stats.kstest(u[lane::4], "uniform").pvalue > P


def test_the_pair_of_a_block_is_independent():
    """Box-Muller: radius and angle of (x, y) are independent, the angle uniform, r squared exponential."""
    x, y = Rng(1).normal("pairs", 0, (N, 2)).numpy().astype(np.float64).T
    angle, tail = np.arctan2(y, x) / (2 * np.pi) + 0.5, np.exp(-(x * x + y * y) / 2)
    assert stats.kstest(angle, "uniform").pvalue > P and stats.kstest(tail, "uniform").pvalue > P
    counts = np.histogram2d(angle, tail, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(counts.ravel()).pvalue > P


@pytest.mark.parametrize("low, high", [(0, 2), (-3, 4), (0, 1000), (5, 6)])
def test_integers_are_uniform(low, high):
    x = Rng(1).integers("dice", 0, N, low, high).numpy()
    counts = np.bincount(x - low, minlength=high - low)
    assert len(counts) == high - low
    if high - low > 1:
        assert stats.chisquare(counts).pvalue > P


def test_integers_of_a_span_near_two_to_the_63_are_uniform():
    """Here x * span >> 64 without rejection would be visibly uneven: 3/4 of 2**63 against 2**64 words."""
    span = 2**62 + 2**61
    x = Rng(1).integers("wide", 0, N, 0, span).numpy()
    assert stats.kstest(x / span, "uniform").pvalue > P
    assert stats.chisquare(np.bincount(x % 3, minlength=3)).pvalue > P


def test_permutations_are_uniform():
    """All 24 orders of four, over 12000 steps, are equally likely; a large one shows no pattern."""
    rank = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    r, counts = Rng(1), np.zeros(24)
    for step in range(12_000):
        counts[rank[tuple(r.permutation("deck", step, 4).numpy().tolist())]] += 1
    assert stats.chisquare(counts).pvalue > P
    order = r.permutation("deck", 0, 100_000).numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(100_000))
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < Z / np.sqrt(100_000)
    fixed_points = np.count_nonzero(order == np.arange(100_000))  # Poisson(1)
    assert stats.poisson.cdf(fixed_points, 1) < 1 - P


def test_names_steps_and_seeds_are_independent():
    streams = [("a", 0, 0), ("b", 0, 0), ("aa", 0, 0), ("a", 1, 0), ("a", 2**32, 0)]
    streams += [("a", 0, 1), ("a", 0, 2**32)]
    draws = np.stack([Rng(seed).normal(name, step, 100_000).numpy() for name, step, seed in streams])
    correlation = np.corrcoef(draws.astype(np.float64)) - np.eye(len(streams))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(100_000)  # 21 pairs
    assert np.abs(np.corrcoef(np.abs(draws)) - np.eye(len(streams))).max() < 4.5 / np.sqrt(100_000)


def test_first_elements_over_steps_are_uniform():
    """The way a training run uses streams: few numbers a step, many steps."""
    r = Rng(1)
    x = np.stack([r.uniform("t", step, 2).numpy() for step in range(10_000)])
    assert stats.kstest(x[:, 0], "uniform").pvalue > P
    assert abs(np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]) < Z / 100
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < Z / 100


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_no_correlation_at_any_lag(kind):
    x = getattr(Rng(1), kind)("lags", 0, N).numpy().astype(np.float64)
    x = (x - x.mean()) / x.std()
    spectrum = np.abs(np.fft.rfft(x, 2 * N)) ** 2
    lags = np.fft.irfft(spectrum)[1:1001] / N
    assert np.abs(lags).max() < 5.2 / np.sqrt(N)  # a thousand lags
    assert abs((lags**2).sum() * N - 1000) < Z * np.sqrt(2000)  # Box and Pierce: chi-square of 1000


def test_key_encoding_is_unambiguous():
    seeds, steps = [0, 1, 256, 2**56, 2**64 - 1], [0, 1, 97, 256, 2**56]
    names = ["a", "aa", "a\0", "\0a", "1", "é"]
    keys = [Rng(seed).key(name, step) for seed, name, step in itertools.product(seeds, names, steps)]
    assert len(set(keys)) == len(keys) and all(0 <= key < 2**64 for key in keys)


def test_stateless():
    r = Rng(7)
    first = r.normal("z", 5, (4, 3)).numpy().copy()
    np.random.seed(1), random.seed(1)
    before = np.random.get_state()[1].copy(), random.getstate()
    r.uniform("other", 0, 100), r.permutation("z", 5, 9), r.integers("n", 1, 3, 0, 9)
    np.testing.assert_array_equal(r.normal("z", 5, (4, 3)).numpy(), first)
    np.testing.assert_array_equal(Rng(7).normal("z", 5, [4, 3]).numpy(), first)
    np.testing.assert_array_equal(Rng(np.int64(7)).normal("z", np.int32(5), 12).numpy(), first.ravel())
    assert np.array_equal(np.random.get_state()[1], before[0]) and random.getstate() == before[1]


def test_results_are_tensors_without_gradient():
    from tinygen.tensor import Tensor

    r = Rng(7)
    for x, dtype in [
        (r.normal("a", 0, (2, 3)), np.float32),
        (r.uniform("a", 0, (2, 3), dtype="float64"), np.float64),
        (r.integers("a", 0, (2, 3), 0, 4), np.int64),
    ]:
        assert isinstance(x, Tensor) and not x.requires_grad and x.shape == (2, 3) and x.dtype == dtype
    assert r.permutation("a", 0, 5).shape == (5,) and r.permutation("a", 0, 0).shape == (0,)
    assert r.normal("a", 0, ()).shape == () and r.normal("a", 0, 0).shape == (0,)
    assert repr(Rng(7)) == "Rng(7)"


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "7", None, True])
def test_bad_seed(seed):
    with pytest.raises(ConfigError, match=r"A seed must be an integer from 0 to .*, but .* was given"):
        Rng(seed)


def test_bad_arguments():
    r = Rng(7)
    with pytest.raises(ValueError, match="needs a name, a non-empty str, but got ''"):
        r.normal("", 0, 3)
    with pytest.raises(ValueError, match="needs a name, a non-empty str, but got 3"):
        r.normal(3, 0, 3)
    for step in (-1, 0.5, None, False):
        with pytest.raises(ValueError, match="stream 'z' needs an integer step of 0 or more, but got"):
            r.uniform("z", step, 3)
    for shape in (-1, (3, -1), 2.5, (2.0,), "3", None):
        with pytest.raises(ShapeError, match="stream 'z' needs a shape of non-negative integers, .* but got"):
            r.normal("z", 0, shape)
    for dtype in (np.float16, np.int64, None, "nonsense"):
        with pytest.raises(DtypeError, match="stream 'z' draws float32 or float64, not"):
            r.normal("z", 0, 3, dtype)
    with pytest.raises(ValueError, match="needs finite low < high"):
        r.uniform("z", 0, 3, 1.0, 0.0)
    with pytest.raises(ValueError, match="low < high within int64"):
        r.integers("z", 0, 3, 4, 4)
    with pytest.raises(ValueError, match=r"integers\('z'\) needs integer low and high, but got 0.5 and 4"):
        r.integers("z", 0, 3, 0.5, 4)
    with pytest.raises(ShapeError, match=r"permutation\('z'\) needs an integer n >= 0, but got -1"):
        r.permutation("z", 0, -1)
