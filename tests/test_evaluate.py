"""Evaluation: folders, archives, saved statistics and runs by metrics of choice; the card; what it refuses."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from PIL import Image

import tinygen as tg
from tinygen import cli, metrics, sheet
from tinygen.data import exact
from tinygen.evaluate import METRICS, judge
from tinygen.metrics import battery, card, saved

HERE = Path(__file__).parent
TEST, TRAIN = (tg.data.load("digits", part).images for part in ("test", "train"))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def folder(name, images, ending=".png"):
    Path(name).mkdir(parents=True)
    for i, x in enumerate(images):
        Image.fromarray(x[..., 0] if x.shape[2] == 1 else x).save(Path(name, f"{i}{ending}"))
    return name


def noisy(x, sd=20, seed=0):
    return np.clip(x + np.random.default_rng(seed).normal(0, sd, x.shape), 0, 255).astype(np.uint8)


def call(capsys, *argv):
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, text, *argv):
    """Exit code 2, one sentence, and no file made."""
    before = sorted(Path().rglob("*"))
    code, out, err = call(capsys, "evaluate", *argv)
    assert code == 2 and not out and err.startswith("tinygen: ") and err.count("\n") == 1, err
    assert text in err, err
    assert sorted(Path().rglob("*")) == before


# ---- what can be judged


def test_folders_archives_and_sets_are_one_thing(capsys):
    folder("a", TEST[:60])
    folder("deep/x/y", TRAIN[:50])
    np.savez("b.npz", images=TRAIN[:50])
    np.savez("c.npz", arr_0=TRAIN[:50].astype(np.float32) / 127.5 - 1)
    np.savez("d.npz", images=TRAIN[:50, ..., 0] / 255.0)
    values = []
    for what in ("deep", "b.npz", "c.npz", "d.npz"):
        r = judge(what, against="a", chosen=["frechet", "precision-recall"]).result
        values.append([[s["value"] for s in v] for v in r["scores"].values()])
        assert r["n"] == 50 and r["subject"]["digest"] == sheet.digest(TRAIN[:50])
    assert all(v == values[0] for v in values[1:])
    direct = [metrics.precision_recall(real=e(TEST[:60]), fake=e(TRAIN[:50]))
              for e in map(metrics.extractor, ("randconv-v1", "attributes-v1"))]  # fmt: skip
    assert values[0][1] == [direct[0].precision, direct[0].recall, direct[1].precision, direct[1].recall]
    whole = judge("a", against="digits:train", chosen=["kid"], extractors=["pixels"]).result["scores"]["kid"][0]
    e = metrics.extractor("pixels")
    assert whole["value"] == metrics.kernel_distance(real=e(TRAIN), fake=e(TEST[:60])) and whole["n_real"] == 899
    assert "drawn by seed 3" in judge("a", n=10, seed=3, chosen=["vendi"]).result["notes"][0]


def test_the_frechet_distance_has_its_floor(capsys):
    np.savez("real.npz", images=TEST)
    folder("fake", noisy(TRAIN[:200]))
    r = judge("fake", against="real.npz", chosen=["frechet"], extractors=["randconv-v1"]).result["scores"]["frechet"][0]
    e = metrics.extractor("randconv-v1")
    rel = metrics.relative_frechet(e(noisy(TRAIN[:200])), e(TEST), real=e(TEST))
    assert (r["value"], r["ratio"], r["floor"]["mean"], r["floor"]["sd"]) == pytest.approx(
        (rel.value, rel.ratio, rel.floor.mean, rel.floor.sd), rel=1e-9)  # fmt: skip
    assert r["extractor"] == {"name": "randconv-v1", "digest": e.digest, "dims": 32} and not r["floor"]["scaled"]
    assert (r["n_real"], r["n_fake"], r["floor"]["n"], r["route"]) == (200, 200, 200, "cholesky")
    # too few real images for two sets of that size: the floor of halves, scaled by 1/N
    np.savez("few.npz", images=TEST[:200])
    r = judge("fake", against="few.npz", chosen=["frechet"], extractors=["randconv-v1"]).result["scores"]["frechet"][0]
    half = metrics.real_floor(e(TEST[:200]), 100)
    assert r["floor"]["scaled"] and r["floor"]["n"] == 100 and r["floor"]["mean"] == pytest.approx(half.mean / 2)
    assert r["value"] == metrics.frechet_distance(e(TEST[:200]), e(noisy(TRAIN[:200])))
    assert "scaled to this N" in battery.Score(**{**r, "sentence": None}).line
    floor = metrics.real_floor(e(TEST), 200)  # what scaling estimates
    assert r["floor"]["mean"] == pytest.approx(floor.mean, rel=0.25)


def test_statistics_are_saved_and_used_again(capsys):
    folder("real", TEST[:150])
    folder("fake", TRAIN[:120])
    whole = judge("fake", against="real", chosen=["frechet"]).result["scores"]["frechet"]
    assert call(capsys, "evaluate", "real", "--metric", "vendi", "--save-statistics", "real.npz")[0] == 0
    again = judge("fake", against="real.npz").result["scores"]["frechet"]
    assert [s["label"].split(" | ")[0] for s in again] == ["FD[randconv-v1/32", "FD[attributes-v1/64"]
    e = metrics.extractor("randconv-v1")
    assert again[0]["value"] == pytest.approx(metrics.frechet_distance(e(TEST[:150]), e(TRAIN[:120])), rel=1e-9)
    assert again[0]["floor"]["n"] == 75 and again[0]["floor"]["scaled"] and len(whole) == 2
    with np.load("real.npz") as file:  # pytorch-fid's own format, and more
        assert file["mu"].shape == (32,) and file["sigma"].shape == (32, 32) and file["n"] == 150
        assert e.digest in str(file["label"]) and "native 8x8" in str(file["label"])
    equal = judge("real.npz", against="real.npz").result["scores"]["frechet"]
    assert [abs(s["value"]) < 1e-9 for s in equal] == [True, True]
    assert equal[0]["label"] == "FD[randconv-v1/32 | native 8x8 | N=150/150 | ddof1 | cholesky]"
    refused(capsys, "saved statistics are of 'randconv-v1/32", "fake", "--against", "real.npz", "--metric", "frechet",
            "--extractor", "pixels")  # fmt: skip
    refused(capsys, "needs the images of both sets", "fake", "--against", "real.npz", "--metric", "kid")
    refused(capsys, "the metric 'vendi' needs images", "real.npz", "--metric", "vendi")
    refused(capsys, "holds statistics alone", "real.npz")
    refused(capsys, "no images to take others of", "real.npz", "--against", "fake", "--save-statistics", "x.npz")
    folder("large", np.zeros((9, 9, 9, 1), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None, None])
    refused(capsys, "saved statistics are of", "large", "--against", "real.npz")


def test_statistics_of_others(capsys, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 5))
    mu, sigma = x.mean(0), np.cov(x.T)
    np.savez("theirs.npz", mu=mu, sigma=sigma)
    with pytest.raises(tg.DataError, match="--count N"):
        saved.load("theirs.npz")
    (only,) = saved.load("theirs.npz", 50)
    assert only.statistics.n == 50 and only.statistics.covariance() == pytest.approx(sigma) and only.floor is None
    for parts, text in (
        ({"mu": mu}, "holds no mu and sigma"),
        ({"mu": mu, "sigma": sigma[:4]}, "D and D,D"),
        ({"mu": mu, "sigma": sigma.astype(int)}, "floating-point"),
        ({"mu": mu, "sigma": np.triu(sigma) + 1}, "no covariance"),
        ({"mu": mu, "sigma": -np.eye(5)}, "no covariance"),
    ):
        np.savez("bad.npz", **parts)
        with pytest.raises(tg.DataError, match=text):
            saved.load("bad.npz", 50)
    np.savez("bad.npz", mu=mu * np.nan, sigma=sigma)
    with pytest.raises(tg.DataError, match="not finite"):
        saved.load("bad.npz", 50)
    np.savez("bad.npz", mu=np.array([{}], object), sigma=sigma)
    with pytest.raises(tg.DataError, match="pickled"):
        saved.load("bad.npz", 50)
    Path("cut.npz").write_bytes(Path("theirs.npz").read_bytes()[:-40])
    with pytest.raises(tg.DataError, match="truncated or damaged"):
        saved.load("cut.npz", 50)


def test_pairs_by_name(capsys):
    x = np.random.default_rng(0).integers(0, 256, (6, 16, 17, 3), dtype=np.uint8)
    folder("x", x)
    folder("y", noisy(x), ".bmp")
    r = judge("y", against="x", chosen=["psnr", "ssim"]).result["scores"]
    assert r["psnr"][0]["value"] == pytest.approx(metrics.psnr(x, noisy(x), data_range=255))
    assert r["ssim"][0]["value"] == pytest.approx(metrics.ssim(x, noisy(x), data_range=255))
    assert r["psnr"][0]["label"] == "PSNR[L=255 | 6 pairs]" and r["psnr"][0]["n_fake"] == 6
    equal = judge("x", against="x", chosen=["psnr"]).result
    assert equal["scores"]["psnr"][0]["value"] is None and "6 pairs are equal" in equal["lines"][0]
    json.dumps(equal, allow_nan=False)
    folder("one", x[:1])
    folder("partner", noisy(x[:1]))
    assert judge("partner", against="one", chosen=["psnr"]).result["n"] == 1  # a pair needs no second one
    Path("y/5.bmp").unlink()
    refused(capsys, "1 names are in one of them only, such as '5' in x", "y", "--against", "x", "--metric", "psnr")
    Path("x/4.jpg").write_bytes(Path("x/4.png").read_bytes())
    refused(capsys, "differ only in their ending", "x", "--against", "y", "--metric", "psnr")
    refused(capsys, "the metric 'lpips' needs --weights", "one", "--against", "partner", "--metric", "lpips")


def test_labels_of_samples_that_were_asked_for(capsys):
    labels = tg.data.load("digits", "train").labels
    np.savez("asked.npz", images=TRAIN[:100], labels=labels[:100])
    r = judge("asked.npz", against="digits:test", train="digits:train", chosen=["labels"]).result
    assert r["scores"]["labels"][0]["details"]["agreement"] > 0.95 and "are what they were to be" in r["lines"][0]
    argv = ("asked.npz", "--against", "asked.npz", "--metric", "labels")
    refused(capsys, "the metric 'labels' reads 8×8 grey digits", *argv)


def test_drawings_are_read_by_the_parser():
    shapes = tg.data.load("shapes", "test", jitter=False)
    np.savez("s.npz", images=shapes.images[:60], captions=np.array(shapes.captions[:60]))
    r = judge("s.npz", against="shapes:test", n=60, chosen=["attributes"]).result["scores"]["attributes"]
    assert r[0]["value"] == 60 and r[1]["value"] == 1.0


# ---- what is read, and what is refused


def save(name, mode, **options):
    Path("p").mkdir(exist_ok=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).convert(mode)
    image.save(f"p/{name}", **options)
    return f"p/{name}"


def test_what_changes_no_pixel_is_done_and_said():
    grey = np.asarray(Image.open(save("0.png", "L")))
    save("1.png", "P")
    save("2.png", "RGB")
    save("3.png", "RGBA")
    found = exact.read_folder("p")
    assert found.images.shape == (4, 8, 8, 3) and found.names == ["0.png", "1.png", "2.png", "3.png"]
    assert all(np.array_equal(x, np.repeat(grey[..., None], 3, 2)) for x in found.images)
    assert found.notes == ["1 of 4 pictures: palette, looked up", "1 of 4 pictures: alpha, opaque everywhere, dropped",
                           "1 of 4 pictures: grey, repeated to three channels"]  # fmt: skip
    save("4.jpg", "L")
    assert exact.read_folder("p").notes[-1].startswith("1 of 5 pictures are JPEG")


def sixteen():
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(f"{folder('q', [])}/0.png")


def sixteen_colour():
    """Pillow would reduce it to 8 bits without a word."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    Path(folder("q", []), "0.png").write_bytes(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def alpha():
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(f"{folder('q', [])}/0.png")


def clear_palette():
    image = Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P")
    image.save(f"{folder('q', [])}/0.png", transparency=0)


def cmyk():
    Image.new("CMYK", (8, 8)).save(f"{folder('q', [])}/0.jpg")


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(f"{folder('q', [])}/0.jpg", exif=exif)


def animation():
    frames = [Image.new("L", (8, 8), v) for v in (0, 200)]
    frames[0].save(f"{folder('q', [])}/0.gif", save_all=True, append_images=frames[1:])


def mixed():
    folder("q", [TEST[0], TEST[1], np.zeros((9, 8, 1), np.uint8)])


def cut():
    path = Path(folder("q", TEST[:2]), "1.png")
    path.write_bytes(path.read_bytes()[:60])


def archive(**arrays):
    np.savez("q", **arrays)


@pytest.mark.parametrize("make, text", [
    (sixteen, "has 16 bits per channel"), (sixteen_colour, "has 16 bits per channel"),
    (alpha, "is transparent (alpha down to 128)"), (clear_palette, "is transparent (alpha down to 0)"),
    (cmyk, "is a picture of the kind CMYK"), (turned, "turned by its EXIF orientation"),
    (animation, "is an animation of 2 frames"),
    (mixed, "q has pictures of different sizes: 0.png is 8×8 and 2.png is 8×9"),
    (cut, "cannot be decoded as a picture"), (lambda: folder("q", []), "q holds no pictures"),
    (lambda: folder("q", TEST[:1]), "q holds 1 image; a score of a set needs at least 2"),
])  # fmt: skip
def test_folders_that_are_not_judged(capsys, make, text):
    make()
    refused(capsys, text, "q", "--against", "digits:test")
    refused(capsys, text, "digits:test", "--against", "q", "-n", "20")


@pytest.mark.parametrize("arrays, text", [
    ({"images": TEST[:5] / 1.0}, "spans [0, 255]; float images lie in [0, 1] or [-1, 1]"),
    ({"images": np.full((3, 8, 8, 1), np.nan)}, "192 values that are not finite"),
    ({"images": TEST[:5].astype(np.uint16)}, "is uint16; images are uint8"),
    ({"images": np.zeros((3, 8, 8, 4), np.uint8)}, "looks like alpha"),
    ({"images": np.zeros((3, 3, 8, 8), np.uint8)}, ".transpose(0, 2, 3, 1)"),
    ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, "at least one"),
    ({"images": TEST[:1]}, "q.npz holds 1 image; a score of a set needs at least 2"),
    ({"pictures": TEST[:5]}, "should have an array 'images' or 'arr_0'"),
    ({"images": np.array([{}, {}], object)}, "holds pickled Python objects"),
    ({"images": TEST[:5], "labels": np.zeros(4, int)}, "one for each of the 5 images"),
    ({"images": np.zeros((5, 9, 8, 1), np.uint8)}, "q.npz has pictures of 8×9 pixels and digits:test of 8×8"),
    ({"images": np.zeros((5, 4, 4, 1), np.uint8)}, "the embedded extractors need at least 8×8"),
])  # fmt: skip
def test_archives_that_are_not_judged(capsys, arrays, text):
    archive(**arrays)
    refused(capsys, text, "q.npz", "--against", "digits:test")


def test_other_requests_that_get_a_sentence(capsys):
    archive(images=TEST[:5])
    Path("cut.npz").write_bytes(Path("q.npz").read_bytes()[:200])
    Path("text.npz").write_text("hello")
    folder("a", TEST[:3])
    for text, *argv in (
        ("damaged", "cut.npz"),
        ("text.npz", "text.npz"),
        ("is a single picture", "a/0.png"),
        ("nothing of that name exists; did you mean 'digits'?", "digit"),
        ("split must be one of 'train', 'test', not 'tset'", "digits:tset"),
        ("there is no metric 'fidd'; did you mean 'fid'?", "q.npz", "--metric", "fidd"),
        ("unknown extractor 'randconf'", "q.npz", "--extractor", "randconf"),
        ("extractor 'inception' needs weights=", "q.npz", "--extractor", "inception"),
        ("compares two sets; name the other one with --against", "q.npz", "--metric", "frechet"),
        ("needs the images that the generator learned from", "q.npz", "--metric", "authpct"),
        ("needs training images beside held-out ones", "q.npz", "--against", "a", "--metric", "memorisation"),
        ("only a run has a model to ask", "q.npz", "--metric", "model"),
        ("no --weights were given", "q.npz", "--against", "a", "--metric", "fid"),
        ("needs --weights", "q.npz", "--metric", "inception"),
        ("cannot read none.pth", "q.npz", "--weights", "none.pth"),
        ("card.pdf: give the file the ending .png or .json", "q.npz", "-o", "card.pdf"),
        ("there is no folder no; make it first", "q.npz", "-o", "no/card.png"),
        ("there is no folder no; make it first", "q.npz", "--save-statistics", "no/s.npz"),
        ("-n must be a whole number of at least 2", "q.npz", "-n", "1"),
        ("unknown resizer 'tf2'; there are", "q.npz", "--resize", "tf2"),
        ("q.npz and a are not pairs", "q.npz", "--against", "a", "--metric", "psnr"),
        ("sides of at least 11 px", "a", "--against", "a", "--metric", "ssim"),
    ):  # fmt: skip
        refused(capsys, text, *argv)


def test_a_folder_that_cannot_be_written_to(capsys, monkeypatch):
    archive(images=TEST[:5])
    Path("shut").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(capsys, "cannot be written", "q.npz", "-o", "shut/card.png")


def test_weights_that_are_not_the_published_ones(capsys):
    """Tiny stand-ins: what counts is by which names they are known, and that none is called FID."""
    from safetensors.numpy import save_file

    archive(images=TEST[:5])
    save_file({"encoder.w": np.zeros(3, np.float32)}, "other.safetensors")
    refused(capsys, "holds neither Inception-v3 nor a trunk of LPIPS", "q.npz", "--weights", "other.safetensors")
    save_file({"Mixed_5b.branch1x1.conv.weight": np.zeros((64, 192, 1, 1), np.float32)}, "part.safetensors")
    code, _, err = call(capsys, "evaluate", "q.npz", "--weights", "part.safetensors")
    assert code == 2 and "part.safetensors" in err and err.count("\n") == 1

    class Stand:
        name, path, resize, published, sha256, digest = "inception-0", "tf1 299x299", "tf1", False, "0" * 64, "sha256:0"

    with pytest.raises(tg.ConfigError, match="of the published Inception weights alone, and the file given has the "
                                             "digest 0000"):
        battery.measure("fid", battery.Sets(TEST[:5], TEST[:5], inception=Stand()))


@pytest.mark.parametrize("net, layers", [
    ("squeeze", {"features.0": (64, 3, 3, 3), "features.3.squeeze": (16, 64, 1, 1)}),
    ("vgg", {"features.0": (64, 3, 3, 3), "features.28": (512, 512, 3, 3)}),
    ("alex", {"features.0": (64, 3, 11, 11), "features.10": (256, 256, 3, 3)}),
])  # fmt: skip
def test_a_trunk_is_known_by_its_names(net, layers):
    """By torchvision's and by those of the package lpips; one network, whole, is scored."""
    from tinygen.metrics.nets.trunks import STEPS, Layer, _convolutions
    from tinygen.metrics.networks import Networks, _trunk
    from tinygen.metrics.weights import WeightFile

    assert _trunk(WeightFile({f"{k}.weight": np.zeros(v) for k, v in layers.items()}, "0", "", Path())) == net
    if net != "squeeze":
        return
    from safetensors.numpy import save_file

    draw, arrays = np.random.RandomState(0).standard_normal, {}
    for step in STEPS[net]:
        for name, shape in _convolutions(step) if isinstance(step, Layer) else ():
            arrays[f"{name}.weight"] = (draw(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
            arrays[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    save_file(arrays, "squeeze.safetensors")
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    folder("x", x)
    folder("y", noisy(x))
    r = judge("y", against="x", chosen=["lpips"], weights=["squeeze.safetensors"]).result["scores"]["lpips"][0]
    direct = metrics.LPIPS("squeeze", "squeeze.safetensors")(noisy(x), x)
    assert r["value"] == pytest.approx(direct.mean()) and r["label"].startswith("perceptual distance[squeeze ")
    assert Networks(["squeeze.safetensors"], "tf1").inception is None


# ---- the card


def test_the_card_has_the_keys_that_it_documents(capsys):
    archive(images=noisy(TRAIN[:60]))
    assert call(capsys, "evaluate", "q.npz", "--against", "digits:test", "--train", "digits:train", "--metric", "all",
                "-o", "card.json", "-o", "card.png")[0] == 0  # fmt: skip
    found = json.loads(Path("card.json").read_text())
    for key in ("card tinygen versions time seconds subject against train against_name seed n scores notes "
                "lines").split():
        assert key in found
    wanted = [m for m in METRICS if m not in ("fid", "inception", "attributes", "psnr", "ssim", "lpips", "model")]
    assert list(found["scores"]) == wanted and found["card"] == 1
    fields = ("metric label value better n_real n_fake interval deviation floor ratio ratio_error extractor resize "
              "dtype route "
              "seed notes details").split()  # fmt: skip
    assert all(set(s) == set(fields) for v in found["scores"].values() for s in v)
    assert all(s["n_fake"] == 60 and s["interval"] for s in found["scores"]["kid"])
    assert found["subject"]["size"] == [8, 8, 1] and found["train"]["n"] == 899
    with Image.open("card.png") as picture:
        assert picture.size[0] == card.WIDTH and picture.size[1] > 500


def test_the_spectrum_of_known_images():
    y, x = np.mgrid[:16, :16]
    wave = 0.5 + 0.25 * np.cos(2 * np.pi * 3 * x / 16)[None, ..., None] + 0 * y[None, ..., None]
    f, p = card.spectrum(wave)
    assert f == pytest.approx(np.arange(1, 9) / 16) and p.argmax() == 2
    assert p[[0, 1, 3, 4]] == pytest.approx(0, abs=1e-12)
    noise = np.random.default_rng(0).normal(0.5, 0.05, (400, 12, 15, 3)).clip(0, 1)
    f, p = card.spectrum(noise)  # white: each frequency has the variance of the mean of three channels
    assert p == pytest.approx(0.05**2 / 3, rel=0.1) and len(p) == 6


def test_the_plane_shows_what_spreads_most():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)) * [9, 3, 0.1, 0.1, 0.1, 0.1]
    s = card.plane("x", x[:150], x[150:])
    assert s.real.shape == s.fake.shape == (150, 2) and s.shares == pytest.approx((0.9, 0.1), abs=0.03)
    assert s.real.std(0) == pytest.approx(x[:150, :2].std(0), rel=0.05)
    flat = card.plane("one", np.zeros((3, 1)), np.ones((3, 1)))
    assert flat.real.shape == (3, 2) and np.isfinite(flat.real).all()


def test_text_is_spelled_in_letters_that_can_be_drawn():
    assert card.spelled("Fréchet 1–2 ± 3, MMD² 8×8, FD∞, 数") == "Frechet 1-2 ± 3, MMD2 8x8, FDinf, ?"


def test_a_picture_of_what_little_there_is():
    for images in (np.zeros((2, 8, 8, 1), np.uint8), np.full((3, 9, 30, 3), 200, np.uint8)):
        drawn = card.draw("é" * 10, "about", ["a long line " * 30], images, images, real=images,
                          scatters=[card.plane("x", np.zeros((2, 3)), np.zeros((2, 3)))])  # fmt: skip
        assert drawn.dtype == np.uint8 and drawn.shape[1:] == (card.WIDTH, 3)
    assert card.draw("t", "a", [], None, None).shape[1] == card.WIDTH


def test_a_run_with_its_card(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygen.models.tiny", tiny_model)
    monkeypatch.setitem(tg.models.MODELS, "tiny", "for tests")
    assert call(capsys, "train", "tiny", "--out", "run", "--steps", 2, "--quiet")[0] == 0
    code, out, _ = call(capsys, "evaluate", "run", "-n", 30, "--json")
    found = json.loads(out)
    assert code == 0 and found["subject"]["run"] == {"model": "tiny", "data": "digits", "step": 2, "seed": 0}
    assert found["scores"]["frechet"][0]["floor"]["n"] == 30
    assert "the report card" in Path("run/report.html").read_text()
    assert Path("run/card.png").exists() and json.loads(Path("run/scores.json").read_text()) == found
    other = call(capsys, "evaluate", "run", "-n", 30, "--against", "digits:train", "--metric", "frechet", "--json")[1]
    assert json.loads(other)["against"]["name"] == "digits:train"
    refused(capsys, "the metric 'psnr' does not apply to run", "run", "--metric", "psnr")
    # people: real against the run, answered and read
    code, out, _ = call(capsys, "judge", "sheet", "run", "real", "-o", "s.html", "--pairs", 6, "--seed", 7)
    assert code == 0 and "judge read answers-" in out
    key = json.loads(Path("s.key.json").read_text())
    content = {"tinygen": sheet.ANSWERS, "version": 1, "sheet": key["sheet"], "began": "", "ended": "",
               "answers": [{"pair": i, "choice": "left", "ms": 5} for i in range(6)]}  # fmt: skip
    Path("a.json").write_text(json.dumps({**content, "checksum": sheet.checksum(content)}))
    code, out, _ = call(capsys, "judge", "read", "a.json", "s.key.json")
    assert code == 0 and "run was chosen rather than real in 50.0 % of 6 (95 %: 18.8–81.2 %)" in out
    assert json.loads(call(capsys, "judge", "read", "s.key.json", "a.json", "--json")[1])["answered"] == 6
    for text, *argv in (
        ("one key and at least one file of answers are needed; got 0 and 1", "read", "a.json"),
        ("there is no command of judge 'shet'; did you mean 'sheet'?", "shet"),
        ("s.txt: give the file the ending .html", "sheet", "run", "real", "-o", "s.txt"),
        ("`real` stands for the held-out images of a run", "sheet", "digits", "real"),
    ):
        code, _, err = call(capsys, "judge", *argv)
        assert code == 2 and text in err and err.count("\n") == 1
    assert call(capsys, "judge")[0] == 2 and "judge sheet" in call(capsys, "judge", "--help")[1]


def test_an_interrupt_leaves_nothing_half_written():
    folder("a", TEST[:300])
    np.savez("big.npz", images=np.random.default_rng(0).integers(0, 256, (3000, 32, 32, 3), dtype=np.uint8))
    before = sorted(Path().rglob("*"))
    code = "import sys; from tinygen.cli import main; print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    argv = ["evaluate", "big.npz", "--against", "big.npz", "-o", "c.png", "-o", "c.json", "--save-statistics", "s.npz"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=environment)  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "tinygen: interrupted.\n" and not out
    assert sorted(Path().rglob("*")) == before


def test_the_bar_is_for_terminals_only(capsys, monkeypatch):
    from tinygen import cli_judge

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with cli_judge.bar("features", 4) as tick:
        tick(2)
    assert "features" in shown.getvalue() and "4" in shown.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with cli_judge.bar("features", 4) as tick:
        tick(2)
    assert sys.stderr.getvalue() == ""
