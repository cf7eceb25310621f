"""Pairs of images: PSNR, SSIM and MS-SSIM, every convention by name, in float64.

SSIM (Wang et al. 2004, eqs. 6-13) = l^α c^β s^γ with

    l = (2μxμy + C1) / (μx² + μy² + C1)   c = (2σxσy + C2) / (σx² + σy² + C2)   s = (σxy + C3) / (σxσy + C3)

C1 = (0.01 L)², C2 = (0.03 L)², C3 = C2 / 2, L the data range, local moments under a window. Published numbers
disagree in the second digit because windows, covariances and borders differ; hence `family`.

Images are H,W or H,W,C or N,H,W,C, of one dtype or two; `data_range` is always explicit (255 for bytes, 1 for
[0, 1], 2 for [-1, 1]): a guessed range is a wrong score.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, require_finite

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli & Bovik 2003, §3.2


@dataclass(frozen=True)
class _Family:
    window: tuple[float, ...]  # one axis of a separable window
    sample_covariance: bool
    reflect: bool  # pad by reflection and keep every pixel, instead of the valid region


def _gaussian(sigma: float, radius: int) -> tuple[float, ...]:
    t = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return tuple(t / t.sum())


FAMILIES = {
    # Wang's own: 11-tap Gaussian, population covariance, 5 px cropped; also pytorch-msssim's
    "skimage-gaussian": _Family(_gaussian(1.5, 5), sample_covariance=False, reflect=False),
    # scikit-image's default arguments
    "skimage-uniform": _Family((1 / 7,) * 7, sample_covariance=True, reflect=False),
    # torchmetrics 1.9: borders reflected, none cropped
    "torchmetrics": _Family(_gaussian(1.5, 5), sample_covariance=False, reflect=True),
}


def psnr(
    x: npt.ArrayLike, y: npt.ArrayLike, *, data_range: float, crop: int = 0, reduction: str = "mean"
) -> Array | float:
    """Peak signal-to-noise ratio in dB: 10 log₁₀(L² / MSE); equal images give inf.

    crop: pixels dropped at each border first (super-resolution papers drop `scale`, on luma: see `luma`).
    reduction: "mean" of the per-image PSNRs, "pooled" (the PSNR of the mean MSE, which is lower), or "none"
    (N,). Raises ShapeError, ConfigError, NonFiniteError.
    """
    a, b = _pair(x, y, data_range)
    if crop < 0 or min(a.shape[1:3]) <= 2 * crop:
        raise ShapeError(f"crop={crop} leaves nothing of images {a.shape[1]}x{a.shape[2]}.")
    h, w = a.shape[1] - crop, a.shape[2] - crop
    mse = ((a - b)[:, crop:h, crop:w] ** 2).mean((1, 2, 3))
    if reduction == "pooled":
        mse = mse.mean()
    with np.errstate(divide="ignore"):
        value = 10 * np.log10(data_range**2 / mse)
    return float(value) if reduction == "pooled" else _reduce(value, reduction)


def ssim(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    data_range: float,
    family: str = "skimage-gaussian",
    exponents: tuple[float, float, float] = (1.0, 1.0, 1.0),
    reduction: str = "mean",
) -> Array | float:
    """Structural similarity, the mean over pixels and channels, then (reduction "mean") over images; or
    "none": (N,).

    family: a key of `FAMILIES`. exponents: (α, β, γ); a fractional γ acts as sign(s) |s|^γ. Raises ShapeError
    (shapes differ, images smaller than the window), ConfigError, NonFiniteError.
    """
    a, b = _pair(x, y, data_range)
    if family not in FAMILIES:
        raise ConfigError(f"unknown SSIM family {family!r}; there are {', '.join(FAMILIES)}.")
    fam = FAMILIES[family]
    need = len(fam.window) // 2 + 1 if fam.reflect else len(fam.window)
    if min(a.shape[1:3]) < need:
        raise ShapeError(f"{family} SSIM needs sides of at least {need} px; got {a.shape[1]}x{a.shape[2]}.")
    return _reduce(_maps(a, b, data_range, fam, exponents)[0].mean((1, 2, 3)), reduction)


def ms_ssim(
    x: npt.ArrayLike, y: npt.ArrayLike, *, data_range: float, scales: int = 5, reduction: str = "mean"
) -> Array | float:
    """Multi-scale SSIM (Wang, Simoncelli & Bovik 2003, eq. 7).

    Contrast·structure at each scale, luminance at the last. Wang's window and weights, 2×2 mean pooling (an
    odd side drops its last line); negative means count as 0, per channel, then the mean over channels. Sides
    > 10·2^(scales-1): 160 for 5. With fewer scales the first weights are rescaled to sum to 1: call that
    MS-SSIM-2, -3 … Raises ShapeError, ConfigError, NonFiniteError.
    """
    a, b = _pair(x, y, data_range)
    if not 1 <= scales <= 5:
        raise ConfigError(f"MS-SSIM has 1 to 5 scales; got {scales}.")
    need = 10 * 2 ** (scales - 1)
    if min(a.shape[1:3]) <= need:
        raise ShapeError(
            f"MS-SSIM with {scales} scales needs sides above {need} px; got {a.shape[1]}x{a.shape[2]}: "
            "use fewer scales."
        )
    weights = np.array(MS_WEIGHTS[:scales])
    if scales < 5:
        weights = weights / weights.sum()
    out = np.ones((len(a), a.shape[3]))
    for k, weight in enumerate(weights):
        full, contrast = _maps(a, b, data_range, FAMILIES["skimage-gaussian"], (1, 1, 1))
        term = (full if k == scales - 1 else contrast).mean((1, 2))  # N, C
        out *= np.maximum(term, 0) ** weight
        a, b = _halve(a), _halve(b)
    return _reduce(out.mean(1), reduction)


def luma(images: npt.ArrayLike, *, data_range: float) -> Array:
    """BT.601 luma in studio swing, as super-resolution papers score: RGB …,3 in [0, L] -> …,1."""
    x = np.asarray(images, dtype=np.float64)
    if x.shape[-1:] != (3,):
        raise ShapeError(f"luma takes RGB images, …,3; got shape {x.shape}.")
    return (x @ np.array([[65.481], [128.553], [24.966]]) + 16 * data_range) / 255


def _maps(
    x: Array, y: Array, data_range: float, fam: _Family, exponents: tuple[float, float, float]
) -> tuple[Array, Array]:
    """Maps N,H',W',C of l^α c^β s^γ and of c·s."""
    w = np.array(fam.window)
    if fam.reflect:
        pad = len(w) // 2
        width = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        x, y = np.pad(x, width, mode="reflect"), np.pad(y, width, mode="reflect")
    mx, my = _filter(x, w), _filter(y, w)
    unbias = len(w) ** 2 / (len(w) ** 2 - 1) if fam.sample_covariance else 1.0
    vx = unbias * (_filter(x * x, w) - mx * mx)
    vy = unbias * (_filter(y * y, w) - my * my)
    cov = unbias * (_filter(x * y, w) - mx * my)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    both = (2 * cov + c2) / (vx + vy + c2)  # c·s, whose σxσy cancels because C3 = C2 / 2
    if tuple(exponents) == (1, 1, 1):
        return luminance * both, both
    alpha, beta, gamma = exponents
    sigma = np.sqrt(np.maximum(vx, 0) * np.maximum(vy, 0))
    contrast = (2 * sigma + c2) / (vx + vy + c2)
    structure = (cov + c2 / 2) / (sigma + c2 / 2)
    # l is negative only where the means differ in sign
    return _power(luminance, alpha) * contrast**beta * _power(structure, gamma), both


def _power(x: Array, p: float) -> Array:
    return np.sign(x) * np.abs(x) ** p


def _filter(x: Array, w: Array) -> Array:
    """N,H,W,C under a separable window, valid region only."""
    h, wd = x.shape[1] - len(w) + 1, x.shape[2] - len(w) + 1
    x = sum(wk * x[:, k : k + h] for k, wk in enumerate(w))
    return sum(wk * x[:, :, k : k + wd] for k, wk in enumerate(w))


def _halve(x: Array) -> Array:
    h, w = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * h, : 2 * w].reshape(len(x), h, 2, w, 2, -1).mean((2, 4))


def _pair(x: npt.ArrayLike, y: npt.ArrayLike, data_range: float) -> tuple[Array, Array]:
    a, b = np.asarray(x), np.asarray(y)
    if a.shape != b.shape:
        raise ShapeError(f"the two images have shapes {a.shape} and {b.shape}; they must be equal.")
    if a.ndim not in (2, 3, 4) or not a.size or (a.ndim == 3 and a.shape[2] > 4):
        raise ShapeError(
            f"images are H,W or H,W,C or N,H,W,C and not empty; got {a.shape}: "
            "give a stack of grey images a channel axis, x[..., None]."
        )
    if not data_range > 0:
        raise ConfigError(f"data_range is the width of the value range, above 0; got {data_range}.")
    out = []
    for name, z in (("the first image", a), ("the second image", b)):
        spread = float(z.max()) - float(z.min())
        if np.issubdtype(z.dtype, np.integer) and spread > data_range:
            raise ConfigError(
                f"{name} is {z.dtype} and spans {spread:g}, more than data_range={data_range:g}."
            )
        z = z.astype(np.float64)
        require_finite(z, name)
        z = z[..., None] if z.ndim == 2 else z
        out.append(z if z.ndim == 4 else z[None])
    return out[0], out[1]


def _reduce(values: Array, reduction: str) -> Array | float:
    if reduction not in ("mean", "none"):
        raise ConfigError(f"unknown reduction {reduction!r}; choose mean or none (psnr also takes pooled).")
    return float(values.mean()) if reduction == "mean" else values
