"""SSIM and MS-SSIM, every convention by name, in float64.

SSIM (Wang et al. 2004, eqs. 6-13) = l^α c^β s^γ with

    l = (2μxμy + C1) / (μx² + μy² + C1)   c = (2σxσy + C2) / (σx² + σy² + C2)   s = (σxy + C3) / (σxσy + C3)

C1 = (0.01 L)², C2 = (0.03 L)², C3 = C2 / 2, L the data range, local moments under a window. Published numbers
disagree in the second digit because windows, covariances and borders differ; hence `family`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError
from tinygen.kernels.threads import share

from ._arrays import Array
from .bootstrap import RESAMPLES
from .image import ImageScore, image_pair, image_score, reduce_values

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli & Bovik 2003, §3.2
Exponents = tuple[float, float, float]


@dataclass(frozen=True)
class _Family:
    window: tuple[float, ...]  # one axis of a separable, symmetric window
    sample_covariance: bool = False
    reflect: bool = False  # pad by reflection and keep every pixel, instead of the valid region
    shrink: bool = False  # first pool means to a shorter side of about 256 px


def _gaussian(sigma: float, radius: int) -> tuple[float, ...]:
    t = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return tuple(t / t.sum())


_WANG = _gaussian(1.5, 5)
FAMILIES = {
    # Wang's own: 11-tap Gaussian, population covariance, 5 px cropped; also pytorch-msssim's
    "skimage-gaussian": _Family(_WANG),
    # scikit-image's default arguments
    "skimage-uniform": _Family((1 / 7,) * 7, sample_covariance=True),
    # torchmetrics 1.9: borders reflected, none cropped
    "torchmetrics": _Family(_WANG, reflect=True),
    # piq's default; below 384 px, and with its downsample=False, it is Wang's
    "piq": _Family(_WANG, shrink=True),
}
# MS-SSIM: what becomes of an odd side when means of 2×2 are pooled
POOLINGS = ("wang", "pytorch-msssim", "piq", "torchmetrics")


@dataclass(frozen=True)
class SSIMMaps:
    """The factors of SSIM at every pixel of the window's valid region (all pixels in the torchmetrics family)."""

    luminance: Array  # N,H',W',C; 0 to 1 for values that are not negative
    contrast: Array  # 0 to 1
    structure: Array  # -1 to 1
    ssim: Array  # their product, to the powers that were asked for

    def picture(self, name: str) -> npt.NDArray[np.uint8]:
        """One of the maps as images uint8 N,H',W',C: 0..1 -> 0..255, and for structure and ssim -1..1 -> 0..255, so
        that 0 is mid-grey. One scale for every picture. Raises ConfigError for another name."""
        low = {"luminance": 0, "contrast": 0, "structure": -1, "ssim": -1}
        if name not in low:
            raise ConfigError(f"unknown map {name!r}; there are {', '.join(low)}.")
        unit = (getattr(self, name) - low[name]) / (1 - low[name])
        return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)


def ssim(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    family: str = "skimage-gaussian",
    exponents: Exponents = (1.0, 1.0, 1.0),
    crop: int = 0,
    y_channel: bool = False,
    reduction: str = "mean",
) -> Array | float:
    """Structural similarity, the mean over pixels and channels, then (reduction "mean") over images; or
    "none": (N,).

    family: a key of `FAMILIES`. exponents: (α, β, γ); a fractional γ acts as sign(s) |s|^γ. crop, y_channel: as for
    `psnr`. Raises ShapeError (shapes differ, images smaller than the window), DtypeError, ConfigError,
    NonFiniteError.
    """
    return reduce_values(_values(x, y, data_range, family, exponents, crop, y_channel), reduction)


def ssim_details(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    family: str = "skimage-gaussian",
    exponents: Exponents = (1.0, 1.0, 1.0),
    crop: int = 0,
    y_channel: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ImageScore:
    """`ssim` of every pair, and their mean with its bootstrap interval."""
    values = _values(x, y, data_range, family, exponents, crop, y_channel)
    powers = "" if _plain(exponents) else f"l^{exponents[0]:g} c^{exponents[1]:g} s^{exponents[2]:g}"
    name = " | ".join(filter(None, (family, powers)))
    return image_score("SSIM", name, values, data_range, crop, y_channel, resamples, seed)


def ssim_maps(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    family: str = "skimage-gaussian",
    exponents: Exponents = (1.0, 1.0, 1.0),
) -> SSIMMaps:
    """The luminance, contrast and structure of every pixel, and their product; `.picture("structure")` to look at."""
    a, b = image_pair(x, y, data_range)
    fam = _family(family, a)
    a, b = _shrink(a, fam).astype(np.float64), _shrink(b, fam).astype(np.float64)
    return _maps(a, b, data_range, fam, exponents)


def ms_ssim(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    scales: int = 5,
    weights: Sequence[float] | None = None,
    family: str = "wang",
    crop: int = 0,
    y_channel: bool = False,
    reduction: str = "mean",
) -> Array | float:
    """Multi-scale SSIM (Wang, Simoncelli & Bovik 2003, eq. 7).

    Contrast·structure at each scale, luminance at the last, under Wang's window; means of 2×2 pixels from one scale to
    the next; negative means count as 0, per channel, then the mean over channels.
    scales: with fewer than 5 the first of Wang's weights are rescaled to sum to 1: call that MS-SSIM-2, -3 …, as
    `ms_ssim_details` does. weights: others, as many as there are scales, taken as they are.
    family: what an odd side does when it is halved. "wang": drops its last line. "pytorch-msssim": gains a line of
    zeros. "piq": repeats its first line (on both sides if either is odd). "torchmetrics": as wang, but the last
    scale's borders are reflected, and the mean over channels is taken before the powers.
    The last scale must have sides of at least 11 px. Raises ShapeError, DtypeError, ConfigError, NonFiniteError.
    """
    values, _ = _ms_values(x, y, data_range, scales, weights, family, crop, y_channel)
    return reduce_values(values, reduction)


def ms_ssim_details(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    scales: int = 5,
    weights: Sequence[float] | None = None,
    family: str = "wang",
    crop: int = 0,
    y_channel: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ImageScore:
    """`ms_ssim` of every pair, and their mean with its bootstrap interval; the label says how many scales."""
    values, used = _ms_values(x, y, data_range, scales, weights, family, crop, y_channel)
    custom = "" if weights is None else "weights " + " ".join(f"{w:g}" for w in used)
    name = " | ".join(filter(None, (family, custom)))
    return image_score(f"MS-SSIM-{len(used)}", name, values, data_range, crop, y_channel, resamples, seed)


def _values(x, y, data_range, family, exponents, crop, y_channel) -> Array:
    a, b = image_pair(x, y, data_range, crop, y_channel)
    fam = _family(family, a)
    out = np.empty(len(a))

    def part(i: int, j: int) -> None:
        for k in range(i, j):
            p, q = _shrink(a[k : k + 1], fam), _shrink(b[k : k + 1], fam)
            if _plain(exponents):
                out[k] = _means(p[0], q[0], data_range, fam)[:, 0].mean()
            else:
                p, q = p.astype(np.float64), q.astype(np.float64)
                out[k] = _maps(p, q, data_range, fam, exponents).ssim.mean()

    share(len(a), part)
    return out


def _ms_values(x, y, data_range, scales, weights, family, crop, y_channel) -> tuple[Array, tuple[float, ...]]:
    a, b = image_pair(x, y, data_range, crop, y_channel)
    if family not in POOLINGS:
        raise ConfigError(f"unknown MS-SSIM family {family!r}; there are {', '.join(POOLINGS)}.")
    if weights is None and not 1 <= scales <= 5:
        raise ConfigError(f"Wang's weights are for 1 to 5 scales; got {scales}: give weights= for more.")
    used = tuple(MS_WEIGHTS[:scales] if weights is None else weights)
    if not used or min(used) < 0:
        raise ConfigError(f"weights are one number from 0 on for each scale; got {used}.")
    if weights is None and scales < 5:
        used = tuple(np.array(used) / sum(used))
    side, up = min(a.shape[1:3]), family in ("pytorch-msssim", "piq")
    last = -(-side >> (len(used) - 1)) if up else side >> (len(used) - 1)
    if last < len(_WANG):
        raise ShapeError(
            f"MS-SSIM with {len(used)} scales needs 11 px at the last, and sides of {a.shape[1]}x{a.shape[2]} px leave "
            f"{last}: use fewer scales."
        )
    out = np.empty(len(a))
    valid, reflected = FAMILIES["skimage-gaussian"], FAMILIES["torchmetrics"]

    def part(i: int, j: int) -> None:
        for k in range(i, j):
            p, q = a[k], b[k]
            product = np.ones(1)
            for scale, weight in enumerate(used):
                if scale:
                    p, q = _halve(p, family), _halve(q, family)
                at_last = scale == len(used) - 1
                means = _means(p, q, data_range, reflected if at_last and family == "torchmetrics" else valid)
                term = means[:, 0 if at_last else 1]  # C
                term = term.mean(keepdims=True) if family == "torchmetrics" else term
                product = product * np.maximum(term, 0) ** weight
            out[k] = product.mean()

    share(len(a), part)
    return out, used


def _means(x: np.ndarray, y: np.ndarray, data_range: float, fam: _Family) -> Array:
    """Of one pair H,W,C: the mean of l·c·s and of c·s over the pixels of each channel, C,2."""
    from ._ssim_loops import sums7, sums11  # here, so that Numba is loaded by the first call and not by import

    if fam.reflect:
        x, y = _reflect(x, fam), _reflect(y, fam)
    loop: Callable = {7: sums7, 11: sums11}[len(fam.window)]
    out = np.empty((x.shape[2], 2))
    loop(x, y, np.array(fam.window), _unbias(fam), (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, out)
    return out / ((x.shape[0] - len(fam.window) + 1) * (x.shape[1] - len(fam.window) + 1))


def _maps(x: Array, y: Array, data_range: float, fam: _Family, exponents: Exponents) -> SSIMMaps:
    """x, y: N,H,W,C."""
    if fam.reflect:
        x, y = (np.stack([_reflect(image, fam) for image in z]) for z in (x, y))
    w = np.array(fam.window)
    mx, my = _filter(x, w), _filter(y, w)
    vx = np.maximum(_unbias(fam) * (_filter(x * x, w) - mx * mx), 0)
    vy = np.maximum(_unbias(fam) * (_filter(y * y, w) - my * my), 0)
    cov = _unbias(fam) * (_filter(x * y, w) - mx * my)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    sigma = np.sqrt(vx * vy)
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    contrast = (2 * sigma + c2) / (vx + vy + c2)
    structure = (cov + c2 / 2) / (sigma + c2 / 2)
    alpha, beta, gamma = exponents
    # l is negative only where the means differ in sign
    full = _power(luminance, alpha) * contrast**beta * _power(structure, gamma)
    return SSIMMaps(luminance, contrast, structure, full)


def _family(name: str, images: np.ndarray) -> _Family:
    if name not in FAMILIES:
        raise ConfigError(f"unknown SSIM family {name!r}; there are {', '.join(FAMILIES)}.")
    fam = FAMILIES[name]
    need = len(fam.window) // 2 + 1 if fam.reflect else len(fam.window)
    if min(images.shape[1:3]) < need:
        raise ShapeError(f"{name} SSIM needs sides of at least {need} px; got {images.shape[1]}x{images.shape[2]}.")
    return fam


def _plain(exponents: Exponents) -> bool:
    return tuple(exponents) == (1, 1, 1)


def _unbias(fam: _Family) -> float:
    return len(fam.window) ** 2 / (len(fam.window) ** 2 - 1) if fam.sample_covariance else 1.0


def _reflect(image: np.ndarray, fam: _Family) -> np.ndarray:
    pad = len(fam.window) // 2
    return np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")


def _power(x: Array, p: float) -> Array:
    return x if p == 1 else np.sign(x) * np.abs(x) ** p


def _filter(x: Array, w: Array) -> Array:
    """N,H,W,C under a separable window, valid region only."""
    h, wd = x.shape[1] - len(w) + 1, x.shape[2] - len(w) + 1
    x = sum(wk * x[:, k : k + h] for k, wk in enumerate(w))
    return sum(wk * x[:, :, k : k + wd] for k, wk in enumerate(w))


def _shrink(x: np.ndarray, fam: _Family) -> np.ndarray:
    factor = max(1, round(min(x.shape[1:3]) / 256))
    return _pool(x, factor) if fam.shrink and factor > 1 else x


def _pool(x: np.ndarray, k: int) -> Array:
    """Means of k×k pixels, N,H,W,C -> N,H//k,W//k,C; what is left over at the end of a side is dropped."""
    h, w = x.shape[1] // k, x.shape[2] // k
    x = x[:, : k * h, : k * w].astype(np.float64)
    return x.reshape(len(x), h, k, w, k, -1).mean((2, 4))


def _halve(image: np.ndarray, family: str) -> Array:
    odd = image.shape[0] % 2, image.shape[1] % 2
    if family == "pytorch-msssim" and any(odd):
        image = np.pad(image, ((odd[0], odd[0]), (odd[1], odd[1]), (0, 0)))
    elif family == "piq" and any(odd):
        image = np.pad(image, ((1, 0), (1, 0), (0, 0)), mode="edge")
    return _pool(image[None], 2)[0]
