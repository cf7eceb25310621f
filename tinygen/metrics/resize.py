"""The ways in which published scores brought images to 299×299, by name: the same pictures and weights give another
number on another path, by a few per cent of the features.

    tf1            TensorFlow 1's bilinear: source pixel i·in/out, no half-pixel shift, no antialiasing (Heusel et al.
                   2017; torch-fidelity)
    pytorch-fid    bilinear with half-pixel centres, no antialiasing, on x/255; then 2x − 1
    clean          PIL's bicubic, antialiased, in floating point and clipped, never rounded (Parmar et al. 2022)
    torchmetrics   bilinear with half-pixel centres, antialiased: torchmetrics' default

All but pytorch-fid's hand (x − 128) / 128 to the network, which is not 2·x/255 − 1. Positions are computed in float32
where the source does so: at 500 pixels that moves an edge by a hundredth of a grey level.
"""

from __future__ import annotations

import difflib
from functools import cache

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, DtypeError, ShapeError

RESIZERS = ("tf1", "pytorch-fid", "clean", "torchmetrics")
SIDE = 299
Floats = npt.NDArray[np.float32]


def check_resizer(how: str) -> str:
    """`how`, if it is one of RESIZERS. Raises ConfigError."""
    if how not in RESIZERS:
        near = difflib.get_close_matches(str(how), RESIZERS, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"unknown resizer {how!r}; there are {', '.join(RESIZERS)}{hint}")
    return how


def to_inception(images: npt.ArrayLike, how: str) -> Floats:
    """images uint8 N,H,W,C, grey (repeated) or RGB -> N,299,299,3 float32, as the path `how` gives them to Inception.

    Raises ConfigError, DtypeError for anything but uint8 (scores are defined on 8-bit images), ShapeError.
    """
    check_resizer(how)
    x = np.asarray(images)
    if x.dtype != np.uint8:
        raise DtypeError(f"images are {x.dtype}; Inception's scores are defined on 8-bit images, so round yours to "
                         "uint8 in 0..255 first.")
    if x.ndim != 4 or x.shape[3] not in (1, 3) or min(x.shape[1:3]) < 1:
        raise ShapeError(f"images have shape {x.shape}; Inception takes N,H,W,C with C = 3, or 1 for grey. Alpha must "
                         "be composed onto a background first.")
    if how == "pytorch-fid":
        y = resize(x.astype(np.float32) / np.float32(255), (SIDE, SIDE), how)
        y *= 2
        y -= 1
    else:
        y = resize(x.astype(np.float32), (SIDE, SIDE), how)
        if how == "clean":
            np.clip(y, 0, 255, out=y)
        y -= 128
        y /= 128
    return np.ascontiguousarray(np.broadcast_to(y, (*y.shape[:3], 3)))


def resize(x: Floats, size: tuple[int, int], how: str) -> Floats:
    """x float32 N,H,W,C -> N,h,w,C for size = (h, w), by one of RESIZERS, range and scale as they were."""
    check_resizer(how)
    if how == "clean":
        return _pil_bicubic(x, size)
    (h, w), (_, H, W, _) = size, x.shape
    if how == "torchmetrics":
        return _weigh(_weigh(x, 2, *_triangle(W, w)), 1, *_triangle(H, h))
    half = how == "pytorch-fid"
    return _lerp(_lerp(x, 2, *_two_taps(W, w, half)), 1, *_two_taps(H, h, half))


def bilinear(x: Floats, size: tuple[int, int]) -> Floats:
    """Half-pixel bilinear without antialiasing, PyTorch's align_corners=False: what LPIPS enlarges its maps with."""
    return resize(x, size, "pytorch-fid")


@cache
def _two_taps(n: int, out: int, half_pixel: bool) -> tuple[np.ndarray, np.ndarray, Floats]:
    """(left neighbour, right neighbour, share of the right one) of each of `out` places on a line of n pixels."""
    scale = np.float32(n) / np.float32(out)
    at = np.arange(out, dtype=np.float32)
    if half_pixel:  # PyTorch's product and difference are one instruction, rounded once
        at = np.maximum(np.float64(scale) * (at + 0.5) - 0.5, 0).astype(np.float32)
    else:
        at = at * scale
    left = np.minimum(at.astype(np.intp), n - 1)
    share = np.clip(at - left.astype(np.float32), 0, 1).astype(np.float32)
    return left, np.minimum(left + 1, n - 1), share


def _lerp(x: Floats, axis: int, left: np.ndarray, right: np.ndarray, share: Floats) -> Floats:
    a, b = np.take(x, left, axis), np.take(x, right, axis)
    b -= a
    b *= share.reshape(-1, *[1] * (x.ndim - axis - 1))
    b += a
    return b


@cache
def _triangle(n: int, out: int) -> tuple[np.ndarray, Floats]:
    """(indices, weights), both out,K, of PyTorch's antialiased bilinear: a triangle as wide as an output pixel, or as
    an input pixel where that is wider, cut off at the border and normalised."""
    scale = np.float32(n) / np.float32(out)
    width = max(scale, np.float32(1))
    centre = scale * (np.arange(out, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((centre - width + np.float32(0.5)).astype(np.intp), 0)
    last = np.minimum((centre + width + np.float32(0.5)).astype(np.intp), n)
    index = first[:, None] + np.arange((last - first).max())
    distance = (index.astype(np.float32) - centre[:, None] + np.float32(0.5)) / width
    weight = np.where(index < last[:, None], np.maximum(1 - np.abs(distance), 0), 0)
    weight /= weight.sum(1, keepdims=True)
    return np.minimum(index, n - 1), weight.astype(np.float32)


def _weigh(x: Floats, axis: int, index: np.ndarray, weight: Floats) -> Floats:
    shape = (-1, *[1] * (x.ndim - axis - 1))
    y = np.take(x, index[:, 0], axis) * weight[:, 0].reshape(shape)
    for k in range(1, index.shape[1]):
        y += np.take(x, index[:, k], axis) * weight[:, k].reshape(shape)
    return y


def _pil_bicubic(x: Floats, size: tuple[int, int]) -> Floats:
    from PIL import Image

    y = np.empty((len(x), *size, x.shape[3]), np.float32)
    for i in range(len(x)):
        for c in range(x.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(x[i, :, :, c]))
            y[i, :, :, c] = np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return y
