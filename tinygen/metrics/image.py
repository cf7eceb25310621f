"""Pairs of images: what may be compared, PSNR, and what a score of pairs reports. SSIM and MS-SSIM: ssim.py.

Images are H,W or H,W,C or N,H,W,C, of one dtype or two; `data_range` is always explicit (255 for bytes, 1 for
[0, 1], 2 for [-1, 1]): a guessed range is a wrong score, and one that the values contradict is refused.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError
from tinygen.kernels.threads import share

from ._arrays import Array, as_array, require_finite
from .bootstrap import RESAMPLES, Interval, bootstrap_interval

OVERSHOOT = 1.5  # a float image may leave its range by this much before the range is taken to be the wrong one


@dataclass(frozen=True)
class ImageScore:
    """A score of pairs of images, the mean over N pairs, and what is needed to read it."""

    label: str  # metric, convention and range, such as "MS-SSIM-2[wang | L=255]"
    value: float  # mean over the images
    values: Array  # N
    interval: Interval  # of the mean, by bootstrap over the images; NaN for a single pair
    n: int
    pooled: float | None = None  # PSNR: of the mean squared error of the whole set, which is lower than the mean

    def __str__(self) -> str:
        return f"{self.label} = {self.value:.4f} ({self.interval.low:.4f}–{self.interval.high:.4f}, N={self.n})"


def psnr(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    crop: int = 0,
    y_channel: bool = False,
    reduction: str = "mean",
) -> Array | float:
    """Peak signal-to-noise ratio in dB: 10 log₁₀(L² / MSE); equal images give inf. The peak L is `data_range`, never
    the largest value of an image.

    crop: pixels dropped at each border first; y_channel: on the `luma` of RGB images. Super-resolution papers drop
    `scale` pixels and take luma.
    reduction: "mean" of the per-image PSNRs, "pooled" (the PSNR of the mean MSE, which is lower), or "none"
    (N,). Raises ShapeError, DtypeError, ConfigError, NonFiniteError.
    """
    mse = _errors(*image_pair(x, y, data_range, crop, y_channel))
    if reduction == "pooled":
        return float(_decibels(mse.mean(), data_range))
    return reduce_values(_decibels(mse, data_range), reduction)


def psnr_details(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    crop: int = 0,
    y_channel: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ImageScore:
    """`psnr` of every pair, their mean with its bootstrap interval, and the PSNR of the set."""
    mse = _errors(*image_pair(x, y, data_range, crop, y_channel))
    score = image_score("PSNR", "", _decibels(mse, data_range), data_range, crop, y_channel, resamples, seed)
    return ImageScore(**{**vars(score), "pooled": float(_decibels(mse.mean(), data_range))})


def luma(images: npt.ArrayLike, *, data_range: float) -> Array:
    """BT.601 luma in studio swing, as super-resolution papers score: RGB …,3 in [0, L] -> …,1."""
    x = as_array(images, "images").astype(np.float64, copy=False)
    if x.shape[-1:] != (3,):
        raise ShapeError(f"luma takes RGB images, …,3; got shape {x.shape}.")
    return (x @ np.array([[65.481], [128.553], [24.966]]) + 16 * data_range) / 255


def image_score(
    name: str, family: str, values: Array, data_range: float, crop: int, y_channel: bool, resamples: int, seed: int
) -> ImageScore:
    """The report of per-image `values`, labelled with every choice that moves them."""
    choices = [family, "Y" if y_channel else "", f"crop {crop}" if crop else "", f"L={data_range:g}"]
    label = f"{name}[{' | '.join(filter(None, choices))}]"
    value = float(values.mean())
    interval = bootstrap_interval(value, values, resamples=resamples, seed=seed)
    return ImageScore(label, value, values, interval, len(values))


def image_pair(
    x: npt.ArrayLike, y: npt.ArrayLike, data_range: float, crop: int = 0, y_channel: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both as N,H,W,C of one dtype, uint8, float32 or float64, checked against each other and against `data_range`."""
    a, b = as_array(x, "the first image"), as_array(y, "the second image")
    if a.shape != b.shape:
        raise ShapeError(f"the two images have shapes {a.shape} and {b.shape}; they must be equal.")
    if a.ndim not in (2, 3, 4) or not a.size or (a.ndim == 3 and a.shape[2] > 4):
        raise ShapeError(
            f"images are H,W or H,W,C or N,H,W,C and not empty; got {a.shape}: "
            "give a stack of grey images a channel axis, x[..., None]."
        )
    if not 0 < data_range < np.inf:
        raise ConfigError(f"data_range is the width of the value range, above 0; got {data_range}.")
    for name, z in (("the first image", a), ("the second image", b)):
        require_finite(z, name)
        _require_range(z, name, data_range)
    shape = (1, *a.shape) if a.ndim == 3 else (1, *a.shape, 1) if a.ndim == 2 else a.shape
    a, b = a.reshape(shape), b.reshape(shape)
    if y_channel:
        a, b = luma(a, data_range=data_range), luma(b, data_range=data_range)
    if crop < 0 or min(shape[1:3]) <= 2 * crop:
        raise ShapeError(f"crop={crop} leaves nothing of images {shape[1]}x{shape[2]}.")
    h, w = shape[1] - crop, shape[2] - crop
    a, b = a[:, crop:h, crop:w], b[:, crop:h, crop:w]
    same = a.dtype == b.dtype and a.dtype in (np.uint8, np.float32, np.float64)
    return (a, b) if same else (a.astype(np.float64), b.astype(np.float64))


def _require_range(z: np.ndarray, name: str, data_range: float) -> None:
    low, high = float(z.min()), float(z.max())
    whole = z.dtype.kind in "iu"
    if high - low > data_range * (1 if whole else OVERSHOOT):
        raise ConfigError(
            f"{name} is {z.dtype} and spans {high - low:g}, more than data_range={data_range:g}: give the range that "
            "its values have."
        )
    if not whole and data_range >= 16 and -1 <= low and high <= 1 and (z % 1).any():
        raise ConfigError(
            f"{name} is {z.dtype} in [{low:.3g}, {high:.3g}] and data_range={data_range:g} would hide every error: "
            "use 1 for [0, 1] and 2 for [-1, 1]."
        )


def _errors(a: np.ndarray, b: np.ndarray) -> Array:
    """The mean squared error of each pair, N."""
    mse = np.empty(len(a))

    def part(i: int, j: int) -> None:
        for k in range(i, j):
            difference = a[k].astype(np.float64)
            difference -= b[k]
            difference = difference.reshape(-1)
            mse[k] = difference @ difference / difference.size

    share(len(a), part)
    return mse


def _decibels(mse: Array, data_range: float) -> Array:
    with np.errstate(divide="ignore"):
        return 10 * np.log10(data_range**2 / mse)


def reduce_values(values: Array, reduction: str) -> Array | float:
    """The mean over images, or the values themselves. Raises ConfigError for another reduction."""
    if reduction not in ("mean", "none"):
        raise ConfigError(f"unknown reduction {reduction!r}; choose mean or none (psnr also takes pooled).")
    return float(values.mean()) if reduction == "mean" else values
