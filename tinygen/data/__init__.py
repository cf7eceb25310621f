"""Data: three embedded sets (digits, emoji, shapes), readers of the standard formats, and a loader.

    data = tinygen.data.load("digits", split="train")
    loader = tinygen.data.Loader(data, 64, tinygen.Rng(0))
    batch = loader.batch(0)                             # images N, H, W, C in [-1, 1]
"""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from tinygen.data.dataset import Dataset, nearest
from tinygen.data.image import grid, save_png, to_float, to_uint8
from tinygen.data.loader import Batch, Loader
from tinygen.errors import ConfigError, DataError

__all__ = ["Batch", "Dataset", "Loader", "describe", "grid", "load", "names", "save_png", "to_float",
           "to_uint8"]

_EMBEDDED = ("digits", "emoji", "shapes")


def names() -> list[str]:
    """The sets that come with the package."""
    return list(_EMBEDDED)


def describe(name: str) -> tuple[str, str]:
    """(summary, licence and attribution) of an embedded set, without loading it."""
    module = _module(name)
    return module.SUMMARY, module.LICENCE


def load(name_or_path: str | os.PathLike[str], split: str | None = None, **options: Any) -> Dataset:
    """An embedded set by its name, or the images at a path, whose format is recognised by its content.

    A name wins over a folder of the same name; write ./digits for the folder.
    split: None for everything, 'train' or 'test' ('compositional' too for shapes). Sets on disk that come in
    two parts (CIFAR, MNIST, folders train and test) are split as they come, others by `Dataset.split`.
    options: those of tinygen.data.digits.load, emoji.load, shapes.load or readers.read.
    Raises ConfigError for an unknown name, option or split, DataError for what cannot be read.
    """
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and text in _EMBEDDED:
        function = _module(text).load
        _check_options(text, function, options)
        return function(split, **options)
    path = Path(text).expanduser()
    if not path.exists():
        if isinstance(name_or_path, str) and not any(c in text for c in "/\\.~"):
            raise ConfigError(f"{_unknown(text)}; anything else is taken for the path of a file or folder, "
                              "and none of that name exists")
        raise DataError(f"{text}: no such file or folder; give the path of a folder of images, IDX or CIFAR "
                        "files, an .npz or a zip of images")
    from tinygen.data.readers import read

    _check_options(text, read, options)
    return read(path, split, **options)


def _unknown(name: str) -> str:
    hint = nearest(name, _EMBEDDED)
    return (f"there is no data set {name!r}{hint + ' The' if hint else '; the'} embedded sets are "
            f"{', '.join(_EMBEDDED)}")


def _module(name: str) -> ModuleType:
    if name not in _EMBEDDED:
        raise ConfigError(_unknown(name))
    return importlib.import_module(f"tinygen.data.{name}")


def _check_options(name: str, function: Any, options: dict[str, Any]) -> None:
    known = [p for p in inspect.signature(function).parameters if p not in ("path", "split")]
    for option in options:
        if option not in known:
            hint = nearest(option, known)
            raise ConfigError(f"the data set {name} has no option {option!r}"
                              f"{hint + ' Its' if hint else '; its'} options are: "
                              f"{', '.join(known) or 'none'}")
