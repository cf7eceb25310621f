"""PSNR, SSIM, MS-SSIM against values of the libraries they are named after, and closed forms."""

import numpy as np
import pytest

from tinygen.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from tinygen.metrics import luma, ms_ssim, ms_ssim_details, psnr, psnr_details, ssim, ssim_details, ssim_maps


def pair(h, w, c):
    """A smooth uint8 image and a dulled, noisy copy of it, by integer arithmetic and two sines."""
    i, j, k = np.meshgrid(np.arange(h), np.arange(w), np.arange(c), indexing="ij")
    x = np.round(127.5 + 60 * np.sin(0.7 * i + 0.3 * k) + 50 * np.cos(0.45 * j - 0.2 * i))
    noise = ((i * 7919 + j * 104729 + k * 1299709 + i * j * 31) % 97) - 48
    return x.astype(np.uint8), np.round(np.clip(0.9 * x + 8 + 0.6 * noise, 0, 255)).astype(np.uint8)


# scikit-image 0.26 and torchmetrics 1.9 in float64, on pair(24, 20, 3)
SSIM = {
    "skimage-gaussian": 0.9069193148420167,
    "skimage-uniform": 0.9339403666951912,
    "torchmetrics": 0.8993326714732837,
}


@pytest.mark.parametrize("family", SSIM)
def test_ssim_families(family):
    x, y = pair(24, 20, 3)
    assert ssim(x, y, data_range=255, family=family) == pytest.approx(SSIM[family], abs=1e-12)
    assert ssim(y, x, data_range=255, family=family) == pytest.approx(SSIM[family], abs=1e-12)
    assert ssim(x / 255.0, y / 255.0, data_range=1, family=family) == pytest.approx(SSIM[family], abs=1e-12)
    assert ssim(x, x, data_range=255, family=family) == 1


def test_psnr_and_ms_ssim_values():
    x, y = pair(24, 20, 3)
    assert psnr(x, y, data_range=255) == pytest.approx(22.880328530031328, abs=1e-12)  # scikit-image 0.26
    x, y = pair(176, 192, 3)
    assert ms_ssim(x, y, data_range=255) == pytest.approx(
        0.9831774374, abs=1e-6
    )  # pytorch-msssim 1.0, float64


def test_against_scikit_image_where_installed():
    reference = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    for _ in range(5):
        h, w = rng.integers(12, 40, 2)
        x, y = rng.random((h, w)), rng.random((h, w))
        ours = ssim(x, y, data_range=1.0)
        theirs = reference.structural_similarity(
            x, y, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ours == pytest.approx(theirs, abs=1e-13)


def test_constant_images_have_closed_forms():
    a, b, c1 = 0.3, 0.6, 0.01**2
    x, y = np.full((12, 12), a), np.full((12, 12), b)
    for family in SSIM:
        expected = (2 * a * b + c1) / (a * a + b * b + c1)
        assert ssim(x, y, data_range=1, family=family) == pytest.approx(expected, rel=1e-10)
    assert psnr(x, y, data_range=1) == pytest.approx(-20 * np.log10(0.3), rel=1e-12)
    assert psnr(x, x, data_range=1) == np.inf


def test_exponents():
    x, y = (z / 255.0 for z in pair(20, 20, 1))
    parts = [ssim(x, y, data_range=1, exponents=e) for e in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(0 < p <= 1 for p in parts)
    nearly = ssim(x, y, data_range=1, exponents=(1, 1, 1 + 1e-13))
    assert nearly == pytest.approx(ssim(x, y, data_range=1), abs=1e-11)
    # an inverted image has negative structure, which a fractional power keeps
    assert ssim(x, 1 - x, data_range=1, exponents=(0, 0, 0.5)) < -0.9


def test_psnr_reductions_and_crop():
    x = np.zeros((2, 6, 6, 1))
    y = x + np.array([0.1, 0.01])[:, None, None, None]
    assert psnr(x, y, data_range=1, reduction="none") == pytest.approx([20, 40])
    assert psnr(x, y, data_range=1) == pytest.approx(30)
    assert psnr(x, y, data_range=1, reduction="pooled") == pytest.approx(-10 * np.log10(0.00505))
    y[:, 0] = 1.4
    assert psnr(x, y, data_range=1, crop=1) == pytest.approx(30)
    assert ssim(np.zeros((3, 11, 11, 2)), np.zeros((3, 11, 11, 2)), data_range=1, reduction="none").shape == (
        3,
    )


def test_ms_ssim_at_few_scales():
    x, y = pair(32, 32, 1)
    assert ms_ssim(x, y, data_range=255, scales=1) == pytest.approx(ssim(x, y, data_range=255), rel=1e-12)
    assert ms_ssim(x, x, data_range=255, scales=2) == pytest.approx(1)
    assert 0 < ms_ssim(x, y, data_range=255, scales=2) < 1
    assert ms_ssim(x, 255 - x, data_range=255, scales=2) == 0


def test_luma_spans_studio_swing():
    ends = np.array([[0.0, 0, 0], [1, 1, 1]])
    assert luma(ends, data_range=1)[:, 0] * 255 == pytest.approx([16, 235])
    assert luma(ends * 255, data_range=255)[:, 0] == pytest.approx([16, 235])


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: psnr(x, x[1:], data_range=1), ShapeError, "must be equal"),
        (lambda x: psnr(x, x, data_range=0), ConfigError, "width of the value range, above 0; got 0"),
        (lambda x: psnr(x, x, data_range=1, reduction="sum"), ConfigError, "unknown reduction 'sum'"),
        (lambda x: psnr(x, x, data_range=1, crop=10), ShapeError, "crop=10 leaves nothing of images 20x20"),
        (lambda x: psnr(x, x + np.inf, data_range=1), NonFiniteError, "the second image has 400 non-finite"),
        (
            lambda x: ssim(x, x, data_range=1, family="wangs"),
            ConfigError,
            "unknown SSIM family 'wangs'; there are",
        ),
        (lambda x: ssim(x[:8], x[:8], data_range=1), ShapeError, "needs sides of at least 11 px; got 8x20"),
        (
            lambda x: ssim(x[None], x[None], data_range=1),
            ShapeError,
            "give a stack of grey images a channel axis",
        ),
        (
            lambda x: ms_ssim(x, x, data_range=1),
            ShapeError,
            "5 scales needs 11 px at the last, and sides of 20x20 px leave 1: use fewer",
        ),
        (lambda x: ms_ssim(x, x, data_range=1, scales=6), ConfigError, "for 1 to 5 scales; got 6: give weights="),
        (lambda x: luma(x, data_range=1), ShapeError, "luma takes RGB images"),
        (
            lambda x: ssim(np.arange(400).reshape(20, 20), np.arange(400).reshape(20, 20), data_range=255),
            ConfigError,
            "spans 399, more than data_range=255",
        ),
    ],
)
def test_errors_say_what_arrived(call, error, text):
    with pytest.raises(error, match=text):
        call(np.random.default_rng(1).random((20, 20)))


def test_data_range_is_never_guessed():
    with pytest.raises(TypeError):
        ssim(np.zeros((12, 12)), np.zeros((12, 12)))  # type: ignore[call-arg]


def test_details_name_their_convention():
    x, y = (np.stack([z, np.roll(z, 5, 0), z[::-1]]) for z in pair(40, 44, 3))
    p = psnr_details(x, y, data_range=255, crop=2, y_channel=True)
    assert p.label == "PSNR[Y | crop 2 | L=255]" and p.n == 3
    each = psnr(x, y, data_range=255, crop=2, y_channel=True, reduction="none")
    assert np.array_equal(p.values, each) and p.value == pytest.approx(each.mean())
    assert p.pooled == psnr(x, y, data_range=255, crop=2, y_channel=True, reduction="pooled") <= p.value
    on_luma = psnr(luma(x, data_range=255)[:, 2:-2, 2:-2], luma(y, data_range=255)[:, 2:-2, 2:-2], data_range=255)
    assert p.value == pytest.approx(on_luma, rel=1e-12)
    assert p.interval.low <= p.value <= p.interval.high and str(p).startswith("PSNR[Y | crop 2 | L=255] = ")
    s = ssim_details(x, y, data_range=255, family="torchmetrics")
    assert s.label == "SSIM[torchmetrics | L=255]" and s.pooled is None
    assert s.value == ssim(x, y, data_range=255, family="torchmetrics")
    assert ssim_details(x, y, data_range=255, exponents=(1, 1, 0.5)).label == (
        "SSIM[skimage-gaussian | l^1 c^1 s^0.5 | L=255]"
    )
    m = ms_ssim_details(x, y, data_range=255, scales=2)
    assert m.label == "MS-SSIM-2[wang | L=255]" and m.value == ms_ssim(x, y, data_range=255, scales=2)
    custom = ms_ssim_details(x, y, data_range=255, weights=(0.5, 0.5))
    assert custom.label == "MS-SSIM-2[wang | weights 0.5 0.5 | L=255]"
    one = psnr_details(x[0], y[0], data_range=255)
    assert one.n == 1 and np.isnan(one.interval.low) and np.isnan(one.interval.standard_error)
    same = psnr_details(x, x, data_range=255)
    assert same.value == np.inf and np.isnan(same.interval.low)


def test_weights_of_any_number_of_scales():
    x, y = pair(353, 352, 1)
    six = ms_ssim_details(x, y, data_range=255, weights=(0.1, 0.2, 0.2, 0.2, 0.2, 0.1))
    assert six.label.startswith("MS-SSIM-6") and 0 < six.value < 1
    wang = ms_ssim(x, y, data_range=255)
    assert ms_ssim(x, y, data_range=255, weights=(0.0448, 0.2856, 0.3001, 0.2363, 0.1333)) == wang


@pytest.mark.parametrize("family", SSIM)
def test_maps_are_the_factors(family):
    x, y = pair(30, 41, 3)
    maps = ssim_maps(x, y, data_range=255, family=family)
    product = maps.luminance * maps.contrast * maps.structure
    assert product == pytest.approx(maps.ssim, abs=1e-14)
    assert maps.ssim.mean() == pytest.approx(ssim(x, y, data_range=255, family=family), abs=1e-13)
    side = 0 if family == "torchmetrics" else 10 if family == "skimage-gaussian" else 6
    assert maps.ssim.shape == (1, 30 - side, 41 - side, 3)
    for name in ("luminance", "contrast", "structure", "ssim"):
        picture = maps.picture(name)
        assert picture.dtype == np.uint8 and picture.shape == maps.ssim.shape
    assert abs(maps.structure).max() <= 1 + 1e-12 and maps.contrast.max() <= 1 + 1e-12
    same = ssim_maps(x, x, data_range=255, family=family)
    assert (same.picture("ssim") == 255).all() and (same.picture("contrast") == 255).all()
    opposite = ssim_maps(x, 255 - x, data_range=255, family=family).picture("structure")
    assert np.median(opposite) < 10  # -1 is black, 0 mid-grey
    with pytest.raises(ConfigError, match="unknown map 'hue'; there are luminance"):
        maps.picture("hue")


def test_one_pass_is_the_definition():
    """The compiled loop against the maps, for both windows, all dtypes, one pixel of valid region and many."""
    for shape in ((11, 11, 1), (12, 30, 3), (40, 11, 2)):
        x, y = (z.astype(np.float64) for z in pair(*shape))
        for family in ("skimage-gaussian", "skimage-uniform", "torchmetrics"):
            for dtype, scale in ((np.uint8, 1), (np.float32, 1), (np.float64, 1 / 255), (np.uint16, 1)):
                a, b = ((z * scale).astype(dtype) for z in (x, y))
                peak = 255 * scale
                maps = ssim_maps(a, b, data_range=peak, family=family)
                assert ssim(a, b, data_range=peak, family=family) == pytest.approx(maps.ssim.mean(), abs=1e-13)
    x, y = pair(20, 20, 1)
    assert ssim(x, y / 255.0 * 255, data_range=255) == pytest.approx(ssim(x, y, data_range=255), abs=1e-13)
    frozen = x.copy()
    frozen.flags.writeable = False
    assert ssim(frozen, y, data_range=255) == ssim(x, y, data_range=255)
    assert ssim(x[::-1], y[::-1], data_range=255) == pytest.approx(ssim(x, y, data_range=255), abs=1e-13)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: psnr([x, x[:5]], [x, x], data_range=1), ShapeError, "the first image mixes arrays of several"),
        (lambda x: psnr(x + 1j, x, data_range=1), DtypeError, "the first image has dtype complex128; real"),
        (lambda x: psnr(x > 0.5, x, data_range=1), DtypeError, "the first image has dtype bool"),
        (lambda x: ssim(x, np.where(x > 0.9, np.nan, x), data_range=1), NonFiniteError, "the second image has .* non-"),
        (lambda x: psnr(x * 255, x * 255, data_range=1), ConfigError, "spans 25.*, more than data_range=1: give the"),
        (lambda x: psnr(2 * x - 1, x, data_range=1), ConfigError, "the first image is float64 and spans"),
        (lambda x: psnr(x, x, data_range=255), ConfigError, "data_range=255 would hide every error: use 1 for"),
        (lambda x: psnr((x * 65535).astype(np.uint16), x * 65535, data_range=255), ConfigError, "uint16 and spans"),
        (lambda x: psnr(x, x, data_range=float("nan")), ConfigError, "above 0; got nan"),
        (lambda x: psnr(x, x, data_range=1, y_channel=True), ShapeError, "luma takes RGB"),
        (lambda x: psnr(x[:0], x[:0], data_range=1), ShapeError, "not empty"),
        (lambda x: ssim(x, x, data_range=1, crop=5), ShapeError, "sides of at least 11 px; got 10x10"),
        (lambda x: ms_ssim(x, x, data_range=1, family="skimage"), ConfigError, "unknown MS-SSIM family 'skimage'"),
        (lambda x: ms_ssim(x, x, data_range=1, weights=()), ConfigError, "one number from 0 on for each scale"),
        (lambda x: ms_ssim(x, x, data_range=1, scales=2), ShapeError, "2 scales .* leave 10: use fewer"),
    ],
)
def test_bad_pairs_get_a_sentence(call, error, text):
    with pytest.raises(error, match=text):
        call(np.random.default_rng(2).random((20, 20)))


def test_a_little_overshoot_is_no_wrong_range():
    x = np.random.default_rng(3).random((16, 16))
    assert np.isfinite(psnr(x, x * 1.1 - 0.05, data_range=1))
    assert psnr(np.zeros((16, 16)), np.ones((16, 16)), data_range=255) > 48  # whole numbers may be bytes
