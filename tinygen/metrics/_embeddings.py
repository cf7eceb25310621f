"""Pairs of embeddings: checked, in float64, and of length one."""

import numpy as np
import numpy.typing as npt

from tinygen.errors import NonFiniteError, ShapeError

from ._arrays import Array, as_features, require_same_dims

NAMES = ("image_embeddings", "text_embeddings")


def unit_pair(images: npt.ArrayLike, texts: npt.ArrayLike) -> tuple[Array, Array]:
    """Both N,D float64 with rows of length one. Raises ShapeError (N or D differs, none), DtypeError, NonFiniteError
    (a value, or a row of zeros, which points nowhere)."""
    x, y = as_features(images, NAMES[0]), as_features(texts, NAMES[1])
    require_same_dims(x.shape[1], y.shape[1], NAMES)
    if len(x) != len(y):
        raise ShapeError(f"{NAMES[0]} has {len(x)} rows and {NAMES[1]} has {len(y)}; row i of both is one pair.")
    if not len(x):
        raise ShapeError("no pair of embeddings arrived; at least one is needed.")
    return _unit(x, NAMES[0]), _unit(y, NAMES[1])


def _unit(x: Array, name: str) -> Array:
    largest = np.abs(x).max(1, keepdims=True)
    if not largest.all():
        raise NonFiniteError(f"row {int(largest.argmin())} of {name} is all zeros; it has no direction, so no cosine.")
    x = x / largest  # squares of large numbers would overflow
    return x / np.linalg.norm(x, axis=1, keepdims=True)
