"""Each metric against the libraries it is named after: their values recorded, and their code where it is installed.

Versions recorded: scikit-image 0.26, torchmetrics 1.9.0, pytorch-msssim 1.0.0, piq 0.8.0, torch-fidelity 0.4.0,
prdc 0.2, pytorch-fid 0.3.0, clean-fid 0.1.35, all in float64.
"""

import contextlib
import io

import numpy as np
import pytest
from metric_references import feature_sets, image_pair, reference

from tinygen import metrics

SMALL, LARGE, MULTI = image_pair(33, 47, 1, 3), image_pair(401, 390, 3, 1), image_pair(177, 190, 3, 2)
REAL, FAKE = feature_sets(300, 260, 33)

RECORDED = {
    "psnr, scikit-image": (lambda: metrics.psnr(*SMALL, data_range=255), 24.000597668830356),
    "ssim, scikit-image Gaussian": (lambda: metrics.ssim(*SMALL, data_range=255), 0.9304409742189096),
    "ssim, scikit-image uniform": (
        lambda: metrics.ssim(*SMALL, data_range=255, family="skimage-uniform"), 0.9487188855971392),
    "ssim, torchmetrics": (lambda: metrics.ssim(*SMALL, data_range=255, family="torchmetrics"), 0.9253628008261295),
    "ssim, pytorch-msssim": (lambda: metrics.ssim(*LARGE, data_range=255), 0.9294886070795091),
    "ssim, piq": (lambda: metrics.ssim(*LARGE, data_range=255, family="piq"), 0.9833118471302914),
    "ms-ssim, pytorch-msssim": (
        lambda: metrics.ms_ssim(*MULTI, data_range=255, family="pytorch-msssim"), 0.9858911370619426),
    "ms-ssim, piq": (lambda: metrics.ms_ssim(*MULTI, data_range=255, family="piq"), 0.9857465809205401),
    "ms-ssim, torchmetrics": (
        lambda: metrics.ms_ssim(*MULTI, data_range=255, family="torchmetrics"), 0.98559857438581),
    "frechet, torch-fidelity": (lambda: metrics.frechet_distance(REAL, FAKE), 1.6725027273076236),
    "frechet, pytorch-fid and clean-fid": (lambda: metrics.frechet_distance(REAL, FAKE), 1.672502727307588),
    "kid mean, torch-fidelity": (lambda: kid().subset_mean, 0.09982338242127473),
    "kid deviation, torch-fidelity": (lambda: kid().subset_sd, 0.03712296390900232),
    "precision, torch-fidelity": (lambda: metrics.precision_recall(real=REAL, fake=FAKE).precision, 159 / 260),
    "recall, torch-fidelity": (lambda: metrics.precision_recall(real=REAL, fake=FAKE).recall, 289 / 300),
    "precision, prdc": (
        lambda: metrics.precision_recall(real=REAL, fake=FAKE, k=5, ties="open").precision, 0.6923076923076923),
    "recall, prdc": (
        lambda: metrics.precision_recall(real=REAL, fake=FAKE, k=5, ties="open").recall, 0.9866666666666667),
    "density, prdc": (lambda: metrics.density_coverage(real=REAL, fake=FAKE).density, 0.4661538461538462),
    "coverage, prdc": (lambda: metrics.density_coverage(real=REAL, fake=FAKE).coverage, 0.7766666666666666),
    "inception mean, torch-fidelity": (lambda: metrics.inception_score(3 * REAL).mean, 5.668516196430213),
    "inception deviation, torch-fidelity": (lambda: metrics.inception_score(3 * REAL).sd, 0.5278832298247229),
}  # fmt: skip


def kid():
    return metrics.kernel_distance_details(real=REAL, fake=FAKE, subsets=20, subset_size=100)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_values(name):
    ours, theirs = RECORDED[name]
    # whatever its input, pytorch-msssim rounds its window to float32, and torchmetrics the weights of the scales
    loose = {"pytorch-msssim": 1e-7, "ms-ssim, torchmetrics": 1e-9}
    tolerance = next((t for part, t in loose.items() if part in name), 1e-12)
    assert ours() == pytest.approx(theirs, rel=tolerance)


def tensor(x):
    import torch

    return torch.from_numpy(np.moveaxis(np.asarray(x, np.float64), -1, 1).copy())


PAIRS = {
    "bytes, one channel, odd": (*image_pair(33, 47, 1, 3), 255.0),
    "bytes, colour": (*image_pair(40, 64, 3, 2), 255.0),
    "float, colour, odd": (*(z / 255.0 for z in image_pair(35, 51, 3, 2, seed=1)), 1.0),
    "float in [-1, 1], one channel": (*(z / 127.5 - 1 for z in image_pair(29, 30, 1, 2, seed=2)), 2.0),
    "bytes, larger": (*image_pair(401, 388, 1, 1, seed=3), 255.0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_scikit_image(name):
    skimage = reference("skimage.metrics")
    x, y, peak = PAIRS[name]
    each = list(zip(x, y))
    noise = np.mean([skimage.peak_signal_noise_ratio(a, b, data_range=peak) for a, b in each])
    assert metrics.psnr(x, y, data_range=peak) == pytest.approx(noise, rel=1e-12)
    for family, options in (
        ("skimage-uniform", {}),
        ("skimage-gaussian", {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
    ):
        values = [skimage.structural_similarity(a, b, data_range=peak, channel_axis=2, **options) for a, b in each]
        ours = metrics.ssim(x, y, data_range=peak, family=family, reduction="none")
        assert ours == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_torch_image_libraries(name):
    piq, msssim = reference("piq"), reference("pytorch_msssim")
    tm = reference("torchmetrics.functional.image")
    x, y, peak = PAIRS[name]
    # piq takes its input from 0 on
    low = x.min() if peak == 2 else 0
    a, b = tensor(x), tensor(y)
    ours = lambda family: metrics.ssim(x, y, data_range=peak, family=family)
    similarity = tm.structural_similarity_index_measure(a, b, data_range=peak)
    assert ours("torchmetrics") == pytest.approx(float(similarity), rel=1e-12)
    assert ours("skimage-gaussian") == pytest.approx(float(msssim.ssim(a, b, data_range=peak)), rel=2e-7)
    pooled = metrics.psnr(x, y, data_range=peak, reduction="pooled")
    assert pooled == pytest.approx(float(tm.peak_signal_noise_ratio(a, b, data_range=peak)), rel=1e-6)
    if low == 0:
        assert ours("piq") == pytest.approx(float(piq.ssim(a, b, data_range=peak)), rel=1e-12)
        # piq adds 1e-8 to the error of values in [0, 1]
        theirs = metrics.psnr(x, y, data_range=peak, reduction="none")
        theirs = -10 * np.log10(10 ** (-theirs / 10) + 1e-8)
        assert theirs.mean() == pytest.approx(float(piq.psnr(a, b, data_range=peak)), rel=1e-12)


@pytest.mark.parametrize("size", [(177, 190, 1), (208, 256, 3), (401, 391, 1)])
def test_multi_scale_families(size):
    piq, msssim = reference("piq"), reference("pytorch_msssim")
    tm = reference("torchmetrics.functional.image")
    x, y = image_pair(*size, 1)
    a, b = tensor(x), tensor(y)
    ours = lambda family: metrics.ms_ssim(x, y, data_range=255, family=family)
    assert ours("pytorch-msssim") == pytest.approx(float(msssim.ms_ssim(a, b, data_range=255.0)), rel=1e-7)
    assert ours("piq") == pytest.approx(float(piq.multi_scale_ssim(a, b, data_range=255.0)), rel=1e-12)
    theirs = tm.multiscale_structural_similarity_index_measure(a, b, data_range=255.0)
    assert ours("torchmetrics") == pytest.approx(float(theirs), rel=1e-8)
    if not (size[0] % 16 or size[1] % 16):  # no odd side: one convention
        assert ours("wang") == pytest.approx(ours("piq"), rel=1e-14)


@pytest.mark.parametrize("n, m, d", [(300, 260, 33), (150, 150, 200)])
def test_torch_fidelity(n, m, d):
    torch = reference("torch")
    fid, kid, prc, isc = (reference(f"torch_fidelity.metric_{k}") for k in ("fid", "kid", "prc", "isc"))
    x, y = feature_sets(n, m, d, seed=4)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    stats = [{"mu": z.mean(0), "sigma": np.cov(z, rowvar=False)} for z in (x, y)]
    distance = fid.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    # where the covariance is singular, theirs has half of its digits
    assert metrics.frechet_distance(x, y) == pytest.approx(distance, rel=1e-12 if n > d else 1e-6)
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None,
              "kid_kernel_poly_coef0": 1.0, "rng_seed": 7, "verbose": False}  # fmt: skip
    theirs = kid.kid_features_to_metric(a, b, kid_subsets=12, kid_subset_size=90, **kernel)
    for pairs in (True, False):
        ours = metrics.kernel_distance_details(real=x, fake=y, subsets=12, subset_size=90, seed=7, pairs=pairs)
        assert ours.subset_mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-11)
        assert ours.subset_sd == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-11)
    precision, recall = prc.calculate_precision_recall_full(b, a, 3)
    ours = metrics.precision_recall(real=x, fake=y)
    assert (ours.precision, ours.recall) == pytest.approx((precision, recall), abs=1e-6)  # theirs are float32
    score = isc.isc_features_to_metric(a, splits=7)
    ours = metrics.inception_score(x, splits=7)
    assert ours.mean == pytest.approx(score["inception_score_mean"], rel=1e-12)
    assert ours.sd == pytest.approx(score["inception_score_std"], rel=1e-10)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc(k):
    prdc = reference("prdc")
    x, y = feature_sets(257, 311, 40, seed=5)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = prdc.compute_prdc(x, y, k)
    pr = metrics.precision_recall(real=x, fake=y, k=k, ties="open")
    dc = metrics.density_coverage(real=x, fake=y, k=k)
    ours = {"precision": pr.precision, "recall": pr.recall, "density": dc.density, "coverage": dc.coverage}
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_torchmetrics_features():
    torch = reference("torch")
    fid = reference("torchmetrics.image.fid")
    kid = reference("torchmetrics.image.kid")
    isc = reference("torchmetrics.image.inception")

    class Given(torch.nn.Module):
        num_features = 33

        def forward(self, x):
            return x

    a, b = torch.from_numpy(REAL), torch.from_numpy(FAKE)
    mean = [z.mean(0) for z in (a, b)]
    cov = [torch.cov(z.T) for z in (a, b)]
    theirs = float(fid._compute_fid(mean[0], cov[0], mean[1], cov[1]))
    assert metrics.frechet_distance(REAL, FAKE) == pytest.approx(theirs, rel=1e-11)
    half = REAL[:260]
    theirs = float(kid.poly_mmd(torch.from_numpy(half), b))
    assert metrics.kernel_distance(real=half, fake=FAKE) == pytest.approx(theirs, rel=1e-10)
    metric = isc.InceptionScore(feature=Given(), splits=10)
    metric.update(3 * a)
    torch.manual_seed(3)
    mean, sd = (float(v) for v in metric.compute())
    torch.manual_seed(3)
    order = torch.randperm(len(REAL)).numpy()  # theirs is shuffled by the global generator, with ddof 1
    ours = metrics.inception_score(3 * REAL[order], seed=None, ddof=1)
    assert (ours.mean, ours.sd) == pytest.approx((mean, sd), rel=1e-6)


def test_pytorch_fid_and_clean_fid_read_our_statistics(tmp_path):
    stats = metrics.FeatureStatistics.of(REAL)
    stats.save(tmp_path / "real.npz")
    theirs = reference("pytorch_fid.fid_score"), reference("cleanfid.fid")
    with np.load(tmp_path / "real.npz") as file:
        mu, sigma = file["mu"], file["sigma"]
    other = FAKE.mean(0), np.cov(FAKE, rowvar=False)
    for distance in (theirs[0].calculate_frechet_distance, theirs[1].frechet_distance):
        assert metrics.frechet_distance(stats, FAKE) == pytest.approx(distance(mu, sigma, *other), rel=1e-10)


def test_clean_fid_kid():
    fid = reference("cleanfid.fid")
    np.random.seed(0)
    # of as many samples as there are: every subset is the whole set
    theirs = fid.kernel_distance(REAL[:260], FAKE, num_subsets=1, max_subset_size=260)
    assert metrics.kernel_distance(real=REAL[:260], fake=FAKE) == pytest.approx(theirs, rel=1e-11)
