"""Fréchet distance, its floor, the extractors: closed forms, streaming accuracy, monotonicity on digits."""

import numpy as np
import pytest
from metric_references import feature_sets

from tinygen import metrics
from tinygen.data import load
from tinygen.errors import ConfigError, DataError, DtypeError, NonFiniteError, ShapeError
from tinygen.metrics import FeatureStatistics, extractor, frechet_distance, frechet_distance_details


def whitened(n, d, seed):
    """Features whose sample mean is 0 and whose sample covariance (ddof 1) is I, exactly."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    x = np.linalg.qr(x - x.mean(0))[0]
    return (x - x.mean(0)) * np.sqrt(n - 1)


@pytest.mark.parametrize("route", ["symmetric", "nuclear", "cholesky"])
def test_one_dimension_is_mean_and_sd(route):
    x = whitened(40, 1, 0) * 2.0 + 1.5
    y = whitened(60, 1, 1) * 0.5 - 1.0
    assert frechet_distance(x, y, route=route) == pytest.approx(2.5**2 + (2.0 - 0.5) ** 2, rel=1e-13)


@pytest.mark.parametrize("route", ["symmetric", "nuclear", "cholesky"])
def test_exact_gaussians(route):
    """In the plane tr (Σ₁Σ₂)^½ = √(tr Σ₁Σ₂ + 2 √det Σ₁Σ₂): no eigenvalues in the expected value."""
    a, b = np.array([[2.0, 0.3], [0.3, 0.5]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    x = whitened(50, 2, 2) @ np.linalg.cholesky(a).T + [1, 2]
    y = whitened(70, 2, 3) @ np.linalg.cholesky(b).T + [0, 4]
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = 1 + 4 + np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(x, y, route=route) == pytest.approx(expected, rel=1e-13)
    assert frechet_distance(y, x, route=route) == pytest.approx(expected, rel=1e-13)


def test_commuting_covariances_in_many_dimensions():
    s, t = np.linspace(0.1, 3, 24), np.linspace(2, 0.2, 24)
    x, y = whitened(200, 24, 4) * s, whitened(150, 24, 5) * t
    for route in ("symmetric", "nuclear", "cholesky"):
        assert frechet_distance(x, y, route=route) == pytest.approx(((s - t) ** 2).sum(), rel=1e-12)


def rank_deficient():
    """20 samples of 48 features on both sides, with a known answer.

    X = A·P and Y = B·Q with orthonormal rows in P and Q whose overlap P Qᵀ is diag(cos θ): then the nuclear
    norm of Σ₁^½ Σ₂^½ is Σ s t cos θ.
    """
    k, d = 5, 48
    theta = np.linspace(0.1, 1.4, k)
    s, t = np.arange(1.0, k + 1), np.linspace(3.0, 0.5, k)
    basis = np.linalg.qr(np.random.default_rng(6).standard_normal((d, d)))[0]
    p = basis[:k]
    q = np.cos(theta)[:, None] * p + np.sin(theta)[:, None] * basis[k : 2 * k]
    x, y = (whitened(20, k, 7) * s) @ p, (whitened(20, k, 8) * t) @ q
    return x, y, (s * s).sum() + (t * t).sum() - 2 * (s * t * np.cos(theta)).sum()


def test_rank_deficient_features_take_the_exact_route():
    x, y, truth = rank_deficient()
    details = frechet_distance_details(x, y)
    assert (details.route, details.n_real, details.n_fake, details.dims) == ("nuclear", 20, 20, 48)
    assert details.value == pytest.approx(truth, rel=1e-13)
    # nor do the others lose digits: only the five dimensions that are there were varied, not 19
    assert frechet_distance(x, y, route="cholesky") == pytest.approx(truth, rel=1e-7)
    assert frechet_distance(x, y, route="symmetric") == pytest.approx(truth, rel=1e-6)


# mpmath at 50 digits on feature_sets(n, m, d)
TRUTHS = {
    (20, 20, 48): 25.94090321560565652503039,
    (12, 30, 20): 5.02109650867463809463264,
    (9, 9, 9): 2.639499254315758032793649,
}


@pytest.mark.parametrize("route", ["nuclear", "symmetric", "cholesky"])
@pytest.mark.parametrize("sizes", TRUTHS)
def test_rank_deficient_sets_against_fifty_digits(sizes, route):
    """Also the routes that know the covariances alone: they know the rank too."""
    x, y = feature_sets(*sizes)
    tolerance = 1e-12
    assert frechet_distance(x, y, route=route) == pytest.approx(TRUTHS[sizes], rel=tolerance)
    assert frechet_distance(y, x, route=route) == pytest.approx(TRUTHS[sizes], rel=tolerance)
    if route != "nuclear":
        stats = FeatureStatistics.of(x), FeatureStatistics.of(y)
        assert frechet_distance(*stats, route=route) == pytest.approx(TRUTHS[sizes], rel=tolerance)


def fifty_digits(x, y):
    """The distance by the eigenvalues of G Gᵀ, G = X_c Y_cᵀ / √((n-1)(m-1)), in 50-digit arithmetic."""
    mp = pytest.importorskip("mpmath", reason="mpmath, a development extra, is not installed").mp
    before, mp.dps = mp.dps, 50
    try:
        centred, means = [], []
        for z in (x, y):
            rows = mp.matrix(z.tolist())
            mean = [sum(rows[:, j]) / len(z) for j in range(z.shape[1])]
            for i in range(len(z)):
                for j in range(z.shape[1]):
                    rows[i, j] = (rows[i, j] - mean[j]) / mp.sqrt(len(z) - 1)
            centred.append(rows)
            means.append(mean)
        g = centred[0] * centred[1].T
        cross = sum(mp.sqrt(abs(e)) for e in mp.eigsy(g * g.T, eigvals_only=True))
        squares = sum(v * v for rows in centred for v in rows)
        return float(sum((a - b) ** 2 for a, b in zip(*means)) + squares - 2 * cross)
    finally:
        mp.dps = before


@pytest.mark.parametrize("case", ["fewer than D", "wide spectra", "nearly equal", "dead features"])
def test_hard_sets_against_fifty_digits(case):
    rng = np.random.RandomState(8)
    x, y = rng.randn(14, 10), rng.randn(17, 10)
    if case == "fewer than D":
        x = rng.randn(7, 10)
    elif case == "wide spectra":  # from 1 to 1e-7, in opposite order
        x, y = x * np.logspace(0, -7, 10), y * np.logspace(-7, 0, 10)
    elif case == "nearly equal":
        y = x[:, ::1] + 1e-3 * rng.randn(14, 10)
    else:
        x[:, 3] = y[:, 3] = 0.25
        x[:, 7] = 1.0
    truth = fifty_digits(x, y)
    tolerance = 1e-10 * max(truth, 1e-4)  # nearly equal sets: the traces cancel, to 1e-16 of them
    for route in ("auto", "nuclear", "cholesky"):
        assert frechet_distance(x, y, route=route) == pytest.approx(truth, abs=tolerance), route
    assert frechet_distance(x, y, route="symmetric") == pytest.approx(truth, rel=1e-6)


def test_routes_agree_at_full_rank_and_auto_says_which_ran():
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((300, 16)) * 2, rng.standard_normal((500, 16)) + 0.1
    a, b, c = (frechet_distance_details(x, y, route=r) for r in ("symmetric", "nuclear", "cholesky"))
    assert a.value == pytest.approx(b.value, rel=1e-11) and c.value == pytest.approx(b.value, rel=1e-13)
    assert (a.route, b.route, c.route) == ("symmetric", "nuclear", "cholesky")
    assert a.interval.low == pytest.approx(b.interval.low, rel=1e-10) == pytest.approx(c.interval.low, rel=1e-10)
    assert "N differs: 300 real, 500 fake" in a.notes[0] and not frechet_distance_details(x, x).notes
    assert frechet_distance_details(x, y).route == "cholesky"
    assert frechet_distance_details(x[:16], y).route == "nuclear"
    stats = FeatureStatistics.of(x[:16])
    assert frechet_distance_details(stats, y).route == "cholesky"
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert isinstance(frechet_distance(x, y), float)


def test_streaming_keeps_its_digits_far_from_the_origin():
    x = np.random.default_rng(10).standard_normal((4000, 12)) + 50
    truth_mean, truth = x.mean(0), np.cov(x.T)
    whole = FeatureStatistics(12)
    for part in np.array_split(x, 37):
        whole.add(part)
    shards = [FeatureStatistics.of(part) for part in np.array_split(x, 5)]
    merged = FeatureStatistics(12)
    for shard in shards:
        merged.merge(shard)
    for s in (whole, merged, FeatureStatistics.of(np.array_split(x, 3))):
        assert s.n == 4000
        assert np.abs(s.mean - truth_mean).max() < 1e-12
        assert np.abs(s.covariance() - truth).max() < 1e-13
    one_by_one = FeatureStatistics(12)
    for row in x[:500]:
        one_by_one.add(row[None])
    assert np.abs(one_by_one.covariance() - np.cov(x[:500].T)).max() < 1e-12
    assert whole.add(x[:0]).n == 4000
    assert frechet_distance(whole, x[:2000]) == pytest.approx(frechet_distance(x, x[:2000]), abs=1e-11)


def test_statistics_are_saved_merged_and_kept_apart(tmp_path):
    x = np.random.default_rng(20).standard_normal((100, 5)).astype(np.float32)
    stats = FeatureStatistics.of(x, label="randconv-v1/32 | native")
    stats.save(tmp_path / "s.npz")
    again = FeatureStatistics.load(tmp_path / "s.npz")
    assert (again.n, again.dims, again.label) == (100, 5, "randconv-v1/32 | native")
    assert np.array_equal(again.mean, stats.mean)
    assert again.covariance() == pytest.approx(stats.covariance(), rel=1e-15)
    shard = FeatureStatistics.of(x[:40])
    merged = FeatureStatistics(5, "randconv-v1/32 | native").merge(shard).merge(FeatureStatistics.of(x[40:]))
    assert merged.covariance() == pytest.approx(stats.covariance(), rel=1e-12)
    assert shard.n == 40 and shard.covariance() == pytest.approx(np.cov(x[:40].T.astype(float)), rel=1e-12)
    assert frechet_distance(stats, merged) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ConfigError, match="of 'randconv-v1/32 | native' and of 'pixels'; use one extractor"):
        frechet_distance(stats, FeatureStatistics.of(x, label="pixels"))
    with pytest.raises(ConfigError, match="use one extractor"):
        FeatureStatistics.of(x, label="pixels").merge(stats)
    # as pytorch-fid writes it: no count
    np.savez(tmp_path / "theirs.npz", mu=stats.mean, sigma=stats.covariance())
    with pytest.raises(DataError, match="does not say of how many samples.*give n="):
        FeatureStatistics.load(tmp_path / "theirs.npz")
    assert frechet_distance(FeatureStatistics.load(tmp_path / "theirs.npz", n=100), stats) < 1e-12
    for content, error in ((b"no zip", "cannot be read"), (b"", "cannot be read")):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match=error):
            FeatureStatistics.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", x=x)
    with pytest.raises(DataError, match="holds no mu and sigma"):
        FeatureStatistics.load(tmp_path / "other.npz")
    np.savez(tmp_path / "odd.npz", mu=stats.mean, sigma=np.eye(4), n=10)
    with pytest.raises(ShapeError, match="D and D,D are needed"):
        FeatureStatistics.load(tmp_path / "odd.npz")
    np.savez(tmp_path / "pickled.npz", mu=np.array([{}]), sigma=np.eye(1), n=10)
    with pytest.raises(DataError, match="cannot be read"):
        FeatureStatistics.load(tmp_path / "pickled.npz")


def test_interval_is_the_spread_over_fresh_draws():
    scale = np.linspace(0.5, 2, 6)
    rng = np.random.default_rng(21)
    draw = lambda shift: rng.standard_normal((300, 6)) * scale + shift
    values = [frechet_distance(draw(0), draw(0.5)) for _ in range(200)]
    for route in ("cholesky", "nuclear"):
        errors = [frechet_distance_details(draw(0), draw(0.5), route=route).interval for _ in range(5)]
        assert np.mean([e.standard_error for e in errors]) == pytest.approx(np.std(values), rel=0.2)
    one = errors[0]
    assert one.low < one.high and (one.level, one.resamples, one.seed) == (0.95, 1000, 0)
    x, y = draw(0), draw(0.5)
    assert frechet_distance_details(x, y) == frechet_distance_details(x, y)
    assert frechet_distance_details(x, y, seed=1).interval != frechet_distance_details(x, y).interval
    assert frechet_distance_details(FeatureStatistics.of(x), y).interval is None


def test_frechet_infinity_takes_the_bias_off():
    """Fake samples of the real distribution's own Gaussian: the distance at N falls as 1/N, its intercept is 0."""
    rng = np.random.default_rng(22)
    real = rng.standard_normal((20_000, 16))
    fake = rng.standard_normal((3000, 16))
    f = metrics.frechet_infinity(real=real, fake=fake)
    at_n = frechet_distance(real, fake)
    assert f.distances[-1] == pytest.approx(at_n, rel=1e-9) and f.sizes[-1] == 3000 and f.sizes[0] == 300
    assert f.slope > 0 and len(f.sizes) == 15
    others = [rng.standard_normal((1000, 16)) for _ in range(10)]
    left = np.mean([metrics.frechet_infinity(real=real, fake=x, points=6).value for x in others])
    assert abs(left) < 0.2 * np.mean([frechet_distance(real, x) for x in others])
    assert f.interval.low < f.value < f.interval.high and "N differs" in f.notes[0]
    assert f.label == "FD∞[D=16 | N=20000/300…3000 | 15 sizes]"
    assert f == metrics.frechet_infinity(real=real, fake=fake)
    shifted = metrics.frechet_infinity(real=real, fake=fake + 0.5)
    assert shifted.value == pytest.approx(16 * 0.25, rel=0.05)
    small = metrics.frechet_infinity(real=real[:300], fake=real[300:330], points=5)  # subsets below D, real above
    assert small.dims == 16 and np.isfinite(small.value)
    with pytest.raises(ShapeError, match="at least 20 are needed"):
        metrics.frechet_infinity(real=real, fake=fake[:19])
    with pytest.raises(ConfigError, match="at least 3 points"):
        metrics.frechet_infinity(real=real, fake=fake, points=2)


def test_float32_features_are_computed_in_float64():
    x = np.random.default_rng(11).standard_normal((100, 4)).astype(np.float32)
    assert frechet_distance(x, x + np.float32(1)) == pytest.approx(4, rel=1e-6)
    assert FeatureStatistics.of(x).scatter.dtype == np.float64


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda x: frechet_distance(x, x[:, :3]),
            ShapeError,
            "real has 4 features per sample and fake has 3",
        ),
        (
            lambda x: frechet_distance(x, x[:1]),
            ShapeError,
            r"fake has 1 sample\(s\); a covariance needs at least 2",
        ),
        (
            lambda x: frechet_distance(x[0], x),
            ShapeError,
            r"real has shape \(4,\); features are N,D: flatten",
        ),
        (
            lambda x: frechet_distance(x, x * np.nan),
            NonFiniteError,
            r"fake has 40 non-finite value\(s\), the first",
        ),
        (lambda x: frechet_distance(x, x, route="sqrtm"), ConfigError, "unknown route 'sqrtm'; choose auto"),
        (
            lambda x: frechet_distance(FeatureStatistics.of(x), x, route="nuclear"),
            ConfigError,
            "the nuclear route needs both sets of features",
        ),
        (lambda x: FeatureStatistics(3).add(x), ShapeError, "hold 3 features per sample; 4 arrived"),
        (lambda x: FeatureStatistics(4).add(x[:1]).covariance(), ShapeError, "at least 2 samples; 1 arrived"),
        (lambda x: FeatureStatistics.of([]), ShapeError, "received no batch"),
        (
            lambda x: metrics.real_floor(x, 6),
            ShapeError,
            "two disjoint halves of 6 need 2 <= n <= 5; 10 real",
        ),
        (lambda x: metrics.real_floor(x, 4, splits=1), ConfigError, "at least 2 splits"),
        (
            lambda x: metrics.relative_frechet(x, x),
            ConfigError,
            "needs real=, to take the floor from, or floor=",
        ),
        (
            lambda x: metrics.relative_frechet(x, x, floor=metrics.Floor(1.0, 0.1, 9, 2, 0)),
            ShapeError,
            "floor was taken at N=9 and the distance would be at N=10",
        ),
        (
            lambda x: extractor("randcon"),
            ConfigError,
            "unknown extractor 'randcon'.*did you mean 'randconv-v1'",
        ),
        (lambda x: extractor("pixels")(x), ShapeError, r"images has shape \(10, 4\); images are N,H,W,C"),
        (lambda x: extractor("pixels")(x[None, ..., None]), DtypeError, r"float images lie in \[0, 1\]"),
        (
            lambda x: extractor("pixels")(np.zeros((1, 8, 8, 1), int)),
            DtypeError,
            "images is int64; images are uint8",
        ),
        (
            lambda x: extractor("randconv-v1")(np.zeros((1, 7, 8, 1))),
            ShapeError,
            "grey or RGB images of at least 8x8 pixels; got 7x8x1",
        ),
    ],
)
def test_errors_say_what_arrived(call, error, text):
    x = np.random.default_rng(12).standard_normal((10, 4))
    with pytest.raises(error, match=text):
        call(x)


def test_label_never_says_fid():
    x = np.random.default_rng(13).standard_normal((898, 32))
    label = metrics.frechet_label("randconv-v1", (8, 8), frechet_distance_details(x, x, route="nuclear"))
    assert label == "FD[randconv-v1/32 | native 8x8 | N=898/898 | ddof1 | nuclear]"


def test_randconv_is_what_its_digest_says():
    """Pinned: a change of these numbers is a new extractor and needs a new name."""
    e = extractor("randconv-v1/32")
    assert e.digest == "sha256:949de3ed9bd7c377"
    assert extractor("pixels").digest == "sha256:9a6c55a4d4f30256"
    i = np.arange(64).reshape(1, 8, 8, 1)
    grey, rgb = (
        (i * 37 % 256).astype(np.uint8),
        (np.arange(1200).reshape(1, 20, 20, 3) * 41 % 256).astype(np.uint8),
    )
    assert e(grey)[0, :3] == pytest.approx(GREY, rel=1e-9)
    assert e(rgb)[0, :3] == pytest.approx(RGB, rel=1e-9)
    assert e(grey / 255.0)[0] == pytest.approx(e(grey)[0], rel=1e-12)
    assert e(np.zeros((0, 8, 8, 1), np.uint8)).shape == (0, 32)


GREY = [0.07164324937490682, -0.08341767232889127, -0.007223106831356186]
RGB = [-0.006688800521808326, 0.017730374265245822, 0.03837959676367032]


def test_randconv_against_plain_loops():
    """One 9×11 image through the definition, pixel by pixel."""
    from tinygen.metrics.extractors import _randconv_weights

    x = np.random.default_rng(14).random((1, 9, 11, 1))
    *filters, projection = _randconv_weights(7, 1, 32)
    for w in filters:
        assert np.abs(w.mean((0, 1, 2))).max() < 1e-15
        assert np.abs((w * w).sum((0, 1, 2)) - 2).max() < 1e-12
    y = x[0]
    for depth, w in enumerate(filters):
        h, wd = y.shape[:2]
        z = np.zeros((h, wd, w.shape[3]))
        for r in range(h):
            for c in range(wd):
                for a in range(3):
                    for b in range(3):
                        if 0 <= r + a - 1 < h and 0 <= c + b - 1 < wd:
                            z[r, c] += y[r + a - 1, c + b - 1] @ w[a, b]
        z = np.where(z > 0, z, 0.2 * z)
        y = z
        if depth < 2:
            h, wd = h // 2, wd // 2
            y = np.zeros((h, wd, w.shape[3]))
            for r in range(h):
                for c in range(wd):
                    y[r, c] = z[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1))
    assert y.shape == (2, 2, 32)
    assert extractor("randconv-v1")(x)[0] == pytest.approx(y.reshape(-1) @ projection, rel=1e-10)


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train"), load("digits", split="test")


def blur(images, sigma):
    t = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    t /= t.sum()
    x = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = sum(t[k] * x[:, k : k + 8] for k in range(7))
    return sum(t[k] * x[:, :, k : k + 8] for k in range(7))


@pytest.mark.parametrize("name", ["pixels", "randconv-v1"])
def test_distance_grows_with_damage(digits, name):
    """Real against damaged real: noise, blur, lost classes, duplicates, quadrants moved about."""
    train, test = digits
    e, x, rng = extractor(name), train.images / 255.0, np.random.default_rng(15)
    held = e(test.images)
    floor = metrics.real_floor(np.concatenate([e(train.images), held]), 400, splits=20)
    clean = frechet_distance(held, e(x))

    def rising(variants, last_z):
        values = [clean] + [frechet_distance(held, e(v)) for v in variants]
        assert all(a < b for a, b in zip(values, values[1:])), values
        assert values[-1] - clean > last_z * floor.sd, values

    noise = rng.standard_normal(x.shape)
    rising([np.clip(x + s * noise, 0, 1) for s in (0.05, 0.1, 0.2)], 10)
    rising([blur(x, s) for s in (0.5, 0.8)], 50)
    rising([x[train.labels >= k] for k in (1, 2, 4)], 5)
    rising([np.concatenate([x, np.repeat(x[:9], r, 0)]) for r in (5, 11, 25)], 3)
    shuffled = []
    for share in (0.05, 0.1, 0.2):
        v = x.copy()
        k = int(share * len(v))
        v[:k] = np.concatenate([v[:k, 4:], v[:k, :4]], 1)[:, :, [4, 5, 6, 7, 0, 1, 2, 3]]
        shuffled.append(v)
    rising(shuffled, 20)


def test_floor_falls_as_one_over_n(digits):
    f = extractor("pixels")(np.concatenate([d.images for d in digits]))
    floors = {n: metrics.real_floor(f, n, splits=20) for n in (200, 400, 800)}
    products = [n * floor.mean for n, floor in floors.items()]
    assert max(products) < 1.2 * min(products)
    assert floors[400] == metrics.real_floor(f, 400, splits=20)
    assert floors[400] != metrics.real_floor(f, 400, splits=20, seed=1)


def test_real_digits_score_one(digits):
    train, test = (extractor("pixels")(d.images) for d in digits)
    r = metrics.relative_frechet(train, test, real=np.concatenate([train, test]), splits=40)
    assert (r.n, r.blocks, r.samples_used, r.samples_given) == (898, 1, 898, 899)
    assert 0.7 < r.ratio < 1.3
    assert r.ratio == pytest.approx(r.value / r.floor.mean)
    some = np.random.default_rng(17).permutation(len(train))[:300]
    few = metrics.relative_frechet(train[some], test, real=np.concatenate([train, test]), splits=10)
    assert few.n == 300 and few.details.n_real == 300 and 0.7 < few.ratio < 1.3
    halves = metrics.relative_frechet(train, test[::2], real=np.concatenate([train, test]), splits=10)
    assert (halves.n, halves.blocks, halves.samples_used) == (449, 2, 898) and 0.7 < halves.ratio < 1.3


def test_standard_error_is_the_spread_over_fresh_draws():
    rng = np.random.default_rng(16)
    scale = np.linspace(0.5, 2, 6)
    draw = lambda shift: rng.standard_normal((300, 6)) * scale + shift
    values = [frechet_distance(draw(0), draw(0.5)) for _ in range(200)]
    errors = [np.hypot(*metrics.frechet_standard_error(draw(0), draw(0.5), groups=30)) for _ in range(5)]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)
