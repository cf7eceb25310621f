"""Checks at the door of the metrics: what arrives becomes float64, finite, of the right shape, or raises."""

import math

import numpy as np
import numpy.typing as npt

from tinygen.errors import DtypeError, NonFiniteError, ShapeError

Array = npt.NDArray[np.float64]

# rows of a distance matrix held at once; 2048 x 10,000 float64 is 160 MB
ROWS = 2048


def as_features(x: npt.ArrayLike, name: str) -> Array:
    """`x` as a float64 array N,D of finite features. Raises ShapeError, NonFiniteError naming `name`."""
    a = np.asarray(x, dtype=np.float64)
    if a.ndim != 2:
        raise ShapeError(
            f"{name} has shape {a.shape}; features are N,D: flatten each sample with x.reshape(len(x), -1), "
            "or pass images through an extractor first."
        )
    require_finite(a, name)
    return a


def as_images(x: npt.ArrayLike, name: str) -> Array:
    """`x` as float64 N,H,W,C in [0, 1]: uint8 is divided by 255, floats must already lie in [0, 1].

    Raises ShapeError, DtypeError, NonFiniteError naming `name`.
    """
    a = np.asarray(x)
    if a.ndim != 4:
        raise ShapeError(f"{name} has shape {a.shape}; images are N,H,W,C (grey: C = 1).")
    if a.dtype == np.uint8:
        return a / 255.0
    if not np.issubdtype(a.dtype, np.floating):
        raise DtypeError(f"{name} is {a.dtype}; images are uint8 in 0..255 or float in [0, 1].")
    a = a.astype(np.float64)
    require_finite(a, name)
    if a.size and (a.min() < 0 or a.max() > 1):
        raise DtypeError(
            f"{name} spans [{a.min():.4g}, {a.max():.4g}]; float images lie in [0, 1]: "
            "from [-1, 1] use (x + 1) / 2 and clip, or pass uint8."
        )
    return a


def require_finite(a: Array, name: str) -> None:
    """Raise NonFiniteError, with the count and the first index, if `a` holds a NaN or an infinity."""
    bad = ~np.isfinite(a)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise NonFiniteError(f"{name} has {int(bad.sum())} non-finite value(s), the first at index {first}.")


def flat(images: Array) -> Array:
    """N,H,W,C -> N, H·W·C; N may be 0."""
    return images.reshape(len(images), math.prod(images.shape[1:]))


def squared_distances(a: Array, b: Array) -> Array:
    """||a_i - b_j||² for a N,D and b M,D -> N,M, by one matrix product.

    The expansion |a|² - 2ab + |b|² cancels badly far from the origin, so both are re-centred on b's mean.
    """
    centre = b.mean(0)
    a, b = a - centre, b - centre
    d = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    return np.maximum(d, 0)
