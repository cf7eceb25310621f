"""KID, CMMD, precision, recall, density, coverage, Inception, Vendi, AuthPct: definitions, ties, bad input."""

import numpy as np
import pytest
from metric_references import feature_sets

from tinygen import metrics
from tinygen.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from tinygen.metrics import _neighbours, mmd


def brute_mmd(x, y, kernel):
    """Unbiased, all pairs, straight from the definition."""
    kxx, kyy, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    n, m = kxy.shape
    return (kxx.sum() - np.trace(kxx)) / (n * (n - 1)) + (kyy.sum() - np.trace(kyy)) / (m * (m - 1)) - 2 * kxy.mean()


@pytest.mark.parametrize("n, m, d", [(2, 2, 1), (40, 23, 7), (700, 530, 5)])
def test_kernel_distance_over_all_pairs(n, m, d):
    x, y = feature_sets(n, m, d)
    truth = brute_mmd(x, y, lambda a, b: (a @ b.T / d + 1) ** 3)
    assert metrics.kernel_distance(real=x, fake=y) == pytest.approx(truth, rel=1e-10, abs=1e-13)
    assert metrics.kernel_distance(real=y, fake=x) == pytest.approx(truth, rel=1e-10, abs=1e-13)


def test_tiles_of_any_size_give_the_same(monkeypatch):
    x, y = feature_sets(90, 70, 6)
    whole = metrics.kernel_distance_details(real=x, fake=y, subsets=5, subset_size=30)
    for tile, wide in ((16, 24), (32, 64), (13, 100), (64, 64)):
        monkeypatch.setattr(mmd, "TILE", tile)
        monkeypatch.setattr(mmd, "WIDE", wide)
        parts = metrics.kernel_distance_details(real=x, fake=y, subsets=5, subset_size=30)
        assert parts.value == pytest.approx(whole.value, rel=1e-11), (tile, wide)
        assert parts.subset_mean == pytest.approx(whole.subset_mean, rel=1e-11)
        assert parts.interval.low == pytest.approx(whole.interval.low, rel=1e-9)


def test_kernel_distance_interval_and_report():
    rng = np.random.default_rng(0)
    draw = lambda shift: rng.standard_normal((200, 4)) + shift
    values = [metrics.kernel_distance(real=draw(0), fake=draw(0.7)) for _ in range(150)]
    details = [metrics.kernel_distance_details(real=draw(0), fake=draw(0.7), subsets=4) for _ in range(6)]
    assert np.mean([d.interval.standard_error for d in details]) == pytest.approx(np.std(values), rel=0.25)
    equal = [metrics.kernel_distance(real=draw(0), fake=draw(0)) for _ in range(40)]
    assert min(equal) < 0 < max(equal)  # unbiased: negative about as often as positive
    d = metrics.kernel_distance_details(real=draw(0), fake=draw(0.7)[:150], subsets=7)
    assert d.label == "KD[cubic | D=4 | N=200/150 | unbiased, all pairs]"
    assert (d.subsets, d.subset_size, d.seed) == (7, 150, 2020) and "N differs: 200 real, 150 fake" in d.notes[0]
    only = metrics.kernel_distance_details(real=draw(0), fake=draw(0), subsets=3, subset_size=50, pairs=False)
    assert only.interval is None and only.value == only.subset_mean and "3 subsets of 50" in only.label


def test_cmmd_is_biased_gaussian_and_scaled():
    x, y = feature_sets(60, 45, 12)
    u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    k = lambda a, b, s: np.exp(-((a[:, None] - b) ** 2).sum(2) / (2 * s * s))
    for sigma in (10.0, 0.5):
        truth = 1000 * (k(u, u, sigma).mean() + k(v, v, sigma).mean() - 2 * k(u, v, sigma).mean())
        assert metrics.cmmd(real=x, fake=y, sigma=sigma) == pytest.approx(truth, rel=1e-9)
    raw = 1000 * (k(x, x, 3.0).mean() + k(y, y, 3.0).mean() - 2 * k(x, y, 3.0).mean())
    assert metrics.cmmd(real=x, fake=y, sigma=3.0, normalise=False) == pytest.approx(raw, rel=1e-10)
    assert metrics.cmmd(real=x, fake=5 * x) == pytest.approx(0, abs=1e-10)  # directions alone
    d = metrics.cmmd_details(real=x, fake=y)
    assert d.label == "1000 MMD²[Gaussian 10 | unit vectors | D=12 | N=60/45 | biased]"
    assert d.interval.low < d.value < d.interval.high


def brute_prdc(x, y, k, closed):
    d = lambda a, b: ((a[:, None] - b) ** 2).sum(2)
    rx, ry = (np.sort(d(z, z) + np.diag(np.full(len(z), np.inf)), 1)[:, k - 1] for z in (x, y))
    inside = np.less_equal if closed else np.less
    real, fake = inside(d(x, y), rx[:, None]), inside(d(x, y), ry)
    return real.any(0).mean(), fake.any(1).mean(), real.sum(0).mean() / k, real.any(1).mean()


@pytest.mark.parametrize("ties", ["closed", "open"])
@pytest.mark.parametrize(
    "case", ["generic", "grid", "duplicates", "far away", "collapsed", "tiny and huge", "clusters"]
)
def test_manifold_metrics_are_exact(case, ties):
    """Also where float32 products decide nothing: the grid's distances are ties, the clusters' are rounding."""
    rng = np.random.RandomState(1)
    x, y = feature_sets(120, 90, 5, seed=2)
    if case == "grid":  # small integers: distances are exact, and many are equal
        x, y = rng.randint(0, 4, (120, 3)).astype(float), rng.randint(0, 4, (90, 3)).astype(float)
    elif case == "duplicates":
        x, y = np.repeat(x[:40], 3, 0), np.concatenate([x[:30], y[:60]])
    elif case == "far away":
        x, y = np.round(x * 64) / 64 + 4096, np.round(y * 64) / 64 + 4096  # exact in float64, hopeless in float32
    elif case == "collapsed":
        y = np.repeat(y[:1], 90, 0)
    elif case == "tiny and huge":
        x, y = x * 2.0**-70, y * 2.0**-70
        x[0] = 2.0**60
    elif case == "clusters":
        x = np.repeat(np.round(8 * x[:4]), 30, 0) + rng.randint(-8, 8, (120, 5)) * 2.0**-18
        y = np.repeat(x[::30], [30, 30, 20, 10], 0) + rng.randint(-8, 8, (90, 5)) * 2.0**-18
    for k in (1, 3):
        truth = brute_prdc(x, y, k, ties == "closed")
        pr = metrics.precision_recall(real=x, fake=y, k=k, ties=ties)
        dc = metrics.density_coverage(real=x, fake=y, k=k, ties=ties)
        assert (pr.precision, pr.recall, dc.density, dc.coverage) == pytest.approx(truth, rel=1e-12), k


def test_neighbours_in_many_tiles(monkeypatch):
    x, y = feature_sets(150, 130, 20, seed=3)
    d = ((x[:, None] - x) ** 2).sum(2) + np.diag(np.full(150, np.inf))
    e = ((y[:, None] - x) ** 2).sum(2)
    prdc = brute_prdc(x, y, 3, True)
    for tile in (1024, 64, 37):
        monkeypatch.setattr(_neighbours, "TILE", tile)
        found, near = _neighbours.nearest(x, None, 4)
        assert found == pytest.approx(np.sort(d, 1)[:, :4], rel=1e-12) and np.array_equal(near, d.argsort(1)[:, :4])
        found, near = _neighbours.nearest(y, x, 2)
        assert found == pytest.approx(np.sort(e, 1)[:, :2], rel=1e-12) and np.array_equal(near, e.argsort(1)[:, :2])
        pr = metrics.precision_recall(real=x, fake=y)
        assert (pr.precision, pr.recall) == pytest.approx(prdc[:2], rel=1e-12)


def test_manifold_metrics_of_known_cases():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((400, 3)), rng.standard_normal((400, 3))
    dc = metrics.density_coverage(real=x, fake=y)
    assert dc.density == pytest.approx(1, abs=0.1)
    expected = 1 - np.prod([(400 - i) / (800 - i) for i in range(1, 6)])
    assert dc.coverage == pytest.approx(expected, abs=0.03)
    assert dc.coverage_interval.low < dc.coverage < dc.coverage_interval.high
    far = metrics.precision_recall(real=x, fake=y + 100)
    assert (far.precision, far.recall, far.f_score) == (0, 0, 0)
    half = metrics.precision_recall(real=x, fake=np.concatenate([x[:100], y[:100] + 100]))
    assert half.precision == 0.5 and "N differs: 400 real, 200 fake" in half.notes[0]
    assert half.precision_interval.standard_error == pytest.approx(0.5 / np.sqrt(200), rel=0.1)
    assert (half.k, half.ties, dc.k, dc.ties) == (3, "closed", 5, "open")
    # one step of the argument order would swap them
    swapped = metrics.precision_recall(real=np.concatenate([x[:100], y[:100] + 100]), fake=x)
    assert swapped.recall == half.precision


def test_inception_score_bounds_and_shuffle():
    sharp = np.repeat(np.eye(8) * 50, 25, 0)  # sure of every sample, all classes alike
    s = metrics.inception_score(sharp)
    assert s.one_split == pytest.approx(8, rel=1e-12) and 6 < s.mean < 8
    assert (s.splits, s.seed, s.n, s.classes) == (10, 2020, 200, 8)
    assert metrics.inception_score(sharp, seed=None).mean < 4  # sorted by class: what the shuffle is for
    assert "not shuffled" in metrics.inception_score(sharp, seed=None).notes[0]
    assert metrics.inception_score(np.zeros((50, 8))).mean == pytest.approx(1, rel=1e-14)
    rng = np.random.default_rng(5)
    logits = 3 * rng.standard_normal((300, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one = metrics.inception_score(logits, splits=1)
    kl = (p * np.log(p / p.mean(0))).sum(1)
    assert one.mean == one.one_split == pytest.approx(np.exp(kl.mean()), rel=1e-12) and one.sd == 0
    assert metrics.inception_score(p, probabilities=True).mean == pytest.approx(metrics.inception_score(logits).mean)
    assert metrics.inception_score(logits + 700).mean == pytest.approx(metrics.inception_score(logits).mean, rel=1e-12)
    values = [metrics.inception_score(3 * rng.standard_normal((300, 6))).one_split for _ in range(100)]
    assert one.interval.standard_error == pytest.approx(np.std(values), rel=0.25)
    assert metrics.inception_score(logits, ddof=1).sd > metrics.inception_score(logits).sd
    hard = metrics.inception_score(np.eye(4)[[0, 1, 2, 3, 0, 1]], probabilities=True, splits=1)  # zeros have no log
    assert np.isfinite(hard.mean)


def test_vendi_counts_different_samples():
    assert metrics.vendi_score(np.eye(7)) == pytest.approx(7, rel=1e-12)
    assert metrics.vendi_score(np.ones((9, 4))) == pytest.approx(1, rel=1e-12)
    assert metrics.vendi_score(np.repeat(np.eye(3), 5, 0) * 2) == pytest.approx(3, rel=1e-12)
    for n, d in ((50, 8), (8, 50), (1, 3)):
        x = feature_sets(n, 2, d)[0]
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        lam = np.linalg.eigvalsh(u @ u.T / n)
        lam = lam[lam > 1e-15]
        truth = np.exp(-(lam * np.log(lam)).sum())
        assert metrics.vendi_score(x) == pytest.approx(truth, rel=1e-10)
        assert metrics.vendi_details(x).value == pytest.approx(truth, rel=1e-10)
    rng = np.random.default_rng(6)
    for shape in ((200, 5), (40, 60)):
        values = [metrics.vendi_score(rng.standard_normal(shape) + 0.5) for _ in range(60)]
        error = metrics.vendi_details(rng.standard_normal(shape) + 0.5).interval.standard_error
        assert error == pytest.approx(np.std(values), rel=0.35)


def test_authpct():
    rng = np.random.default_rng(7)
    train, new = rng.standard_normal((300, 6)), rng.standard_normal((250, 6))
    a = metrics.authpct(train=train, samples=new)
    d = ((new[:, None] - train) ** 2).sum(2)
    own = np.sort(((train[:, None] - train) ** 2).sum(2), 1)[:, 1]
    truth = 100 * np.mean(own[d.argmin(1)] < d.min(1))
    assert a.percent == pytest.approx(truth) and a.interval.low < a.percent < a.interval.high
    assert (a.n_samples, a.n_train) == (250, 300)
    assert metrics.authpct(train=train, samples=train[:100]).percent == 0
    mixed = metrics.authpct(train=train, samples=np.concatenate([train[:125] + 1e-6, new[:125]]))
    assert mixed.percent == pytest.approx(50 * np.mean(own[d[:125].argmin(1)] < d[:125].min(1)))


def test_bootstrap_interval():
    v = np.random.default_rng(8).standard_normal(400)
    i = metrics.bootstrap_interval(v.mean(), v)
    assert i.standard_error == pytest.approx(v.std() / 20, rel=0.1) and i.low < v.mean() < i.high
    assert i == metrics.bootstrap_interval(v.mean(), v) != metrics.bootstrap_interval(v.mean(), v, seed=1)
    wide = metrics.bootstrap_interval(v.mean(), v, level=0.99)
    assert wide.low < i.low and "95 %, 1000 resamples, seed 0" in str(i)
    both = metrics.bootstrap_interval(0.0, v, v)
    assert both.standard_error == pytest.approx(np.sqrt(2) * i.standard_error, rel=0.1)
    assert np.isnan(metrics.bootstrap_interval(1.0, [1.0]).low)
    with pytest.raises(ConfigError, match="0 < level < 1"):
        metrics.bootstrap_interval(0.0, v, level=95)
    with pytest.raises(ShapeError, match="one number per sample"):
        metrics.bootstrap_interval(0.0, v[:, None])


TWO_SETS = {
    "kernel_distance": lambda r, f: metrics.kernel_distance(real=r, fake=f),
    "cmmd": lambda r, f: metrics.cmmd(real=r, fake=f),
    "precision_recall": lambda r, f: metrics.precision_recall(real=r, fake=f, k=1),
    "density_coverage": lambda r, f: metrics.density_coverage(real=r, fake=f, k=1),
    "frechet_infinity": lambda r, f: metrics.frechet_infinity(real=r, fake=f),
    "frechet_distance": lambda r, f: metrics.frechet_distance(r, f),
}
BAD = {
    "one sample": (lambda x: (x, x[:1]), ShapeError, r"fake has 1 sample\(s\); .* needs at least 2"),
    "no samples": (lambda x: (x[:0], x), ShapeError, r"real has 0 sample\(s\); .* needs at least 2"),
    "not a number": (lambda x: (x, np.where(x > 2, np.nan, x)), NonFiniteError, "fake has .* non-finite .* first at"),
    "D differs": (lambda x: (x, x[:, :3]), ShapeError, "real has 4 features per sample and fake has 3; use one"),
    "images": (lambda x: (x.reshape(30, 2, 2, 1), x), ShapeError, r"real has shape \(30, 2, 2, 1\); features are N,D"),
    "mixed sizes": (lambda x: ([[1.0, 2.0], [3.0]], x), ShapeError, "real mixes arrays of several shapes"),
    "complex": (lambda x: (x.astype(complex), x), DtypeError, "real has dtype complex128; real numbers"),
    "text": (lambda x: (x.astype(str), x), DtypeError, "real has dtype <U.*; real numbers"),
    "true and false": (lambda x: (x > 0, x), DtypeError, "real has dtype bool"),
    "no features": (lambda x: (x[:, :0], x[:, :0]), ShapeError, "no feature; at least one"),
}


@pytest.mark.parametrize("metric", TWO_SETS)
@pytest.mark.parametrize("bad", BAD)
def test_bad_features_get_a_sentence(metric, bad):
    x = np.random.default_rng(9).standard_normal((30, 4)) + 1
    break_it, error, text = BAD[bad]
    with pytest.raises(error, match=text):
        TWO_SETS[metric](*break_it(x))


def test_real_and_fake_go_by_name():
    x = np.zeros((5, 2))
    for call in (metrics.kernel_distance, metrics.cmmd, metrics.precision_recall, metrics.density_coverage,
                 metrics.frechet_infinity, metrics.authpct):  # fmt: skip
        with pytest.raises(TypeError):
            call(x, x)
    with pytest.raises(TypeError):
        metrics.memorisation_ratio(x, x, x)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: metrics.kernel_distance_details(real=x, fake=x, subset_size=31), ShapeError, "subset_size=31 must"),
        (lambda x: metrics.kernel_distance_details(real=x, fake=x, subsets=0, pairs=False), ConfigError, "nothing to"),
        (lambda x: metrics.cmmd(real=x, fake=x * 0), ShapeError, "fake sample 0 is all zeros"),
        (lambda x: metrics.cmmd(real=x, fake=x, sigma=0), ConfigError, "above 0; got 0"),
        (lambda x: metrics.precision_recall(real=x, fake=x, k=0), ConfigError, "at least 1; got 0"),
        (lambda x: metrics.precision_recall(real=x, fake=x[:3]), ShapeError, "fake has 3.*3-th neighbour.*at least 4"),
        (lambda x: metrics.density_coverage(real=x, fake=x, ties="<"), ConfigError, "unknown ties '<'; choose closed"),
        (lambda x: metrics.inception_score(x[:9]), ShapeError, r"9 sample\(s\); an Inception score in 10 split"),
        (lambda x: metrics.inception_score(x[:1], splits=1), ShapeError, "needs at least 2"),
        (lambda x: metrics.inception_score(x[:, :1]), ShapeError, "at least two classes"),
        (lambda x: metrics.inception_score(x, splits=1, ddof=1), ConfigError, "ddof"),
        (lambda x: metrics.inception_score(x, probabilities=True), ConfigError, "look like logits"),
        (lambda x: metrics.inception_score(x * np.inf), NonFiniteError, "logits has .* non-finite"),
        (lambda x: metrics.vendi_score(x * 0), ShapeError, "sample 0 is all zeros"),
        (lambda x: metrics.vendi_score(x[:0]), ShapeError, "needs at least 1"),
        (lambda x: metrics.authpct(train=x[:1], samples=x), ShapeError, "train has 1"),
        (lambda x: metrics.authpct(train=x, samples=x[:0]), ShapeError, "samples has 0"),
        (lambda x: metrics.authpct(train=x, samples=x[:, :2]), ShapeError, "train has 4 features .* samples has 2"),
    ],
)
def test_errors_say_what_arrived(call, error, text):
    x = np.random.default_rng(10).standard_normal((30, 4))
    with np.errstate(invalid="ignore"), pytest.raises(error, match=text):
        call(x)
