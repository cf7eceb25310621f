"""Pictures to be scored: read as they are, or refused with the reason. Nothing is resized, reduced or composed.

`load` prepares pictures for training and may bring them to one form (pictures.py says how). A score of such pictures
would be a score of that preparation, so here whatever would change a pixel is the user's to do: 16-bit values,
transparency, mixed sizes, CMYK, a camera's orientation, animations. What changes none is done and said in `notes`:
palettes are looked up, alpha that is opaque everywhere is dropped, grey pictures among colour are repeated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinygen.data.readers import npz, pictures
from tinygen.data.readers.files import ARCHIVE_ERRORS, LIMIT, Source, cannot_read, natural
from tinygen.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"
DEPTH = 24  # of a PNG's bytes: bits per channel
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass
class Exact:
    """Images uint8 N,H,W,C with C = 1 or 3, the file of each (by its path below the folder), and what was done."""

    images: np.ndarray
    names: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None  # int64 N
    captions: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def read_folder(path: str | Path, progress: Callable[[int], object] = lambda n: None) -> Exact:
    """Every picture in a folder and below it, in natural order of their paths. `progress` is told of each, by 1.

    Raises DataError.
    """
    root, source = Path(path), Source(Path(path), None, LIMIT)
    found = sorted(pictures._in_folder(root), key=lambda p: [natural(part) for part in p.place.parts])
    if not found:
        raise DataError(f"{root} holds no pictures; they are looked for in it and below it, by the endings "
                        f"{', '.join(sorted(s[1:] for s in pictures.SUFFIXES))}.")  # fmt: skip
    images: list[np.ndarray] = []
    done: dict[str, int] = {}
    for p in found:
        image, what = _decode(p)
        if images and image.shape[:2] != images[0].shape[:2]:
            raise DataError(f"{root} has pictures of different sizes: {found[0].place} is {_size(images[0])} and "
                            f"{p.place} is {_size(image)}; a score depends on how they are resized, so bring them to "
                            "one size first.")
        for w in what:
            done[w] = done.get(w, 0) + 1
        images.append(image)
        source.check(len(images) * image.shape[0] * image.shape[1] * 3, root)
        progress(1)
    n, grey = len(images), sum(x.shape[2] == 1 for x in images)
    if 0 < grey < n:
        images = [np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x for x in images]
        done["grey, repeated to three channels"] = grey
    jpeg = sum(p.place.suffix.lower() in (".jpg", ".jpeg") for p in found)
    notes = [f"{count} of {n} pictures: {what}" for what, count in done.items()]
    if jpeg:
        notes.append(f"{jpeg} of {n} pictures are JPEG, whose compression moves scores by itself")
    return Exact(np.stack(images), [str(p.place) for p in found], notes=notes)


def read_npz(path: str | Path) -> Exact:
    """The array `images` (or `arr_0`) of an .npz: uint8, or float in [0, 1] or [-1, 1], rounded to 8 bits and said so.

    Raises DataError.
    """
    source = Source(Path(path), None, LIMIT)
    try:
        with zipfile.ZipFile(path) as z:
            members = {i.filename.removesuffix(".npy"): i for i in z.infolist()}
            key = next((k for k in ("images", "arr_0") if k in members), None)
            if key is None:
                raise DataError(f"{path} should have an array 'images' or 'arr_0' (or 'mu' and 'sigma': statistics) "
                                f"and has {', '.join(sorted(members)) or 'none'}.")  # fmt: skip
            x = npz._member(source, z, members[key])
            wanted = ("labels", "captions", *(["arr_1"] if key == "arr_0" else []))
            parts = {k: npz._member(source, z, members[k]) for k in wanted if k in members}
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is a truncated or damaged archive ({error}); save or copy it again.") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    labels, captions = parts.get("labels", parts.get("arr_1")), parts.get("captions")
    for name, y, kinds in (("labels", labels, "iu"), ("captions", captions, "U")):
        if y is not None and (y.shape != x.shape[:1] or y.dtype.kind not in kinds):
            raise DataError(f"{path}: the {name} are {y.dtype} {y.shape}, and one for each of the {len(x)} images is "
                            "needed.")
    images, notes = as_bytes(x, f"{path}: '{key}'")
    return Exact(images, [], None if labels is None else labels.astype(np.int64),
                 None if captions is None else captions.tolist(), notes)  # fmt: skip


def as_bytes(x: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Images N,H,W or N,H,W,C, uint8 or float, as uint8 N,H,W,C, and what was done. Raises DataError."""
    y = x[..., None] if x.ndim == 3 else x
    if y.ndim != 4 or y.shape[3] not in (1, 3) or 0 in y.shape:
        hint = "reshape it"
        if y.ndim == 4 and y.shape[3] == 4:
            hint = "its fourth channel looks like alpha: lay the pictures on a background and save three"
        elif y.ndim == 4 and y.shape[1] in (1, 3):
            hint = "transpose it with .transpose(0, 2, 3, 1)"
        raise DataError(f"{name} has the shape {x.shape}; images are N, H, W or N, H, W, C with C = 1 or 3, and at "
                        f"least one: {hint}.")  # fmt: skip
    if y.dtype == np.uint8:
        return y, []
    if y.dtype.kind != "f":
        raise DataError(f"{name} is {y.dtype}; images are uint8 in 0..255, or float in [0, 1] or [-1, 1].")
    if not np.isfinite(y).all():
        raise DataError(f"{name} has {int((~np.isfinite(y)).sum())} values that are not finite; look for the step at "
                        "which training diverged.")  # fmt: skip
    low, high = float(y.min()), float(y.max())
    if low < -1 or high > 1:
        raise DataError(f"{name} is {y.dtype} and spans [{low:.4g}, {high:.4g}]; float images lie in [0, 1] or [-1, "
                        "1]: clip and scale them, or save uint8.")  # fmt: skip
    signed = low < 0
    scaled = (y.astype(np.float64) + 1) * 127.5 if signed else y.astype(np.float64) * 255
    note = f"{name.rpartition(': ')[2]} is {y.dtype} in {'[-1, 1]' if signed else '[0, 1]'}, rounded to 8 bits"
    return np.floor(scaled + 0.5).astype(np.uint8), [note]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"


def _decode(p: pictures.Picture) -> tuple[np.ndarray, list[str]]:
    """uint8 H,W,1 or H,W,3, and what was done to it."""

    def refuse(what: str, then: str) -> DataError:
        return DataError(f"{p.where} {what}; {then}.")

    def act(image) -> tuple[np.ndarray, list[str]]:
        if head[:8] == PNG and head[DEPTH : DEPTH + 1] == b"\x10" or image.mode.startswith("I"):
            raise refuse("has 16 bits per channel", "scores are defined on 8-bit pictures, so convert it first")
        if image.mode in ("F", "CMYK", "YCbCr", "LAB", "HSV"):
            raise refuse(f"is a picture of the kind {image.mode}", "save it as 8-bit grey or RGB first")
        if getattr(image, "n_frames", 1) > 1:
            raise refuse(f"is an animation of {image.n_frames} frames", "save the frame that is meant")
        if image.getexif().get(0x0112, 1) != 1:
            raise refuse("is to be turned by its EXIF orientation", "save it upright, so that every reader sees the "
                                                                    "same")
        done = []
        if image.mode == "P":
            done.append("palette, looked up")
        if image.mode in TRANSPARENT or "transparency" in image.info:
            grey = image.mode in ("LA", "La")
            image = image.convert("RGBA")
            low = image.getextrema()[3][0]
            if low < 255:
                raise refuse(f"is transparent (alpha down to {low})", "what lies behind it would decide the score, "
                             "so lay it on a background first")  # fmt: skip
            done.append("alpha, opaque everywhere, dropped")
            image = image.convert("L" if grey else "RGB")
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
        x = np.asarray(image)
        return (x[..., None] if x.ndim == 2 else x), done

    head = p.open()
    return pictures._guarded(pictures.Picture(p.where, p.place, lambda: head), act)
