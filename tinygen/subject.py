"""What can be judged: a run, whose model draws samples now; a folder of pictures; an .npz of images; statistics saved
from an earlier evaluation; a data set by its name, all of it or one part (digits, digits:test)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import config, data, run
from .data import exact
from .data.readers import _folder_kind
from .data.readers.files import kind_of
from .errors import ConfigError, DataError
from .metrics import saved
from .run import Run
from .sheet import digest

Progress = Callable[[int], object]  # told how many more images are done
Bar = Callable[[str, int], Any]  # (what, of how many) -> a context that yields a Progress


@dataclass
class Subject:
    """One side of an evaluation. `images` is None for statistics alone."""

    name: str  # as it was given
    kind: str  # "run", "folder", "npz", "statistics" or "data set"
    images: np.ndarray | None  # uint8 N,H,W,C
    files: list[str] = field(default_factory=list)  # of a folder: the path of each below it
    labels: np.ndarray | None = None  # int64 N
    captions: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    run: dict[str, Any] | None = None  # model, data, step, seed
    statistics: list[saved.Saved] = field(default_factory=list)
    dataset: str = ""  # the name of an embedded set that this is, or was trained on

    @property
    def n(self) -> int:
        """How many images it is, or was."""
        return self.statistics[0].statistics.n if self.images is None else len(self.images)

    @property
    def facts(self) -> dict[str, Any]:
        """For the card."""
        size = None if self.images is None else list(self.images.shape[1:])
        mark = None if self.images is None else digest(self.images)
        return {"name": self.name, "kind": self.kind, "n": self.n, "size": size, "digest": mark, "run": self.run,
                "notes": list(self.notes)}  # fmt: skip

    def take(self, n: int | None, seed: int) -> Subject:
        """A random n of the images, in their order, if there are more."""
        if n is None or self.images is None or n >= len(self.images):
            return self
        keep = np.sort(np.random.default_rng(seed).permutation(len(self.images))[:n])
        note = f"{n} of its {len(self.images)} images, drawn by seed {seed}"
        return Subject(self.name, self.kind, self.images[keep], [self.files[i] for i in keep] if self.files else [],
                       None if self.labels is None else self.labels[keep],
                       None if self.captions is None else [self.captions[i] for i in keep], [*self.notes, note],
                       self.run, self.statistics, self.dataset)  # fmt: skip


def load(text: str, bar: Bar, *, n: int | None = None, seed: int = 0, device: str | None = None,
         count: int | None = None) -> Subject:  # fmt: skip
    """What `text` names. n: samples of a run, or at most so many images. count: how many images a file of statistics
    that does not say so was made of. Raises UserError."""
    name, _, part = text.partition(":")
    if name in data.names():
        return of_data(text, data.load(name, part or None), name).take(n, seed)
    path = Path(text).expanduser()
    if Run(path).exists:
        return of_run(Run(path), bar, n, seed, device)[0]
    if not path.exists():
        near = config.nearest(text, data.names())
        raise DataError(f"{text}: nothing of that name exists{near or ';'} a run folder, a folder of pictures, an "
                        f".npz or one of the data sets {', '.join(data.names())} is needed.")  # fmt: skip
    if path.is_dir() and _folder_kind(path) == "pictures":
        with bar(f"reading {text}", 0) as tick:
            found = exact.read_folder(path, tick)
        return Subject(text, "folder", found.images, found.names, notes=found.notes).take(n, seed)
    kind = "" if path.is_dir() else kind_of(path)
    if kind == "npz":
        if saved.is_statistics(path):
            return Subject(text, "statistics", None, statistics=saved.load(path, count))
        found = exact.read_npz(path)
        return Subject(text, "npz", found.images, [], found.labels, found.captions, found.notes).take(n, seed)
    if kind == "picture":
        raise DataError(f"{text} is a single picture; scores are of sets, so give the folder that holds it.")
    if kind == "pictures":
        raise DataError(f"{text} is a zip of pictures; extract it and give the folder, so that each is read as it is.")
    return of_data(text, data.load(path), "").take(n, seed)


def of_data(name: str, found: data.Dataset, dataset: str) -> Subject:
    """A data set as a subject."""
    return Subject(name, "data set", found.images, [], found.labels, found.captions, dataset=dataset)


def of_run(folder: Run, bar: Bar, n: int | None, seed: int, device: str | None = None) -> tuple[Subject, Any]:
    """(samples of a run, its model)."""
    model, settings, step = folder.model(device)
    if n is None:
        n = 1000
    with bar(f"drawing samples of {settings.model}", n) as tick:
        images = data.to_uint8(run.draw(model, n, seed, progress=tick))
    facts = {"model": settings.model, "data": settings.data, "step": step, "seed": seed}
    dataset = settings.data if settings.data in data.names() else ""
    return Subject(str(folder), "run", images, run=facts, dataset=dataset), model


def pair_by_name(a: Subject, b: Subject) -> tuple[np.ndarray, np.ndarray]:
    """The images of two folders whose files have the same names (endings aside), or of two arrays of one length, in
    pairs. Raises ConfigError, DataError."""
    if a.images is None or b.images is None:
        raise ConfigError("statistics hold no images, and pairs are compared picture by picture.")
    if bool(a.files) != bool(b.files) or not a.files and not {a.kind, b.kind} <= {"npz", "data set"}:
        raise ConfigError(f"{a.name} and {b.name} are not pairs; give two folders whose files have the same names, or "
                          "two .npz files of the same length and order.")  # fmt: skip
    if a.files:
        places = [{str(Path(f).with_suffix("")): i for i, f in enumerate(s.files)} for s in (a, b)]
        for s, p in zip((a, b), places):
            if len(p) < len(s.files):
                raise DataError(f"{s.name} has files that differ only in their ending; pairs are found by the rest "
                                "of the name.")
        alone = sorted(places[0].keys() ^ places[1].keys())
        if alone:
            which = a if alone[0] in places[0] else b
            raise DataError(f"{a.name} and {b.name} are not pairs: {len(alone)} names are in one of them only, such as "
                            f"{alone[0]!r} in {which.name}.")  # fmt: skip
        order = sorted(places[0])
        x, y = (s.images[[p[k] for k in order]] for s, p in zip((a, b), places))  # type: ignore[index]
    else:
        x, y = a.images, b.images
    if x.shape[:3] != y.shape[:3]:
        raise DataError(f"{a.name} holds {_shape(x)} and {b.name} {_shape(y)}; pairs are of one size, and as many.")
    return same_channels(x, y)


def same_channels(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey images are repeated to three channels where the other set has colour."""
    c = max(x.shape[3], y.shape[3])
    return np.repeat(x, c // x.shape[3], axis=3), np.repeat(y, c // y.shape[3], axis=3)


def _shape(x: np.ndarray) -> str:
    return f"{len(x)} images of {x.shape[2]}×{x.shape[1]}"

