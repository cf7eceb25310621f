"""Bits per dimension: likelihoods on one scale, whatever interval the model's density lives on.

An image of D values q in 0..levels-1. A density p over a rescaled, dequantised value x says P(q) = p(x) ·
|bin| per dimension, so -log₂ P / D is -log₂ p / D plus log₂ of the bins per unit length (Theis et al. 2016,
§3.1).
"""

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError


def bits_offset(support: str = "discrete", levels: int = 256) -> float:
    """The bits per dimension that a change of scale adds.

    "discrete": nats are of probabilities of the integers themselves: 0.
    "unit": density of (q + u) / levels on [0, 1], u ~ U[0, 1): log₂ levels, which is 8 for bytes.
    "symmetric": density on [-1, 1] with x = 2q / (levels - 1) - 1: log₂((levels - 1) / 2), 6.99435 for bytes.
    """
    if levels < 2:
        raise ConfigError(f"levels counts the values a dimension can take, at least 2; got {levels}.")
    offsets = {"discrete": 0.0, "unit": np.log2(levels), "symmetric": np.log2((levels - 1) / 2)}
    if support not in offsets:
        raise ConfigError(f"unknown support {support!r}; choose {', '.join(offsets)}.")
    return float(offsets[support])


def bits_per_dim(
    nats: npt.ArrayLike, dims: int, *, support: str = "discrete", levels: int = 256
) -> npt.NDArray[np.float64] | float:
    """Negative log-likelihood in nats per image -> bits per dimension: nats / (D ln 2) + offset.

    nats: a number, or an array of any shape (one value per image), -log p summed over the image's `dims`
    values.
    support, levels: see `bits_offset`. Uniform noise over the levels scores log₂ levels: 8 for bytes, 4.087
    for the digits' 17 levels. Returns float64 of the same shape. Raises ShapeError, ConfigError.
    """
    if dims < 1:
        raise ShapeError(f"dims counts the values of one image, at least 1; got {dims}.")
    out = np.asarray(nats, dtype=np.float64) / (dims * np.log(2)) + bits_offset(support, levels)
    return float(out) if out.ndim == 0 else out
