"""Resizing to 299 by name: against numbers recorded from the sources, and the sources where they are installed."""

import numpy as np
import pytest
from PIL import Image

from tinygen.errors import ConfigError, DtypeError, ShapeError
from tinygen.metrics.resize import RESIZERS, bilinear, resize, to_inception

SIZES = [(299, 299), (32, 32), (64, 48), (512, 512), (333, 77), (299, 1), (1, 5), (1000, 20), (598, 300)]


def pictures(h, w, c=3, n=2, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, h, w, c)).astype(np.uint8)


def torch_():
    return pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")


def nchw(x):
    return torch_().tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), dtype=torch_().float32)


def nhwc(x):
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_pytorch_fid_is_interpolate(size):
    """As pytorch-fid does it: ToTensor, F.interpolate(align_corners=False), 2x − 1."""
    torch = torch_()
    x = pictures(*size)
    theirs = torch.nn.functional.interpolate(nchw(x) / 255, size=(299, 299), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(to_inception(x, "pytorch-fid"), nhwc(2 * theirs - 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_torchmetrics_is_antialiased_interpolate(size):
    torch = torch_()
    x = pictures(*size)
    theirs = torch.nn.functional.interpolate(nchw(x), (299, 299), mode="bilinear", align_corners=False, antialias=True)
    np.testing.assert_allclose(to_inception(x, "torchmetrics"), nhwc((theirs - 128) / 128), rtol=0, atol=4e-6)


@pytest.mark.parametrize("size", SIZES)
def test_tf1_is_torch_fidelitys(size):
    torch_()
    source = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow", reason="torch-fidelity is missing")
    x = pictures(*size)
    theirs = source.interpolate_bilinear_2d_like_tensorflow1x(nchw(x), size=(299, 299), align_corners=False)
    np.testing.assert_allclose(to_inception(x, "tf1"), nhwc((theirs - 128) / 128), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_clean_is_clean_fids(size):
    torch_()
    source = pytest.importorskip("cleanfid.resize", reason="clean-fid is missing")
    x = pictures(*size)
    theirs = np.stack([source.build_resizer("clean")(image) for image in x])
    np.testing.assert_array_equal(to_inception(x, "clean"), (theirs - 128) / 128)


@pytest.mark.parametrize("n, out", [(512, 299), (1000, 299), (64, 299), (7, 3)])
def test_antialiased_bilinear_is_also_pils(n, out):
    """The same filter by another hand, whose positions are in double precision."""
    x = np.random.RandomState(1).random_sample((1, n, n, 1)).astype(np.float32)
    theirs = Image.fromarray(x[0, :, :, 0]).resize((out, out), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resize(x, (out, out), "torchmetrics")[0, :, :, 0], np.asarray(theirs), atol=2e-5)


def test_by_hand():
    """Two pixels to four: where each convention looks, counted on paper. To 299 a ramp tells them apart as well."""
    x = np.array([0, 60], np.float32).reshape(1, 1, 2, 1)
    assert resize(x, (1, 4), "tf1").ravel().tolist() == [0, 30, 60, 60]
    assert resize(x, (1, 4), "pytorch-fid").ravel().tolist() == [0, 15, 45, 60]
    assert resize(x, (1, 4), "torchmetrics").ravel() == pytest.approx([0, 15, 45, 60])
    x = np.array([0, 0, 0, 120], np.float32).reshape(1, 1, 4, 1)
    assert resize(x, (1, 2), "tf1").ravel().tolist() == [0, 0]  # the last pixel is not seen at all
    assert resize(x, (1, 2), "pytorch-fid").ravel().tolist() == [0, 60]
    # a triangle of half-width 2 around 3: weights 1/4, 3/4, 3/4 for the centres 1.5, 2.5, 3.5
    assert resize(x, (1, 2), "torchmetrics").ravel() == pytest.approx([0, 120 * 0.75 / 1.75])
    assert bilinear(x, (1, 4)).ravel().tolist() == [0, 0, 0, 120]


# sums of |y| and the pixel (150, 7), channel 1, of to_inception(pictures(…, seed=3)), recorded where the tests above
# compared them with their sources
RECORDED = {
    ("tf1", (64, 48)): (86748.7937, 0.5115904),
    ("tf1", (512, 400)): (85444.8268, -0.0405468),
    ("pytorch-fid", (64, 48)): (87058.3439, 0.6483728),
    ("pytorch-fid", (512, 400)): (85562.5871, 0.3922360),
    ("clean", (64, 48)): (106227.4857, 0.8597077),
    ("clean", (512, 400)): (67788.9628, 0.3334984),
    ("torchmetrics", (64, 48)): (86705.5130, 0.6419337),
    ("torchmetrics", (512, 400)): (55404.8965, 0.2762774),
}


@pytest.mark.parametrize("how", RESIZERS)
@pytest.mark.parametrize("size", [(64, 48), (512, 400)])
def test_recorded_numbers(how, size):
    y = to_inception(pictures(*size, n=1, seed=3), how)
    assert y.shape == (1, 299, 299, 3) and y.dtype == np.float32 and y.flags.c_contiguous
    total, pixel = RECORDED[how, size]
    assert np.abs(y).sum(dtype=np.float64) == pytest.approx(total, rel=1e-6)
    assert y[0, 150, 7, 1] == pytest.approx(pixel, abs=5e-6)


@pytest.mark.parametrize("how", RESIZERS)
def test_what_all_have_in_common(how):
    grey = pictures(40, 30, 1)
    y = to_inception(grey, how)
    assert np.array_equal(y[..., 0], y[..., 2])  # grey is repeated
    assert np.array_equal(y[:1], to_inception(grey[:1], how))  # an image does not depend on its company
    assert y.min() >= -1.001 and y.max() <= 1.001
    flat = to_inception(np.full((1, 50, 60, 3), 200, np.uint8), how)
    expected = 2 * 200 / 255 - 1 if how == "pytorch-fid" else (200 - 128) / 128
    np.testing.assert_allclose(flat, expected, atol=2e-6)
    same = pictures(299, 299)
    np.testing.assert_allclose(to_inception(same, how) * 128 + 128, same, atol=1.001 if how == "pytorch-fid" else 1e-4)
    assert to_inception(np.zeros((0, 8, 8, 3), np.uint8), how).shape == (0, 299, 299, 3)


def test_refusals():
    with pytest.raises(ConfigError, match="unknown resizer 'tf2'; there are tf1, .*did you mean 'tf1'"):
        to_inception(pictures(8, 8), "tf2")
    with pytest.raises(DtypeError, match="round yours to uint8"):
        to_inception(np.zeros((1, 8, 8, 3)), "tf1")
    with pytest.raises(ShapeError, match="Alpha must be composed"):
        to_inception(pictures(8, 8, 4), "tf1")
    with pytest.raises(ShapeError, match="takes N,H,W,C"):
        to_inception(pictures(8, 8)[0], "clean")
