"""Pictures in a folder or a zip, with a subfolder for each class, decoded by Pillow."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tinygen.data.dataset import Dataset
from tinygen.data.readers.files import (
    ARCHIVE_ERRORS,
    Source,
    cannot_read,
    check_compression,
    natural,
    read_exactly,
)
from tinygen.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))
# No others: Pillow hands some formats (EPS) to external programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
MOST_PIXELS = 2**26
MOST_BYTES = 2**28                                      # of one compressed picture
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test",
         "val": "test", "valid": "test", "validation": "test"}


@dataclass(frozen=True)
class Picture:
    """A picture not yet decoded: its name for messages, its place below the root, its bytes on demand."""

    where: str
    place: PurePosixPath
    open: Callable[[], bytes]


def read(source: Source, size: int | tuple[int, int] | None, channels: int | None) -> Dataset:
    """Pictures as a data set.

    Classes are the subfolders that hold pictures, in natural order (2 before 10); without subfolders there
    are no labels. If the top holds only folders named train, test, val or the like, they are the parts and
    the classes are inside. Transparency is laid on white; 16-bit values are scaled to 8 with rounding;
    palettes and other colour spaces become RGB; of an animation the first frame counts; the camera's
    orientation is applied. The set is grey if every picture is, or as `channels` says; colour becomes grey by
    ITU-R 601 luma, as Pillow does it.
    """
    if channels not in (None, 1, 3):
        raise ConfigError(f"channels must be 1 (grey) or 3 (colour), not {channels}")
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is not None and (len(wanted) != 2 or min(wanted) < 1):
        raise ConfigError(f"size must be a positive number of pixels or a pair (H, W), not {size}")
    if source.path.is_dir():
        return _read(source, list(_in_folder(source.path)), wanted, channels)
    try:
        with zipfile.ZipFile(source.path) as z:
            return _read(source, list(_in_zip(source, z)), wanted, channels)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{source.path} is a damaged or encrypted zip file ({error}); download it again, or "
                        "zip it without a password") from error
    except OSError as error:
        raise cannot_read(source.path, error) from error


def _read(source: Source, found: list[Picture], wanted: tuple[int, int] | None,
          channels: int | None) -> Dataset:
    if not found:
        raise DataError(f"{source.path} holds no pictures and no other data that tinygen knows; it reads "
                        f"{', '.join(sorted(s[1:] for s in SUFFIXES))} in the {_what(source)} or in a "
                        "subfolder for each class, IDX files and CIFAR batches")
    found.sort(key=lambda p: [natural(part) for part in p.place.parts])
    pictures, parts = _parts(found)
    labels, label_names = _classes(pictures)            # of all parts, so that they number the classes alike
    if parts is not None and source.split is not None:
        keep = [i for i, part in enumerate(parts) if part == source.split]
        if not keep:
            raise DataError(f"{source.path} has no {source.split} part: its subfolders are "
                            f"{', '.join(sorted({p.place.parts[0] for p in found}))}; add a folder "
                            f"{source.split}")
        pictures = [pictures[i] for i in keep]
        labels = None if labels is None else labels[keep]
    headers = [_header(p) for p in pictures]
    grey = channels == 1 if channels else all(mode in GREY_MODES for _, mode in headers)
    if wanted is None:
        for p, (hw, _) in zip(pictures, headers):
            if hw != headers[0][0]:
                raise DataError(f"{source.path} has pictures of different sizes: {pictures[0].place} is "
                                f"{_pixels(headers[0][0])} and {p.place} is {_pixels(hw)}; give size=, for "
                                "instance size=64, to resize and crop them all")
    h, w = wanted or headers[0][0]
    source.check(len(pictures) * h * w * (1 if grey else 3), source.path)
    images = np.empty((len(pictures), h, w, 1 if grey else 3), np.uint8)
    for i, p in enumerate(pictures):
        images[i] = _decode(p, (h, w), grey)
    data = Dataset(images, labels, label_names=label_names, name=source.name.removesuffix(".zip"))
    return data if parts is not None else data.split(source.split)


def _what(source: Source) -> str:
    return "folder" if source.path.is_dir() else "zip"


def _pixels(hw: tuple[int, int]) -> str:
    return f"{hw[1]}×{hw[0]}"


def _parts(found: list[Picture]) -> tuple[list[Picture], list[str | None] | None]:
    """If all pictures lie in folders named train, test or the like: their places below, and their parts."""
    parts = [PARTS.get(p.place.parts[0].lower()) if len(p.place.parts) > 1 else None for p in found]
    if None in parts:
        return found, None
    return [Picture(p.where, PurePosixPath(*p.place.parts[1:]), p.open) for p in found], parts


def _classes(pictures: list[Picture]) -> tuple[np.ndarray | None, list[str]]:
    tops = [p.place.parts[0] if len(p.place.parts) > 1 else None for p in pictures]
    classes = sorted({t for t in tops if t is not None}, key=natural)
    if not classes:
        return None, []
    if None in tops:
        stray = pictures[tops.index(None)]
        raise DataError(f"{stray.where} lies beside the class folders {', '.join(classes[:3])}, so its class "
                        "is unknown; move it into one of them, or all pictures into one folder")
    number = {name: k for k, name in enumerate(classes)}
    return np.array([number[t] for t in tops if t is not None], np.int64), classes


def _in_folder(root: Path) -> Iterator[Picture]:
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise cannot_read(error.filename or root, error)

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:                                # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [s for s in subfolders if not s.startswith(".")]
        for name in files:
            file = Path(folder, name)
            if file.suffix.lower() in SUFFIXES and not name.startswith("."):
                place = PurePosixPath(file.relative_to(root).as_posix())
                yield Picture(str(file), place, partial(_file_bytes, file))


def _file_bytes(file: Path) -> bytes:
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            raise DataError(f"{file} is not a picture: it is no regular file or larger than {MOST_BYTES:,} "
                            "bytes; take it out of the folder")
        return file.read_bytes()
    except OSError as error:
        raise cannot_read(file, error) from error


def _in_zip(source: Source, z: zipfile.ZipFile) -> Iterator[Picture]:
    infos = [i for i in z.infolist() if PurePosixPath(i.filename).suffix.lower() in SUFFIXES
             and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(i.filename).parts)]
    places = [PurePosixPath(i.filename) for i in infos]
    # a zip usually wraps everything in one folder; what all places share says nothing about classes
    shared = len(os.path.commonprefix([place.parent.parts for place in places]))
    for info, place in zip(infos, places):
        where = f"{source.path}: {info.filename}"
        yield Picture(where, PurePosixPath(*place.parts[shared:]), partial(_member_bytes, z, info, where))


def _member_bytes(z: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    if info.file_size > MOST_BYTES:
        raise DataError(f"{where} says that it is {info.file_size:,} bytes long; a picture has at most "
                        f"{MOST_BYTES:,}, so take it out of the zip")
    check_compression(where, info)
    with z.open(info) as f:
        return bytes(read_exactly(f, info.file_size))


def _open(p: Picture, content: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise DataError(f"{p.where} says that it is {image.width}×{image.height} pixels; at most "
                        f"{MOST_PIXELS:,} are read, so shrink it or take it out")
    return image


def _guarded(p: Picture, act: Callable[[Image.Image], T]) -> T:
    """Open a picture and `act` on it; whatever Pillow raises becomes a DataError about the picture."""
    content = p.open()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # Pillow warns of oddities in files that it reads well
            return act(_open(p, content))
    except (DataError, MemoryError):
        raise
    except Exception as error:                          # Pillow's plugins raise nearly anything
        raise DataError(f"{p.where} cannot be decoded as a picture ({type(error).__name__}: {error}); it is "
                        "truncated, damaged or of another format, so replace it or take it out") from error


def _header(p: Picture) -> tuple[tuple[int, int], str]:
    """((H, W) as seen, mode)."""
    def act(image: Image.Image) -> tuple[tuple[int, int], str]:
        turned = image.getexif().get(0x0112, 1) >= 5     # orientations 5..8 exchange the sides
        w, h = image.size
        return ((w, h) if turned else (h, w)), image.mode

    return _guarded(p, act)


def _decode(p: Picture, hw: tuple[int, int], grey: bool) -> np.ndarray:
    """uint8 (H, W, C)."""
    def act(image: Image.Image) -> np.ndarray:
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("its values are floats of unknown range")
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
                raise ValueError("its values exceed 16 bits")
            image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        image = image.convert("L" if grey else "RGB")
        if image.size[::-1] != hw:
            image = _cover(image, hw)
        return np.asarray(image).reshape(*hw, 1 if grey else 3)

    return _guarded(p, act)


def _cover(image: Image.Image, hw: tuple[int, int]) -> Image.Image:
    """Resize with an antialiased bicubic filter so that the picture covers H × W, and cut out the middle."""
    from PIL import Image

    h, w = hw
    scale = max(h / image.height, w / image.width)
    # rounding may put an edge a hair outside, which Pillow refuses
    left, top = max(0.0, (image.width - w / scale) / 2), max(0.0, (image.height - h / scale) / 2)
    box = (left, top, image.width - left, image.height - top)
    return image.resize((w, h), Image.Resampling.BICUBIC, box=box)
