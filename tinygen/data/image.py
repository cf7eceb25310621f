"""Between bytes and floats, contact sheets, and PNG files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from tinygen.errors import DataError, DtypeError, NonFiniteError, ShapeError


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 images of any shape to float32 in [-1, 1]: x / 127.5 - 1. DtypeError if they are not uint8."""
    if images.dtype != np.uint8:
        raise DtypeError(f"to_float takes uint8 images with values 0..255; {images.dtype} arrived")
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float images in [-1, 1] of any shape to uint8: 127.5·(x + 1), rounded half up, clipped to 0..255.

    The inverse of `to_float`, exactly. Anything with `__array__` (a Tensor) will do; NaN raises
    NonFiniteError.
    """
    x = np.asarray(images)
    if x.dtype.kind != "f":
        raise DtypeError(f"to_uint8 takes float images in [-1, 1]; {x.dtype} arrived")
    if np.isnan(x).any():
        raise NonFiniteError(f"to_uint8 got {int(np.isnan(x).sum())} NaN among {x.size} pixel values; an "
                             "image with NaN cannot be shown, so look for the step at which training "
                             "diverged")
    scaled = (x.astype(np.float32) + 1) * np.float32(127.5)
    return np.clip(np.floor(scaled + np.float32(0.5)), 0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, pad: int = 1, scale: int = 1,
         background: int = 255) -> np.ndarray:
    """A contact sheet, uint8, H, W (grey images) or H, W, 3 (colour).

    images: N, H, W, C, uint8 or float in [-1, 1]; row by row from the top left. Grey and colour sheets alike
    have `pad` pixels of `background` between and around the images; images (not the padding) are enlarged
    `scale` times.
    columns: default the smallest square that holds them all. ShapeError if there are no images.
    """
    x = np.asarray(images)
    x = x if x.dtype == np.uint8 else to_uint8(x)
    if x.ndim != 4 or x.shape[3] not in (1, 3) or 0 in x.shape:
        raise ShapeError(f"grid takes at least one image as N, H, W, C with C = 1 or 3; {x.shape} arrived")
    n, h, w, c = x.shape
    columns = min(n, columns or int(np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    h, w = h * scale, w * scale
    sheet = np.full((rows * (h + pad) + pad, columns * (w + pad) + pad, c), background, np.uint8)
    for i, image in enumerate(x):
        top, left = pad + i // columns * (h + pad), pad + i % columns * (w + pad)
        sheet[top:top + h, left:left + w] = image.repeat(scale, 0).repeat(scale, 1)
    return sheet[..., 0] if c == 1 else sheet


def save_png(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write uint8 H, W or H, W, 1 or H, W, 3 as a PNG: a temporary file beside it, synced, then renamed.

    A reader sees the old file or the new one, never a half. DataError if the disk is full or the folder is
    missing or read-only.
    """
    from PIL import Image

    a = np.asarray(array)
    if a.ndim == 3 and a.shape[2] == 1:
        a = a[..., 0]
    if a.dtype != np.uint8:
        raise DtypeError(f"save_png takes uint8; {a.dtype} arrived; to_uint8 converts images in [-1, 1]")
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] != 3) or 0 in a.shape:
        raise ShapeError(f"save_png takes one image as H, W or H, W, 1 or H, W, 3; {a.shape} arrived")
    target = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as f:
            Image.fromarray(np.ascontiguousarray(a)).save(f, format="PNG")
            f.flush()
            os.fsync(f.fileno())
        mask = os.umask(0)
        os.umask(mask)
        # mkstemp keeps a file to its owner; pictures are to be seen
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write the picture {target}: {error.strerror or error}; make room, or choose "
                        "a folder that exists and can be written to") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
