"""The extractors that come with tinygen: what they are, what they answer to images that get worse."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from tinygen import metrics
from tinygen.data import load
from tinygen.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from tinygen.metrics.nets import attributes as net
from tinygen.metrics.resize import resize

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import extractors as bench  # noqa: E402
import train_extractor as training  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def attributes():
    return metrics.extractor("attributes-v1")


def test_names_versions_and_digests():
    assert metrics.extractors() == ["randconv-v1", "attributes-v1", "pixels"] == [*metrics.EMBEDDED, "pixels"]
    for name in ("attributes-v1", "attributes", "attributes-v1/64", "attributes/64"):
        assert metrics.extractor(name).name == "attributes-v1"
    assert metrics.extractor("randconv").name == "randconv-v1"
    digests = [metrics.extractor(n).digest for n in metrics.extractors()]
    assert len(set(digests)) == 3 and all(d.startswith("sha256:") and len(d) == 23 for d in digests)
    with pytest.raises(ConfigError, match="did you mean 'attributes-v1'"):
        metrics.extractor("attribute-v2")
    with pytest.raises(ConfigError, match="has no weights"):
        metrics.extractor("attributes", weights="x.safetensors")


def test_the_weights_ship_with_the_package(attributes):
    assert net.FILE.parent == Path(net.__file__).parent and net.FILE.stat().st_size < 300_000
    assert '"*.safetensors"' in (ROOT / "pyproject.toml").read_text()
    out = attributes(RNG.random((3, 32, 32, 3)))
    assert out.shape == (3, 64) and out.dtype == np.float64 and np.isfinite(out).all()
    assert metrics.load_weights(net.FILE).arrays.keys() == net.shapes().keys()


def test_attributes_reads_what_it_was_not_trained_on(attributes):
    digits, shapes = load("digits", "test"), load("shapes", "compositional")
    assert (attributes.logits(digits.images, "digit").argmax(1) == digits.labels).mean() > 0.98
    pick = np.random.default_rng(1).permutation(len(shapes))[:300]
    for name in set(net.HEADS) - {"digit"}:
        read = attributes.logits(shapes.images[pick], name).argmax(1)
        assert (read == shapes.attributes[name][pick]).mean() > 0.96, name


def test_attributes_against_plain_loops_of_numpy(attributes):
    """The same network by definition, in float64."""
    x = RNG.random((2, 32, 32, 3))
    w = {k: v.astype(np.float64) for k, v in metrics.load_weights(net.FILE).arrays.items()}
    y = 2 * x - 1
    leaky = lambda v: np.where(v > 0, v, 0.2 * v)
    for k in range(4):
        padded, side = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), y.shape[1]
        y = sum(padded[:, i : i + side, j : j + side] @ w[f"conv{k}.w"][i, j] for i in range(3) for j in range(3))
        y = leaky(y + w[f"conv{k}.b"])
        if k < 3:
            y = y.reshape(2, side // 2, 2, side // 2, 2, -1).mean((2, 4))
    expected = leaky(y.reshape(2, -1) @ w["features.w"] + w["features.b"])
    assert np.abs(attributes(x) - expected).max() < 2e-5 * np.abs(expected).max()


def test_attributes_path_of_other_sizes(attributes):
    grey = RNG.integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    large = resize((grey / 255).astype(np.float32), (32, 32), "torchmetrics")
    assert np.array_equal(net.prepared(grey), np.repeat(large, 3, axis=3))
    assert np.array_equal(attributes(grey), attributes(np.repeat(grey, 3, axis=3)))
    assert np.abs(attributes(grey) - attributes(grey / 255.0)).max() < 1e-4
    same = RNG.random((2, 32, 32, 3), dtype=np.float32)
    assert np.array_equal(net.prepared(same), same)  # its own size is left alone
    for shape in ((2, 16, 16, 3), (2, 64, 64, 3), (2, 28, 28, 1), (2, 17, 41, 3)):
        assert attributes(RNG.random(shape)).shape == (2, 64)
    assert attributes(np.empty((0, 8, 8, 1))).shape == (0, 64)
    assert np.abs(net.prepared(np.full((1, 64, 40, 3), 0.3)) - 0.3).max() < 1e-6


def test_features_do_not_depend_on_company(attributes):
    x = RNG.random((130, 8, 8, 1))
    whole = attributes(x)
    assert np.abs(whole[:3] - attributes(x[:3])).max() < 1e-4 and np.array_equal(whole, attributes(x))


@pytest.mark.parametrize("name", metrics.EMBEDDED)
@pytest.mark.parametrize(
    "images, error, sentence",
    [
        (np.zeros((2, 4, 4, 1)), ShapeError, "at least 8x8 pixels; got 4x4x1"),
        (np.zeros((2, 8, 8, 4)), ShapeError, "grey or RGB"),
        (np.zeros((8, 8, 3)), ShapeError, "images are N,H,W,C"),
        (np.full((2, 8, 8, 1), np.nan), NonFiniteError, "non-finite"),
        (np.full((2, 8, 8, 1), -0.5), DtypeError, "float images lie in"),
        (np.zeros((2, 8, 8, 1), np.uint16), DtypeError, "uint16"),
        ([np.zeros((8, 8, 1)), np.zeros((9, 8, 1))], ShapeError, "mixes arrays"),
    ],
)
def test_images_refused(name, images, error, sentence):
    with pytest.raises(error, match=sentence):
        metrics.extractor(name)(images)


def test_a_file_of_other_weights_is_refused(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    from tinygen.errors import DataError

    arrays = {k: np.array(v) for k, v in metrics.load_weights(net.FILE).arrays.items()}
    arrays["conv1.b"] = arrays["conv1.b"][:-1]
    save_file(arrays, tmp_path / "x.safetensors")
    monkeypatch.setattr(net, "FILE", tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="has 'conv1.b' as float32 31 where the network needs floats 32"):
        net.Attributes()(np.zeros((1, 8, 8, 1)))


# ---- the pair, and its floor


@pytest.fixture(scope="module")
def digits():
    return load("digits", "train").images, load("digits", "test").images


def test_embedded_frechet_is_a_pair_with_a_floor(digits):
    train, test = digits
    both = np.concatenate([train, test])
    found = metrics.embedded_frechet(train, test, real=both, splits=10)
    assert list(found) == list(metrics.EMBEDDED)
    for name, f in found.items():
        assert f.label.startswith("FD[" + name) and "N=898/898" in f.label and "FID" not in str(f)
        assert f.digest == metrics.extractor(name).digest and str(f).startswith(f.label) and "±" in str(f)
        assert 0.4 < f.relative.ratio < 1.6, name  # the half it was trained on is no farther than chance
    assert "native 8x8" in found["randconv-v1"].label and "bilinear-aa 32x32" in found["attributes-v1"].label
    assert metrics.frechet_label("attributes-v1", (8, 8), found["attributes-v1"].relative.details) == found[
        "attributes-v1"
    ].label
    alone = metrics.embedded_frechet(train[:100], test[:100], real=both, splits=2, names=["pixels"])
    assert list(alone) == ["pixels"]


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        (lambda s, h, r: (s[:1], h, r), ShapeError, "samples has 1 sample"),
        (lambda s, h, r: (s[:0], h, r), ShapeError, "samples has 0 sample"),
        (lambda s, h, r: (s, h[:, :, :7], r), ShapeError, "their sizes must agree"),
        (lambda s, h, r: (s, h, r[:60]), ShapeError, "two disjoint halves"),
        (lambda s, h, r: (s / 127.5 - 1, h, r), DtypeError, "samples spans"),
    ],
)
def test_embedded_frechet_refuses(digits, change, error, sentence):
    train, test = digits
    with pytest.raises(error, match=sentence):
        samples, heldout, real = change(train[:50], test[:50], train[:200])
        metrics.embedded_frechet(samples, heldout, real=real, splits=2)


# ---- worse images are farther away


@pytest.mark.parametrize("name", metrics.EMBEDDED)
@pytest.mark.parametrize("data_set", ["digits", "shapes"])
def test_worse_images_are_farther_away(data_set, name):
    """The larger steps of bench/extractors.py, on fewer images and halvings: the smallest need its N to be seen."""
    images, labels = bench.images_of(data_set, {"digits": 1400, "shapes": 700}[data_set], seed=1)
    steps = {how: amounts[2::2] for how, amounts in bench.STEPS[data_set].items()}
    if (data_set, name) == ("shapes", "randconv-v1"):  # what it sees is mostly the four backgrounds: see the bench
        steps["blur"] = (2.0, 4.0)
    found = bench.responses(name, images, labels, steps, halvings=6, clean=10)
    assert found["floor"] > 0 and list(found["responses"]) == list(steps)
    for how, r in found["responses"].items():
        assert r["monotone"], (how, r["distance"])
        assert r["z"][-1] > 2, (how, r["z"])


def test_what_the_bench_does_to_images():
    labels = np.repeat(np.arange(4), 25)
    for how, amount in (("dropped classes", 3), ("duplicates", 0.9), ("shuffled blocks", 0.3), ("noise", 0.1)):
        which, spoilt = bench.made_of(how, amount, labels, np.random.default_rng(0))
        counts = np.bincount(which, minlength=100)
        assert len(which) == 100 and counts.sum() == 100
        if how == "dropped classes":
            assert sorted(np.bincount(labels[which], minlength=4).tolist()) == [0, 0, 0, 100] and counts.max() == 4
        if how == "duplicates":
            assert (counts > 0).sum() == 10 and counts.max() == 10
        assert spoilt.sum() == {"shuffled blocks": 30, "noise": 100}.get(how, 0)
    x = RNG.random((20, 8, 8, 1))
    bad = bench.worse(x, "shuffled blocks", 1, np.random.default_rng(1))
    assert np.array_equal(np.sort(bad.reshape(20, -1)), np.sort(x.reshape(20, -1))) and all(
        not np.array_equal(a, b) for a, b in zip(x, bad)
    )


# ---- training


def test_training_learns_and_repeats():
    weights, first = training.train(2, 0)
    again, same = training.train(2, 0)
    assert first == same and all(np.array_equal(weights[k], again[k]) for k in net.shapes())
    assert training.train(30, 0)[1] < 0.9 * first


def test_training_images():
    rng, digits, shapes = tg.Rng(3), load("digits", "train"), load("shapes", "train")
    x, learned = training.batch(digits, shapes, rng, 0)
    assert x.shape == (128, 32, 32, 3) and x.dtype == np.float32 and 0 <= x.min() and x.max() <= 1
    assert {k: (rows.start, rows.stop) for k, (rows, _) in learned.items()} == {
        "digit": (0, 32), "shape": (32, 128), "size": (32, 128), "cell": (32, 128), "colour": (32, 96),
        "background": (32, 96)}  # fmt: skip
    assert np.array_equal(x, training.batch(digits, shapes, rng, 0)[0]) and not np.array_equal(
        x, training.batch(digits, shapes, rng, 1)[0])  # fmt: skip
    still = digits.images[:4, :, :, 0].astype(np.float32) / 255
    plain = resize(still[..., None], (32, 32), "torchmetrics")[..., 0]

    class Still(tg.Rng):
        def uniform(self, name, step, shape, *bounds):
            return tg.Tensor(np.zeros(shape, np.float32))

    # unmoved, it is the extractor's own enlargement
    assert np.abs(training.warped(still, Still(0), 0) - plain).max() < 1e-6
    turned = training.recoloured(shapes.images[:9] / 255.0, rng, 0)
    assert all(any(np.allclose(abs(s - x[..., list(o)]), y) for o in itertools.permutations(range(3))
                   for s in itertools.product((0, 1), repeat=3)) for x, y in zip(shapes.images[:9] / 255.0, turned))
