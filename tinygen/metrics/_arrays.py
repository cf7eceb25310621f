"""Checks at the door of the metrics: what arrives becomes float64, finite, of the right shape, or raises."""

import math

import numpy as np
import numpy.typing as npt

from tinygen.errors import DtypeError, NonFiniteError, ShapeError

from ._blas import blas_threads, product

Array = npt.NDArray[np.float64]

# rows of a distance matrix held at once; 2048 x 10,000 float64 is 160 MB
ROWS = 2048
CHUNK = 8192  # samples held at once in float64; 128 MB at 2048 features


def as_array(x: npt.ArrayLike, name: str) -> np.ndarray:
    """`x` as an array of real numbers, of its own dtype. Raises ShapeError (rows of several sizes), DtypeError."""
    try:
        a = np.asarray(x)
    except ValueError as error:
        raise ShapeError(f"{name} mixes arrays of several shapes, and all must have one: {error}.") from None
    if a.dtype.kind == "O" and a.size and hasattr(a.flat[0], "shape"):
        raise ShapeError(f"{name} mixes arrays of several shapes, and all must have one.")
    if a.dtype.kind not in "fiu":
        raise DtypeError(f"{name} has dtype {a.dtype}; real numbers, floating-point or integer, are needed.")
    return a


def numeric_features(x: npt.ArrayLike, name: str) -> np.ndarray:
    """`x` as an array N,D of finite features in its own dtype. Raises ShapeError, DtypeError, NonFiniteError."""
    a = as_array(x, name)
    if a.ndim != 2:
        raise ShapeError(
            f"{name} has shape {a.shape}; features are N,D: flatten each sample with x.reshape(len(x), -1), "
            "or pass images through an extractor first."
        )
    if not a.shape[1]:
        raise ShapeError(f"{name} has shape {a.shape}: no feature; at least one is needed.")
    require_finite(a, name)
    return a


def as_features(x: npt.ArrayLike, name: str) -> Array:
    """`x` as a float64 array N,D of finite features. Raises ShapeError, DtypeError, NonFiniteError naming `name`."""
    return numeric_features(x, name).astype(np.float64, copy=False)


def feature_pair(real: npt.ArrayLike, fake: npt.ArrayLike, least: int, why: str) -> tuple[Array, Array]:
    """Both sets as float64 N,D and M,D, with at least `least` samples each: "`why` needs at least …".

    Raises ShapeError (D differs, too few samples, not N,D), DtypeError, NonFiniteError.
    """
    r, f = as_features(real, "real"), as_features(fake, "fake")
    require_same_dims(r.shape[1], f.shape[1])
    require_count("real", len(r), least, why)
    require_count("fake", len(f), least, why)
    return r, f


def require_same_dims(one: int, other: int, names: tuple[str, str] = ("real", "fake")) -> None:
    """Raise ShapeError unless both sets have as many features."""
    if one != other:
        raise ShapeError(
            f"{names[0]} has {one} features per sample and {names[1]} has {other}; use one extractor for both."
        )


def require_count(name: str, n: int, least: int, why: str) -> None:
    """Raise ShapeError if n < least."""
    if n < least:
        raise ShapeError(f"{name} has {n} sample(s); {why} needs at least {least}.")


def count_note(n_real: int, n_fake: int) -> tuple[str, ...]:
    """A sentence for the report where the two sets differ in size, else nothing."""
    if n_real == n_fake:
        return ()
    return (f"N differs: {n_real} real, {n_fake} fake; compare only with scores taken at the same two N.",)


def as_images(x: npt.ArrayLike, name: str) -> Array:
    """`x` as float64 N,H,W,C in [0, 1]: uint8 is divided by 255, floats must already lie in [0, 1].

    Raises ShapeError, DtypeError, NonFiniteError naming `name`.
    """
    a = as_array(x, name)
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


def require_finite(a: np.ndarray, name: str) -> None:
    """Raise NonFiniteError, with the count and the first index, if `a` holds a NaN or an infinity."""
    if a.dtype.kind != "f" or np.isfinite(a.sum(dtype=np.float64)):  # a NaN or an infinity shows in the sum
        return
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
    d = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * product(a, b.T)
    return np.maximum(d, 0)


def gram(x: np.ndarray, centre: Array | float = 0.0) -> Array:
    """(x - c)ᵀ(x - c) of x N,D in float64; exactly symmetric."""
    total = np.zeros((x.shape[1], x.shape[1]))
    with blas_threads(x.shape[1]):
        for i in range(0, len(x), CHUNK):
            rows = x[i : i + CHUNK].astype(np.float64)
            rows -= centre
            total = rows.T @ rows if i == 0 else total + rows.T @ rows
    return total
