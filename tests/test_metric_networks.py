"""FID's Inception-v3 and LPIPS: every tap beside the published implementations with seeded weights, numbers recorded
there for machines that lack them, the quirks one by one, and the rule by which a score may be called FID or LPIPS."""

import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import tinygen as tg
from tinygen import metrics
from tinygen.errors import ConfigError, DataError, DtypeError, NonFiniteError, ShapeError
from tinygen.metrics.nets import layers
from tinygen.metrics.nets.features import InceptionFeatures
from tinygen.metrics.nets.inception import CONVOLUTIONS, TAPS, Inception
from tinygen.metrics.nets.trunks import NETS, STEPS, Layer, Trunk, _convolutions, channels
from tinygen.metrics.weights import WeightFile, published

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is not installed with the package
TOLERANCE = 1e-5  # of the largest number of a tap


def published_package(name):
    """A module of the published code, or a skip."""
    pytest.importorskip("torch", reason="PyTorch, in which the published networks are written, is not installed")
    try:
        return __import__(name, fromlist=["x"])
    except (ImportError, RuntimeError) as error:  # torchvision raises the latter beside another build of PyTorch
        pytest.skip(f"{name} cannot be imported: {error}")


@pytest.fixture
def uninitialised(monkeypatch):
    """Networks of torchvision are made without the seconds that their random weights take, which are replaced."""
    init = published_package("torch.nn.init")
    for name in dir(init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(init, name, lambda tensor, *args, **kwargs: tensor)


# ---- seeded weights: uniform numbers of variance 1, a stream that is frozen


class Draw:
    def __init__(self, seed):
        self.stream = np.random.RandomState(seed)

    def __call__(self, *shape, scale=1.0, centre=0.0):
        u = (self.stream.random_sample(shape) - 0.5) * (12**0.5 * scale) + centre
        return u.astype(np.float32)


def he(shape):
    return (2 / np.prod(shape[1:])) ** 0.5


def inception_arrays(seed=0):
    draw, arrays = Draw(seed), {}
    for name, shape in CONVOLUTIONS.items():
        arrays[f"{name}.conv.weight"] = draw(*shape, scale=he(shape))
        for key, scale, centre in (("weight", 0.3, 1), ("bias", 0.2, 0), ("running_mean", 0.2, 0),
                                   ("running_var", 0.4, 1)):
            arrays[f"{name}.bn.{key}"] = draw(shape[0], scale=scale, centre=centre)
    return arrays | {"fc.weight": draw(1008, 2048, scale=1 / 45), "fc.bias": draw(1008)}


def trunk_arrays(net, seed=0):
    draw, arrays = Draw(seed), {}
    for step in STEPS[net]:
        for name, shape in _convolutions(step) if isinstance(step, Layer) else ():
            arrays[f"{name}.weight"], arrays[f"{name}.bias"] = draw(*shape, scale=he(shape)), draw(shape[0], scale=0.1)
    return arrays


def pictures(n, h, w, seed=1, c=3):
    return np.random.RandomState(seed).randint(0, 256, (n, h, w, c)).astype(np.uint8)


def signed(images):
    return (images / np.float32(127.5) - 1).astype(np.float32)


def run(net, x, *args):
    with tg.no_grad():
        return net(tg.Tensor(x), *args)


def close(ours, theirs, what):
    assert ours.shape == theirs.shape, f"{what}: {ours.shape}, published {theirs.shape}"
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= TOLERANCE, f"{what}: relative error {error:.1e}"


@pytest.fixture(scope="module")
def arrays():
    return inception_arrays()


@pytest.fixture(scope="module")
def net(arrays):
    return Inception(arrays)


# ---- beside the published code


def test_inception_is_pytorch_fids(net, arrays, monkeypatch, uninitialised):
    theirs, torch = published_package("pytorch_fid.inception"), published_package("torch")
    state = {name: torch.tensor(a) for name, a in arrays.items()}
    state |= {f"{name}.bn.num_batches_tracked": torch.tensor(0) for name in CONVOLUTIONS}
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: state)
    model = theirs.fid_inception_v3().eval()
    monkeypatch.setattr(theirs, "fid_inception_v3", lambda: model)
    maps = theirs.InceptionV3([0, 1, 2, 3], resize_input=False, normalize_input=False).eval()
    assert sum(a.size for a in arrays.values()) == 23_885_392 and len(CONVOLUTIONS) == 94
    x = signed(pictures(1, 299, 299))
    seen = {}
    model.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, y: seen.update(spatial=y[:, :7]))
    with torch.no_grad():
        y = torch.tensor(x.transpose(0, 3, 1, 2))
        expected = dict(zip(("64", "192", "768", "2048"), maps(y)))
        expected["logits"] = model(y)
    expected["2048"] = expected["2048"][:, :, 0, 0]
    expected |= seen | {"logits_unbiased": expected["logits"] - model.fc.bias.detach()}
    ours = run(net, x, TAPS)
    assert list(ours) == list(TAPS)
    for tap in TAPS:
        e = expected[tap].numpy()
        close(ours[tap].data, e.transpose(0, 2, 3, 1) if e.ndim == 4 else e, tap)


def test_inception_is_the_one_written_in_torch(net, arrays):
    """bench/torch_inception.py, written from the published architecture: for machines with PyTorch alone."""
    torch = published_package("torch")
    from bench.torch_inception import Inception as Theirs
    from bench.torch_inception import folded

    with torch.device("meta"):
        theirs = Theirs()
    state = {name: torch.tensor(a) for name, a in arrays.items()}
    state |= {f"{name}.bn.num_batches_tracked": torch.tensor(0) for name in CONVOLUTIONS}
    theirs.load_state_dict(state, assign=True)
    theirs.eval().requires_grad_(False)
    x = signed(pictures(1, 139, 171))
    y = torch.tensor(x.transpose(0, 3, 1, 2))
    ours, expected = run(net, x, TAPS), theirs(y)
    for other in (expected, folded(theirs)(y)):
        for tap, e in other.items():
            e = e.numpy()
            close(ours[tap].data, e.transpose(0, 2, 3, 1) if e.ndim == 4 else e, tap)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(64, 64), (67, 93)])
def test_trunks_and_distances_are_those_of_lpips(name, size, tmp_path, uninitialised):
    theirs, torch = published_package("lpips"), published_package("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = theirs.LPIPS(net=name, pnet_rand=True, verbose=False).eval()
        spatial = theirs.LPIPS(net=name, pnet_rand=True, verbose=False, spatial=True).eval()
    arrays = trunk_arrays(name)
    slices = {key.split(".", 2)[2]: key for key in model.state_dict() if key.startswith("net.slice")}
    state = model.state_dict() | {slices[k.removeprefix("features.")]: torch.tensor(v) for k, v in arrays.items()}
    model.load_state_dict(state)
    spatial.load_state_dict(state)
    x, y = signed(pictures(2, *size, 1)), signed(pictures(2, *size, 2))
    a, b = (torch.tensor(t.transpose(0, 3, 1, 2)) for t in (x, y))
    with torch.no_grad():
        taps = model.net(model.scaling_layer(a))
        expected, maps = model(a, b).numpy().ravel(), spatial(a, b).numpy()[:, 0]
    shift, scale = (t.numpy().ravel() for t in (model.scaling_layer.shift, model.scaling_layer.scale))
    ours = run(Trunk(name, arrays), (x - shift) / scale)
    assert len(ours) == len(taps) == len(channels(name))
    for k, (mine, other) in enumerate(zip(ours, taps)):
        close(mine.data, other.numpy().transpose(0, 2, 3, 1), f"tap {k}")
    save_file({k: v.numpy() for k, v in state.items() if not k.startswith("lins.")}, tmp_path / "lpips.safetensors")
    distance = metrics.LPIPS(name, tmp_path / "lpips.safetensors")  # the names of lpips' own state
    close(distance(x, y), expected, "distance")
    close(distance(x, y, spatial=True), maps, "map")


# ---- the same without them: recorded where the tests above passed


def test_recorded_inception(net):
    taps = run(net, signed(pictures(1, 299, 299, 5)), TAPS)
    shapes = {"64": (73, 73, 64), "192": (35, 35, 192), "768": (17, 17, 768), "spatial": (17, 17, 7), "2048": (2048,),
              "logits_unbiased": (1008,), "logits": (1008,)}
    for tap, y in taps.items():
        assert y.shape == (1, *shapes[tap])
        mean, corner = INCEPTION[tap]
        assert np.abs(y.data).mean(dtype=np.float64) == pytest.approx(mean, rel=2e-6), tap
        assert y.data.ravel()[-1] == pytest.approx(corner, rel=5e-5, abs=2e-5 * mean), tap


INCEPTION = {
    "64": (1.3016879, 1.857646),
    "192": (1.8636192, 0),
    "768": (12.940684, 9.827796),
    "spatial": (19.893226, 0),
    "2048": (32.785397, 0),
    "logits_unbiased": (45.049805, 19.014997),
    "logits": (45.064581, 19.353724),
}


@pytest.mark.parametrize("name", NETS)
def test_recorded_lpips(name):
    distance = made(name)
    x, y = pictures(3, 64, 80, 1), pictures(3, 64, 80, 2)
    assert distance(x, y) == pytest.approx(LPIPS_RECORDED[name], rel=1e-5)
    assert distance(x, y, spatial=True).shape == (3, 64, 80)
    assert distance(x, y, spatial=True).mean((1, 2)) == pytest.approx(distance(x, y), rel=0.05)


LPIPS_RECORDED = {
    "alex": [0.092169802, 0.09408721, 0.095451933],
    "vgg": [0.13371561, 0.13215474, 0.13186908],
    "squeeze": [0.1308881, 0.12823352, 0.12738497],
}


def made(name, sha256="0" * 64):
    return metrics.LPIPS(name, WeightFile(trunk_arrays(name), sha256, "safetensors", Path("w")))


# ---- quirks, and both ways to compute


def naive_pool(x, kind, size, stride, padding, ceil):
    n, H, W, c = x.shape
    sides = []
    for length in (H, W):
        starts = list(range(-padding, length + padding - size + 1, stride))
        if ceil and starts[-1] + size < length + padding and starts[-1] + stride < length + padding:
            starts.append(starts[-1] + stride)
        sides.append(starts)
    y = np.empty((n, *map(len, sides), c))
    for i, h in enumerate(sides[0]):
        for j, w in enumerate(sides[1]):
            window = x[:, max(h, 0) : h + size, max(w, 0) : w + size]
            y[:, i, j] = window.max((1, 2)) if kind == "max" else window.mean((1, 2))
    return y


@pytest.mark.parametrize("kind, size, stride, padding, ceil", [
    ("max", 3, 2, 0, False), ("max", 3, 2, 0, True), ("max", 2, 2, 0, False), ("max", 3, 1, 1, False),
    ("mean", 3, 1, 1, False)])
@pytest.mark.parametrize("shape", [(2, 7, 9, 5), (1, 8, 6, 3), (1, 4, 3, 17)])
def test_pools(kind, size, stride, padding, ceil, shape):
    """Means leave out the padding, maxima never see it; as one pass and as recorded operations."""
    x = np.random.RandomState(0).standard_normal(shape).astype(np.float32) - 3
    expected = naive_pool(x, kind, size, stride, padding, ceil)
    recorded = layers.pool(tg.Tensor(x, requires_grad=True), kind, size, stride, padding, ceil)
    for y in (run(layers.pool, x, kind, size, stride, padding, ceil), recorded):
        np.testing.assert_allclose(y.data, expected, rtol=2e-6)


def test_pools_and_bias_keep_what_is_not_finite():
    x = np.zeros((1, 5, 5, 2), np.float32)
    x[0, 2, 2] = np.nan, np.inf
    for kind in ("max", "mean"):
        y = run(layers.pool, x, kind, 3, 1, 1).data
        assert np.isnan(y[0, 1:4, 1:4, 0]).all() and np.isinf(y[0, 1:4, 1:4, 1]).all() and not y[0, 0].any()
    y = run(layers.bias_relu, x.copy(), tg.Tensor(np.array([-1, 1], np.float32))).data
    assert np.isnan(y[0, 2, 2, 0]) and np.isinf(y[0, 2, 2, 1]) and set(np.unique(y[0, 0])) == {0, 1}


def test_folding():
    """Convolution, then batch normalisation with running statistics, term by term."""
    draw = Draw(3)
    arrays = {"c.conv.weight": draw(4, 3, 1, 1), "c.bn.weight": draw(4, centre=1), "c.bn.bias": draw(4),
              "c.bn.running_mean": draw(4), "c.bn.running_var": draw(4, scale=0.2, centre=1)}
    x = draw(2, 5, 6, 3)
    w, gamma, beta, mean, var = (a.astype(np.float64) for a in arrays.values())
    y = (x @ w[:, :, 0, 0].T - mean) / np.sqrt(var + 0.001) * gamma + beta
    conv = layers.fold(arrays, "c", (4, 3, 1, 1), 0.001, "w")
    np.testing.assert_allclose(run(layers.conv_relu, x, conv).data, np.maximum(y, 0), rtol=1e-5, atol=1e-6)


def test_recorded_and_watched_networks_compute_the_same(net):
    x = signed(pictures(1, 91, 107))
    plain = run(net, x, TAPS)
    recorded = net(tg.Tensor(x, requires_grad=True), TAPS)
    seen = []
    with tg.tape.observe(lambda op, *rest: seen.append(op.name)), tg.no_grad():
        watched = net(tg.Tensor(x), TAPS)
    assert seen.count("conv2d") == 94 and seen.count("relu") == 94 and seen.count("max_pool2d") == 5
    for tap in TAPS:
        for other in (recorded, watched):
            close(other[tap].data, plain[tap].data, tap)


def test_a_trunk_can_be_differentiated():
    trunk = Trunk("alex", trunk_arrays("alex"))
    x = tg.Tensor(signed(pictures(1, 48, 48)), requires_grad=True)
    y = sum((t * t).mean() for t in trunk(x))
    (g,) = tg.grad(y, [x])
    norm = float(np.linalg.norm(g.data))
    ahead, behind = (sum(float((t.data**2).mean(dtype=np.float64)) for t in run(trunk, x.data + g.data * (s / norm)))
                     for s in (5e-3, -5e-3))
    assert (ahead - behind) / 1e-2 == pytest.approx(norm, rel=1e-2)


def test_only_what_a_tap_needs_is_computed(net, monkeypatch):
    calls = []
    original = Inception._conv
    monkeypatch.setattr(Inception, "_conv", lambda self, x, *p: calls.extend(p) or original(self, x, *p))
    run(net, signed(pictures(1, 91, 91)), ("64",))
    assert calls == ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"]


# ---- bad input


@pytest.mark.parametrize("change, word", [
    ({"fc.weight": None}, "lacks 'fc.weight'"),
    ({"Mixed_5b.branch1x1.conv.weight": np.zeros((64, 192, 3, 3), np.float32)}, "64×192×3×3 where the network needs "
                                                                                 "floats 64×192×1×1"),
    ({"Mixed_5b.branch1x1.bn.bias": np.zeros(64, np.int64)}, "int64 64 where the network needs floats 64"),
    ({"Mixed_7c.branch_pool.bn.running_var": np.full(192, -1, np.float32)}, "a negative variance"),
    ({"fc.bias": np.full(1008, np.nan, np.float32)}, "values that are not finite"),
    ({"AuxLogits.fc.bias": np.zeros(3, np.float32)}, "torchvision's own Inception-v3, which is another network"),
    ({"layer1.0.conv1.weight": np.zeros(3, np.float32)}, "which FID's Inception has not"),
])
def test_weights_of_another_network(arrays, change, word):
    mixed = {k: v for k, v in (arrays | change).items() if v is not None}
    with pytest.raises(DataError, match=word):
        Inception(mixed, "w.pth")


def test_trunks_refuse():
    with pytest.raises(DataError, match="lacks 'features.0.weight'; it holds the weights of another network"):
        Trunk("alex", {"x": np.zeros(3)})
    with pytest.raises(DataError, match="64×3×3×3 where the network needs floats 64×3×11×11"):
        Trunk("alex", trunk_arrays("vgg"))
    with pytest.raises(ConfigError, match="unknown network 'alexnet'; .* did you mean 'alex'"):
        Trunk("alexnet", {})
    with pytest.raises(ShapeError, match="at least 31×31"):
        run(Trunk("alex", trunk_arrays("alex")), np.zeros((1, 30, 64, 3), np.float32))
    for name, least in (("alex", 31), ("squeeze", 17), ("vgg", 16)):
        assert run(Trunk(name, trunk_arrays(name)), np.zeros((1, least, least, 3), np.float32))[-1].size > 0


def test_inception_refuses(net):
    with pytest.raises(ConfigError, match="unknown tap '100'; there are 64, 192"):
        run(net, np.zeros((1, 99, 99, 3), np.float32), ("100",))
    with pytest.raises(ConfigError, match="of none"):
        run(net, np.zeros((1, 99, 99, 3), np.float32), ())
    with pytest.raises(ShapeError, match="at least 75×75"):
        run(net, np.zeros((1, 74, 99, 3), np.float32))
    assert run(net, np.zeros((1, 75, 75, 3), np.float32))["2048"].shape == (1, 2048)


def test_lpips_refuses(tmp_path):
    distance, x = made("squeeze"), pictures(1, 32, 32)
    for bad, error, word in ((x[..., :2], ShapeError, "C = 3, or 1"), (x.astype(int), DtypeError, "uint8 in 0..255"),
                             (signed(x) * 2, DtypeError, "lie in"), (signed(x) * np.nan, NonFiniteError, "not finite")):
        with pytest.raises(error, match=word):
            distance(bad, bad)
    with pytest.raises(ShapeError, match="pairs of one shape"):
        distance(x, x[:, :-1])
    heads = Path(metrics.__file__).parent / "nets" / "heads"
    with pytest.raises(DataError, match="no heads of LPIPS for this network"):
        metrics.LPIPS("squeeze", WeightFile(trunk_arrays("squeeze"), "0" * 64, "", Path("w")), heads / "alex.pth")
    with pytest.raises(DataError, match="lacks 'features.0.weight'"):
        metrics.LPIPS("squeeze", heads / "squeeze.pth")
    with pytest.raises(DataError, match="cannot read"):
        metrics.lpips(x, x, net="squeeze", weights=tmp_path / "none.pth")


# ---- LPIPS on arrays


def test_lpips_on_arrays(tmp_path, monkeypatch):
    save_file(trunk_arrays("squeeze"), tmp_path / "s.safetensors")
    distance = lambda *a, **k: metrics.lpips(*a, net="squeeze", weights=tmp_path / "s.safetensors", **k)
    x, y = pictures(5, 40, 36, 1), pictures(5, 40, 36, 2)
    d = distance(x, y)
    assert d.shape == (5,) and d.dtype == np.float64 and (d > 0).all() and not distance(x, x).any()
    assert distance(y, x) == pytest.approx(d, rel=1e-6) and distance(signed(x), signed(y)) == pytest.approx(d, rel=1e-6)
    monkeypatch.setattr("tinygen.metrics.nets.perceptual.PIXELS", 2 * 40 * 36)
    assert distance(x, y) == pytest.approx(d, rel=1e-6)  # whatever the size of a block
    assert distance(x[:0], y[:0]).shape == (0,) and distance(x[:0], y[:0], spatial=True).shape == (0, 40, 36)
    grey = x[..., :1]
    assert distance(grey, grey[::-1]) == pytest.approx(distance(*(np.repeat(g, 3, 3) for g in (grey, grey[::-1]))))
    with pytest.warns(UserWarning, match=r"use 2·x − 1"):
        distance(x / 255, y / 255)
    before = distance(x, y)
    save_file(trunk_arrays("squeeze", seed=9), tmp_path / "s.safetensors")
    assert not np.allclose(distance(x, y), before)  # a file that changed is read again


# ---- the names


def details(n_real, n_fake, dims=2048):
    return types.SimpleNamespace(n_real=n_real, n_fake=n_fake, dims=dims, route="symmetric")


@pytest.mark.parametrize("sha256, resize, tap, n, begins", [
    (published.FID_INCEPTION, "tf1", "2048", (10_000, 50_000), "FID[inception-2015-12-05/2048 | tf1 299x299 | "
                                                              "N=10000/50000 | ddof1 | symmetric]"),
    (published.FID_INCEPTION, "pytorch-fid", "2048", (10_000, 10_000), "FID[inception-2015-12-05/2048 | pytorch-fid"),
    (published.FID_INCEPTION, "clean", "2048", (10_000, 10_000), "clean-FID[inception-2015-12-05/2048 | clean"),
    (published.FID_INCEPTION, "torchmetrics", "2048", (10_000, 10_000), "FD[inception-2015-12-05/2048 | torchmetrics"),
    (published.FID_INCEPTION, "tf1", "2048", (50_000, 9_999), "FD[inception-2015-12-05/2048 | tf1 299x299 | N=50000"),
    (published.FID_INCEPTION, "tf1", "768", (50_000, 50_000), "FD["),
    (published.FID_INCEPTION[:-1] + "0", "tf1", "2048", (50_000, 50_000), "FD[inception-6726825d/2048 | tf1"),
    ("ab" * 32, "tf1", "2048", (50_000, 50_000), "FD[inception-abababab/2048 | tf1 299x299"),
])
def test_when_a_distance_is_called_fid(arrays, sha256, resize, tap, n, begins):
    e = InceptionFeatures(WeightFile(arrays, sha256, "torch legacy", Path("w")), resize, tap)
    assert metrics.frechet_label(e, (32, 32), details(*n)).startswith(begins)


def test_when_a_distance_is_called_lpips():
    assert made("alex", published.TRUNKS["alex"]).label == "LPIPS[alex v0.1]"
    assert made("alex", published.TRUNKS["vgg"]).label == "perceptual distance[alex 397923af | heads v0.1]"
    assert made("alex").label == "perceptual distance[alex 00000000 | heads v0.1]"


def test_the_extractor(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr("tinygen.metrics.nets.features.BLOCK", 2)
    save_file(arrays, tmp_path / "w.safetensors")
    e = metrics.extractor("inception", weights=tmp_path / "w.safetensors", resize="clean")
    x = pictures(3, 20, 30)
    features = e(x)
    assert features.shape == (3, 2048) and features.dtype == np.float64 and e.digest.startswith("sha256:")
    np.testing.assert_allclose(e(x[2:]), features[2:], rtol=1e-5, atol=1e-4)
    both = e.taps(x[:1], ("spatial", "64", "logits_unbiased"))
    assert {k: v.shape for k, v in both.items()} == {"spatial": (1, 2023), "64": (1, 64), "logits_unbiased": (1, 1008)}
    assert e(x[:0]).shape == (0, 2048)
    other = metrics.extractor("inception", weights=tmp_path / "w.safetensors")
    assert other.digest != e.digest and other.name == e.name == f"inception-{e.sha256[:8]}"
    assert metrics.frechet_label(e, (20, 30), details(5, 5)).startswith(f"FD[{e.name}/2048 | clean 299x299 | N=5/5")
    with pytest.raises(ConfigError, match="needs weights="):
        metrics.extractor("inception")
    with pytest.raises(ConfigError, match="has no size="):
        metrics.extractor("inception", weights="x", size="3")
    with pytest.raises(ConfigError, match="unknown resizer"):
        metrics.extractor("inception", weights="x", resize="tf2")
    with pytest.raises(ConfigError, match="unknown tap"):
        metrics.extractor("inception", weights="x", tap="4096")
    with pytest.raises(ConfigError, match="has no weights"):
        metrics.extractor("pixels", weights="x")
    with pytest.raises(DtypeError, match="round yours to uint8"):
        e(x / 255)
