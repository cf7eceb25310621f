"""From a picture of shapes32 back to its caption, by least squares over every template.

The background is the palette entry nearest to the median of the border. A picture with background b, colour c
and cover k/16 (k a template) is b + (c − b)·k/16, so its squared distance to an image I is, with D = I − b,

    |D|² − 2 Σ_ch (c − b)_ch ⟨k/16, D_ch⟩ + |k/16|²·|c − b|²

and the inner products with all 1,458 templates are one matrix product. Every clean image is read exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinygen.data import shapes
from tinygen.data.shapes import BACKGROUND_RGB, COLOUR_RGB, SIZE, Scene
from tinygen.errors import ShapeError

STRICT, LENIENT = 8.0, 24.0                             # residual RMSE, on the scale 0..255


@dataclass(frozen=True, eq=False)
class Parsed:
    """What N pictures show.

    index: int64 (N,), the clean image nearest to each (`shapes.decode` gives its digits)
    rmse: float64 (N,), the distance to it, per value on the scale 0..255
    """

    index: np.ndarray
    rmse: np.ndarray

    @property
    def scenes(self) -> np.ndarray:
        """int64 (N, 5): the fields of `shapes.Scene`."""
        return shapes.decode(self.index)[:, :5]

    @property
    def captions(self) -> list[str]:
        return [shapes.caption(tuple(row)) for row in self.scenes.tolist()]

    @property
    def strict(self) -> np.ndarray:
        """bool (N,): the picture is one of the set's own, or nearly (RMSE ≤ 8)."""
        return self.rmse <= STRICT

    @property
    def lenient(self) -> np.ndarray:
        """bool (N,): the picture is recognisably of the set (RMSE ≤ 24)."""
        return self.rmse <= LENIENT


def parse_images(images: np.ndarray, batch: int = 64) -> Parsed:
    """Read pictures: uint8 or float in [-1, 1] (not rounded), N, 32, 32, 3. ShapeError for another shape."""
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[1:] != (SIZE, SIZE, 3):
        raise ShapeError(f"the parser of shapes takes N, {SIZE}, {SIZE}, 3; {x.shape} arrived")
    index, rmse = np.empty(len(x), np.int64), np.empty(len(x))
    for start in range(0, len(x), batch):
        part = x[start:start + batch]
        values = part.astype(np.float32)
        if part.dtype.kind == "f":
            values = (values + 1) * np.float32(127.5)
        index[start:start + batch], rmse[start:start + batch] = _parse(values)
    return Parsed(index, rmse)


def score(images: np.ndarray, captions: Sequence[str]) -> dict[str, float]:
    """How well pictures follow their (canonical) captions, as shares of all N pictures.

    shape, colour, size, cell, background: the attribute agrees; joint: all five do; strict, lenient: the
    picture is valid (see `Parsed`); joint_strict: it is valid and all five agree.
    """
    if len(images) != len(captions) or len(captions) == 0:
        raise ShapeError(f"score takes one caption for each picture, at least one; {len(images)} pictures "
                         f"and {len(captions)} captions arrived")
    parsed = parse_images(images)
    agree = parsed.scenes == np.array([shapes.parse_caption(text) for text in captions])    # N, 5
    joint = agree.all(axis=1)
    out = {name: float(agree[:, k].mean()) for k, name in enumerate(Scene._fields)}
    shares = {"joint": joint, "strict": parsed.strict, "lenient": parsed.lenient,
              "joint_strict": joint & parsed.strict}
    return out | {name: float(share.mean()) for name, share in shares.items()}


def _parse(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x float32 (N, 32, 32, 3) on the scale 0..255 -> indices (N,), RMSE (N,)."""
    flat, norms, contrast = _tables()
    n = len(x)
    ring = np.concatenate([x[:, 0], x[:, -1], x[:, 1:-1, 0], x[:, 1:-1, -1]], axis=1)       # N, 124, 3
    median = np.median(ring, axis=1)
    background = ((median[:, None] - BACKGROUND_RGB) ** 2).sum(-1).argmin(1)                # N

    away = x.reshape(n, -1, 3) - BACKGROUND_RGB[background][:, None].astype(np.float32)     # N, 1024, 3
    # whole numbers below 2²⁴ for uint8 images, so exact in float32 and the same on every machine
    inner = (away.transpose(0, 2, 1).reshape(-1, SIZE * SIZE) @ flat.T).reshape(n, 3, -1)   # N, 3, 1458
    gain = contrast[background] @ inner                                                     # N, 8, 1458
    gain -= norms[background]
    colour, template = np.divmod(gain.reshape(n, -1).argmax(1), len(flat))

    d = contrast[background, colour].astype(np.float64)                                     # N, 3
    model = flat[template].astype(np.float64)[:, :, None] / 16 * d[:, None]                 # N, 1024, 3
    rmse = np.sqrt(((away - model) ** 2).mean(axis=(1, 2)))
    shape, size, cell, jitter = np.unravel_index(template, (len(shapes.SHAPES), len(shapes.SIZES), 9, 9))
    return shapes.encode(np.stack([shape, colour, size, cell, background, jitter], -1)), rmse


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Templates k float32 (1458, 1024); |k|²·|c − b|²/32 float32 (4, 8, 1458); c − b float32 (4, 8, 3).

    −8 times the squared distance, without |D|², is the gain Σ_ch (c − b)_ch ⟨k, D_ch⟩ − |k|²·|c − b|²/32.
    """
    flat = shapes.templates().reshape(-1, SIZE * SIZE).astype(np.float32)
    contrast = (COLOUR_RGB[None] - BACKGROUND_RGB[:, None]).astype(np.float32)
    norms = (flat ** 2).sum(1) * (contrast ** 2).sum(-1)[..., None] / 32
    return flat, norms, contrast
