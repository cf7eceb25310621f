"""Judges with a ground truth: labels, shapes by their parser, retrieval, CLIP score, modes."""

import itertools

import numpy as np
import pytest

from tinygen import metrics
from tinygen.data import load, shapes
from tinygen.errors import ConfigError, DtypeError, NonFiniteError, ShapeError

# ---- labels


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train"), load("digits", split="test")


@pytest.fixture(scope="module")
def judge(digits):
    return metrics.KernelJudge(digits[1].images, digits[1].labels)


def test_label_agreement_beside_its_ceiling(digits, judge):
    train, _ = digits
    real = (train.images, train.labels)
    a = metrics.label_agreement(judge, train.images, train.labels, real=real)
    assert a.agreement == a.ceiling == judge.accuracy(train.images, train.labels)
    assert a.interval == a.ceiling_interval and a.interval.low < a.agreement < a.interval.high < 1
    assert (a.n, a.n_real) == (899, 899) and a.chance == pytest.approx(0.1, abs=0.002)
    assert a.label == "label agreement[kernel ridge fitted on 898 | N=899, ceiling 899]"
    assert sorted(a.per_class) == list(range(10)) and np.mean(list(a.per_class.values())) == pytest.approx(
        a.agreement, abs=0.003
    )

    wrong = train.labels.copy()
    wrong[::4] = (wrong[::4] + 1) % 10  # a generator that misses every fourth
    b = metrics.label_agreement(judge, train.images, wrong, real=real)
    assert b.agreement == pytest.approx(0.75 * a.agreement, abs=0.02) and b.ceiling == a.ceiling
    some = metrics.label_agreement(judge, train.images[:50], judge.labels(train.images[:50]), real=real, level=0.9)
    assert some.agreement == 1 and some.interval.low == pytest.approx(50 / (50 + 1.6448536**2))  # no false certainty
    assert "Wilson" in str(some.interval) and some.interval.level == 0.9


def test_label_agreement_takes_any_reader_of_labels(digits):
    class Bright:
        def labels(self, images):
            return (np.asarray(images, float).mean((1, 2, 3)) > 75).astype(np.int64)

    x = digits[0].images
    y = Bright().labels(x)
    a = metrics.label_agreement(Bright(), x, y, real=(x, 1 - y))
    assert (a.agreement, a.ceiling) == (1, 0) and "Bright" in a.label and set(a.per_class) <= {0, 1}


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        (lambda x, y: (x, y[:5]), ShapeError, "there are 20 images and 5 labels"),
        (lambda x, y: (x, y.astype(float)), ShapeError, "integers, one per image; got float64"),
        (lambda x, y: (x[:0], y[:0]), ShapeError, "images has 0 sample"),
        (lambda x, y: (x[:, :4], y), ShapeError, "fitted on images"),
        (lambda x, y: (x / 127.5 - 1, y), DtypeError, "float images lie in"),
        (lambda x, y: (np.where(x == x.max(), np.nan, x / 255), y), NonFiniteError, "non-finite"),
        (lambda x, y: ([x[0], x[1, :4]], y[:2]), ShapeError, "mixes arrays"),
    ],
)
def test_label_agreement_refuses(digits, judge, change, error, sentence):
    x, y = digits[0].images[:20], digits[0].labels[:20]
    with pytest.raises(error, match=sentence):
        metrics.label_agreement(judge, *change(x, y), real=(x, y))


# ---- shapes


@pytest.fixture(scope="module")
def drawings():
    test = load("shapes", split="test")
    pick = np.random.default_rng(0).permutation(len(test))[:300]
    return test.images[pick], [test.captions[i] for i in pick], test.subset(np.sort(pick))


def test_shapes_agreement_of_real_pictures_is_its_ceiling(drawings):
    x, captions, _ = drawings
    a = metrics.shapes_agreement(x, captions, ceiling=(x[:50], captions[:50]))
    assert set(a.shares.values()) == {1.0} == set(a.ceiling.values()) and not a.notes and a.residual < 0.2
    assert list(a.shares) == [*shapes.Scene._fields, "joint", "valid", "valid_lenient", "joint_valid"]
    assert a.intervals["joint"].low == pytest.approx(300 / (300 + 1.959964**2)) and a.intervals["joint"].high == 1
    assert a.chance["joint"] == pytest.approx(1 / 5184) and a.chance["cell"] == pytest.approx(1 / 9)
    assert a.label == "shapes agreement[exact parser | native 32x32 | N=300, ceiling 50]"
    scenes = np.array([shapes.parse_caption(c) for c in captions])
    for same in (metrics.shapes_agreement(x / 255.0, captions, ceiling=(x[:50], captions[:50])),
                 metrics.shapes_agreement(x, scenes, ceiling=(x[:50], scenes[:50]))):
        assert same.shares == a.shares and same.intervals == a.intervals


def test_shapes_agreement_counts_what_was_planted(drawings):
    x, captions, _ = drawings
    x, scenes = x.copy(), np.array([shapes.parse_caption(c) for c in captions])
    scenes[:60, 0] = (scenes[:60, 0] + 1) % 6  # 60 of the wrong shape, 90 of the wrong colour, 30 of them both
    scenes[30:120, 1] = (scenes[30:120, 1] + 1) % 8
    x[285:] = np.random.default_rng(1).integers(0, 256, (15, 32, 32, 3))  # 15 no drawings
    a = metrics.shapes_agreement(x, scenes)
    assert a.n_ceiling == 1000 and a.ceiling["joint"] == a.ceiling["valid"] == 1
    assert a.shares["valid"] == a.shares["valid_lenient"] == 0.95
    assert a.shares["joint_valid"] == pytest.approx(165 / 300)
    for name, right in (("shape", 225), ("colour", 195), ("joint", 165), ("size", 285)):  # noise may agree by chance
        assert right / 300 <= a.shares[name] <= (right + 15) / 300
    assert "15 of 300 pictures are no drawing" in a.notes[0]


def test_shapes_ceiling_is_that_of_the_path(drawings):
    from scipy.ndimage import gaussian_filter

    x, captions, _ = drawings
    blurred = gaussian_filter(x / 255.0, (0, 1, 1, 0))
    a = metrics.shapes_agreement(blurred, captions, ceiling=(blurred, captions))
    assert a.shares == a.ceiling and 0.85 < a.shares["joint"] < 1


def test_shapes_coverage_of_even_draws_is_as_expected():
    rng = np.random.default_rng(2)
    found, expected, sds = [], [], []
    for _ in range(6):
        c = metrics.shapes_coverage(shapes.render(rng.integers(0, shapes.COUNT, 400)))
        found.append(c.captions)
        expected.append(c.expected)
        sds.append(c.expected_sd)
    assert np.mean(found) == pytest.approx(expected[0], abs=4 * sds[0] / 6**0.5)
    brute = [len(np.unique(rng.integers(0, 5184, 400))) for _ in range(4000)]
    assert expected[0] == pytest.approx(np.mean(brute), abs=0.3) and sds[0] == pytest.approx(np.std(brute), rel=0.1)
    assert c.valid == 1 and max(c.kl.values()) < 0.05 and (c.of, c.n) == (5184, 400)

    one = metrics.shapes_coverage(shapes.render(np.full(50, 4)))
    assert one.captions == 1 and one.kl["shape"] == pytest.approx(np.log(6)) and one.expected > 49
    none = metrics.shapes_coverage(rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    assert none.captions == 0 and none.valid == 0 and np.isnan(none.kl["size"]) and none.valid_interval.high < 0.2


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        (lambda x, c: (x, c[:4]), ShapeError, "300 pictures and 4 captions"),
        (lambda x, c: (x[:0], []), ShapeError, "images has 0 sample"),
        (lambda x, c: (x[:, :16], c), ShapeError, "16x32x3; the parser of shapes reads 32x32x3"),
        (lambda x, c: (x / 127.5 - 1, c), DtypeError, "float images lie in"),
        (lambda x, c: (x.astype(np.uint16), c), DtypeError, "uint16"),
        (lambda x, c: (x, ["a blue moon"] * 300), ConfigError, "is not a caption of shapes"),
        (lambda x, c: (x, np.zeros((300, 4), int)), ShapeError, "scenes are integers N,5"),
        (lambda x, c: (np.full(x.shape, np.nan), c), NonFiniteError, "non-finite"),
    ],
)
def test_shapes_agreement_refuses(drawings, change, error, sentence):
    x, captions, _ = drawings
    with pytest.raises(error, match=sentence):
        metrics.shapes_agreement(*change(x, captions), ceiling=(x[:2], captions[:2]))


# ---- retrieval


def brute_force(x, y, captions, pictures, k, ties):
    """R@k, ranks, by enumerating candidates one by one."""
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    pairs, candidates = set(zip(pictures, captions)), sorted(set(captions))
    hits, ranks = [], []
    for i, p in enumerate(pictures):
        scores = {c: max(float(x[i] @ y[j]) for j in range(len(y)) if captions[j] == c) for c in candidates}
        orders = []
        best = max(v for c, v in scores.items() if (p, c) in pairs)
        level = [c for c in candidates if abs(scores[c] - best) < 1e-9]
        ahead = sum(v > best + 1e-9 for v in scores.values())
        for order in itertools.permutations(level):
            orders.append(ahead + 1 + min(n for n, c in enumerate(order) if (p, c) in pairs))
        if ties == "pessimistic":
            orders = [ahead + 1 + sum((p, c) not in pairs for c in level)]
        ranks.append(np.mean(orders))
        hits.append(np.mean([o <= k for o in orders]))
    return np.mean(hits), ranks


@pytest.mark.parametrize("ties", ["pessimistic", "expected"])
def test_retrieval_against_brute_force(ties):
    rng = np.random.default_rng(3)
    for _ in range(8):
        n = 14
        text, picture = rng.integers(0, 6, n), rng.integers(0, 9, n)
        table_t, table_p = rng.integers(-1, 2, (6, 3)) + 0.0, rng.integers(-1, 2, (9, 3)) + 0.0  # many ties
        table_t[:, 0] += 3 * (np.abs(table_t).sum(1) == 0)
        table_p[:, 0] += 3 * (np.abs(table_p).sum(1) == 0)
        x, y = table_p[picture], table_t[text]
        r = metrics.retrieval(x, y, captions=[f"text {t}" for t in text], images=picture[:, None, None, None] * 1.0,
                              ks=(1, 2, 4), ties=ties, resamples=20)
        for found, args in ((r.image_to_text, (x, y, text.tolist(), picture.tolist())),
                            (r.text_to_image, (y, x, picture.tolist(), text.tolist()))):
            for k in (1, 2, 4):
                expected, ranks = brute_force(*args, k, ties)
                assert found.recall[k] == pytest.approx(expected, abs=1e-12)
            assert found.median_rank == pytest.approx(np.median(ranks))
            assert found.mean_rank == pytest.approx(np.mean(ranks))


def test_retrieval_of_perfect_and_of_collapsed_embeddings():
    x = np.random.default_rng(4).standard_normal((300, 32))
    r = metrics.retrieval(x, 7 * x, encoder="toy")
    for d in (r.image_to_text, r.text_to_image):
        assert set(d.recall.values()) == {1.0} and d.median_rank == 1 and d.candidates == 300
        assert d.chance[5] == pytest.approx(5 / 300)
    assert r.label == "retrieval[toy | N=300 | 300 images | 300 texts | pessimistic ties]" and not r.notes

    flat = np.ones((300, 32)) + np.arange(300)[:, None] * 1e-13  # different, and indistinguishable
    worst = metrics.retrieval(x, flat, resamples=50).image_to_text
    assert worst.recall[10] == 0 and worst.median_rank == 300
    fair = metrics.retrieval(x, flat, ties="expected", resamples=50).image_to_text
    assert fair.recall[10] == pytest.approx(10 / 300) and fair.mean_rank == pytest.approx(150.5)


def test_retrieval_takes_duplicates_for_matches():
    rng = np.random.default_rng(5)
    texts = rng.standard_normal((40, 16))
    which = np.repeat(np.arange(40), 9)  # nine pictures share each caption, as in shapes32
    pictures = texts[which] + 0.05 * rng.standard_normal((360, 16))
    captions = [f"caption {i}" for i in which]
    r = metrics.retrieval(pictures, texts[which], captions=captions)
    assert r.image_to_text.recall[1] == r.text_to_image.recall[1] == 1
    assert (r.image_to_text.candidates, r.text_to_image.candidates) == (40, 360)
    assert r.text_to_image.chance[1] == pytest.approx(9 / 360)
    naive = metrics.retrieval(pictures, texts[which], captions=[f"{c} {i}" for i, c in enumerate(captions)])
    assert naive.image_to_text.recall[1] == 0  # each text taken for one of its own: eight others are as near

    same = metrics.retrieval(pictures, texts[which])  # by equal embeddings
    assert same.image_to_text.recall == r.image_to_text.recall


def test_retrieval_intervals_and_notes():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((200, 8))
    r = metrics.retrieval(x, x + 1.2 * rng.standard_normal((200, 8)))
    d = r.image_to_text
    for k in (1, 5, 10):
        i = d.recall_intervals[k]
        assert i.low < d.recall[k] < i.high
        assert i.standard_error == pytest.approx(np.sqrt(d.recall[k] * (1 - d.recall[k]) / 200), rel=0.1)
    assert d.recall[1] < d.recall[5] < d.recall[10] and d.median_interval.low <= d.median_rank <= d.median_interval.high
    few = metrics.retrieval(x[:6], x[:6])
    assert "R@10 says little: one direction has 6 candidates" in few.notes[0] and few.image_to_text.chance[10] == 1


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda x: metrics.retrieval(x[:1], x[:1]), ShapeError, "needs at least 2"),
        (lambda x: metrics.retrieval(x[:0], x[:0]), ShapeError, "no pair of embeddings"),
        (lambda x: metrics.retrieval(x, x[:5]), ShapeError, "row i of both is one pair"),
        (lambda x: metrics.retrieval(x, x[:, :3]), ShapeError, "4 features per sample and text_embeddings has 3"),
        (lambda x: metrics.retrieval(x, 0 * x), NonFiniteError, "row 0 of text_embeddings is all zeros"),
        (lambda x: metrics.retrieval(np.where(x > 1, np.nan, x), x), NonFiniteError, "image_embeddings has"),
        (lambda x: metrics.retrieval(x, x, captions=["a"] * 9), ShapeError, "captions has 9 items for 10"),
        (lambda x: metrics.retrieval(x, x, captions=["a"] * 10), ShapeError, "all 10 captions are equal"),
        (lambda x: metrics.retrieval(x, x, captions="abcdefghij"), ConfigError, "a list of texts"),
        (lambda x: metrics.retrieval(x, x, captions=list(range(10))), ConfigError, "a list of texts"),
        (lambda x: metrics.retrieval(x, x, ties="optimistic"), ConfigError, "pessimistic or expected"),
        (lambda x: metrics.retrieval(x, x, ks=(0,)), ConfigError, "whole numbers from 1"),
        (lambda x: metrics.retrieval(x > 0, x), DtypeError, "bool"),
        (lambda x: metrics.clip_score(x, x, convention="clip"), ConfigError, "choose torchmetrics, clipscore, cosine"),
        (lambda x: metrics.clip_score(x, x[:5]), ShapeError, "row i of both is one pair"),
        (lambda x: metrics.clip_score(x[0], x[0]), ShapeError, "features are N,D"),
        (lambda x: metrics.clip_score(np.zeros_like(x), x), NonFiniteError, "row 0 of image_embeddings"),
        (lambda x: metrics.clip_score([x[0], x[1, :2]], x[:2]), ShapeError, "mixes arrays"),
    ],
)  # fmt: skip
def test_embeddings_refused(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(np.random.default_rng(7).standard_normal((10, 4)) * 2)


# ---- CLIP score


def test_clip_score_by_hand():
    x = np.array([[1.0, 0], [0, 3], [1e200, 1e200], [-2, 0]])
    y = np.array([[1.0, 1], [0, 1], [1, 1], [1, 0]])
    cosines = np.array([0.5**0.5, 1, 1, -1])
    assert metrics.clip_score(x, y) == pytest.approx(100 * cosines.mean(), rel=1e-12)
    assert metrics.clip_score(x, y, convention="cosine") == pytest.approx(cosines.mean(), rel=1e-12)
    assert metrics.clip_score(x, y, convention="clipscore") == pytest.approx(2.5 * cosines.clip(0).mean(), rel=1e-12)
    assert metrics.clip_score(x[3:], y[3:]) == 0 == metrics.clip_score(x[3:], y[3:], convention="clipscore")
    assert metrics.clip_score(x[3:], y[3:], convention="cosine") == pytest.approx(-1)


def test_clip_score_against_torchmetrics():
    torch = pytest.importorskip("torch")
    update = pytest.importorskip("torchmetrics.functional.multimodal.clip_score")._clip_score_update

    class Model:  # an encoder whose embeddings are what it is given
        config = None

        def to(self, device):
            return self

        def get_image_features(self, pixels):
            return pixels[:, 0, 0]

        def get_text_features(self, ids, mask):
            return ids

    rng = np.random.default_rng(8)
    for shift in (0.6, 0.0, -0.6):
        x = rng.standard_normal((17, 33)).astype(np.float32)
        y = shift * x + rng.standard_normal((17, 33)).astype(np.float32)

        def processor(text=None, images=None, y=y, **_):
            if text is None:
                return {"pixel_values": torch.stack(images)}
            return {"input_ids": torch.tensor(y), "attention_mask": torch.ones(len(y), 1)}

        pictures = [torch.tensor(row)[None, None] for row in x]
        each, n = update(pictures, [str(i) for i in range(17)], Model(), processor)
        assert n == 17
        assert metrics.clip_score(x, y) == pytest.approx(max(float(each.mean()), 0), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("convention", ["torchmetrics", "clipscore", "cosine"])
def test_clip_score_details(convention):
    rng = np.random.default_rng(9)
    x = rng.standard_normal((120, 16))
    y = x + rng.standard_normal((120, 16))
    s = metrics.clip_score_details(x, y, convention=convention, encoder="shapes-clip")
    assert s.value == metrics.clip_score(x, y, convention=convention) and s.interval.low < s.value < s.interval.high
    ux, uy = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    table = ux @ uy.T
    scale = {"torchmetrics": lambda c: 100 * c, "clipscore": lambda c: 2.5 * np.maximum(c, 0), "cosine": lambda c: c}
    wrong = scale[convention](table)[~np.eye(120, dtype=bool)].mean()
    assert s.mispaired == pytest.approx(max(wrong, 0) if convention == "torchmetrics" else wrong, abs=1e-12)
    assert s.label.startswith("CLIPScore[shapes-clip | ") and s.label.endswith(" | N=120]")
    assert metrics.clip_score_details(x[:1], y[:1], convention=convention).mispaired is None


# ---- modes


def test_mode_coverage_says_how_sure_it_is():
    rng = np.random.default_rng(10)
    centres = metrics.grid_centres()
    x = np.concatenate([centres[rng.choice(23, 920)] + 0.05 * rng.standard_normal((920, 2)),
                        rng.uniform(-5, 5, (80, 2))])  # fmt: skip
    m = metrics.grid_modes(x)
    assert m.found == 23 and m.interval.low < m.high_quality < m.interval.high and m.interval.method == "Wilson"
    assert m.label == "mode coverage[3σ, σ=0.05 | 25 modes | N=1000]"
    with pytest.raises(ShapeError, match="share D and be non-empty"):
        metrics.grid_modes(x[:0])
    with pytest.raises(NonFiniteError, match="samples has"):
        metrics.grid_modes(np.where(x > 4, np.nan, x))
