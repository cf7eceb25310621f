"""Statistics of a set of images, kept so that the next evaluation needs neither the images nor their features.

    mu sigma n label floor              of the first extractor; the first two are what pytorch-fid reads and writes
    mu.1 sigma.1 n.1 label.1 floor.1    of the second, and so on

A label is the extractor's identity: its name, the path by which images reach it, and the digest of both. Statistics
are used again only where the label is the same. The floor travels along, because it can be taken only while the images
are at hand.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.errors import DataError, UserError

from .baseline import Floor
from .statistics import FeatureStatistics

LIMIT = 1 << 31  # bytes of one array; sigma of 2048 features has 2²⁵


@dataclass(frozen=True)
class Saved:
    """Statistics under their label, and the floor of the images that they are of (None: not known)."""

    statistics: FeatureStatistics
    floor: Floor | None = None


def save(path: str | Path, parts: Sequence[Saved]) -> None:
    """Write the file, whole or not at all. Raises UserError where it cannot be written."""
    from tinygen import checkpoint

    arrays: dict[str, Any] = {}
    for i, part in enumerate(parts):
        s, end = part.statistics, f".{i}" if i else ""
        arrays |= {"mu" + end: s.mean, "sigma" + end: s.covariance(), "n" + end: s.n, "label" + end: s.label}
        if part.floor is not None:
            f = part.floor
            arrays["floor" + end] = np.array([f.mean, f.sd, f.n, f.splits, f.seed])
    try:
        checkpoint.write(Path(path), lambda file: np.savez(file, **arrays))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose a folder that can be written "
                        "to.") from error


def is_statistics(path: str | Path) -> bool:
    """Does an .npz hold mu and sigma, and no images?"""
    try:
        with zipfile.ZipFile(path) as z:
            names = set(z.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return {"mu.npy", "sigma.npy"} <= names and not {"images.npy", "arr_0.npy"} & names


def load(path: str | Path, n: int | None = None) -> list[Saved]:
    """What `save` wrote, or the mu and sigma of pytorch-fid, clean-fid or ADM with the count that these do not state.

    Nothing is unpickled, and no array is allocated that the file does not hold. Raises DataError.
    """
    from tinygen.data.readers import npz
    from tinygen.data.readers.files import ARCHIVE_ERRORS, Source

    source = Source(Path(path), None, LIMIT)
    try:
        with zipfile.ZipFile(path) as z:
            found = {i.filename.removesuffix(".npy"): npz._member(source, z, i) for i in z.infolist()
                     if i.filename.split(".")[0] in ("mu", "sigma", "n", "label", "floor")}  # fmt: skip
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is a truncated or damaged archive ({error}); save or copy it again.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    out: list[Saved] = []
    while f"mu.{len(out)}" in found or not out:
        out.append(_one(path, found, f".{len(out)}" if out else "", n))
    return out


def _one(path: str | Path, found: dict[str, np.ndarray], end: str, n: int | None) -> Saved:
    if "mu" + end not in found or "sigma" + end not in found:
        raise DataError(f"{path} holds no mu and sigma; `tinygen evaluate … --save-statistics FILE.npz` makes such a "
                        "file.")
    mean, sigma = found["mu" + end], found["sigma" + end]
    if mean.ndim != 1 or sigma.shape != (mean.size, mean.size) or not mean.size:
        raise DataError(f"{path} has mu{end} {mean.shape} and sigma{end} {sigma.shape}; D and D,D are needed.")
    if {mean.dtype.kind, sigma.dtype.kind} != {"f"}:
        raise DataError(f"{path} has mu{end} of {mean.dtype} and sigma{end} of {sigma.dtype}; floating-point numbers "
                        "are needed.")  # fmt: skip
    mean, sigma = mean.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all()):
        raise DataError(f"{path} has values in mu{end} or sigma{end} that are not finite; save it again from sound "
                        "images.")
    if np.abs(sigma - sigma.T).max() > 1e-6 * np.abs(sigma).max() or np.diagonal(sigma).min() < 0:
        raise DataError(f"{path}: sigma{end} is not symmetric with a diagonal from 0 on, so it is no covariance.")
    count = found["n" + end] if "n" + end in found else None
    total = int(count) if count is not None and count.ndim == 0 and count.dtype.kind in "iu" else n
    if total is None or total < 2:
        raise DataError(f"{path} does not say of how many images it is, and a Fréchet distance depends on that: give "
                        "--count N.")  # fmt: skip
    statistics = FeatureStatistics(mean.size, str(found.get("label" + end, "")))
    statistics.n, statistics.mean, statistics.scatter = total, mean.copy(), (sigma + sigma.T) * ((total - 1) / 2)
    f = found.get("floor" + end)
    if f is None or f.shape != (5,) or f.dtype != np.float64 or not np.isfinite(f).all() or f[2] < 2:
        return Saved(statistics)
    return Saved(statistics, Floor(float(f[0]), float(f[1]), int(f[2]), int(f[3]), int(f[4])))
