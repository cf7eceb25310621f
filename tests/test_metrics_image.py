"""PSNR, SSIM, MS-SSIM against values of the libraries they are named after, and closed forms."""

import numpy as np
import pytest

from tinygen.errors import ConfigError, NonFiniteError, ShapeError
from tinygen.metrics import luma, ms_ssim, psnr, ssim


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
