"""A run: what was asked for (`Settings`), and the folder it is kept in (`Run`).

config.json              the settings
checkpoint.safetensors   the model, its optimisers and averages; checkpoint.json is its readable part
log.jsonl                one line of means every few steps
samples/NNNNNN.png       what the model drew after so many steps
figures/NAME.png         the model's own pictures
loss.png  scores.json  card.png  report.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import backend, checkpoint, config, data, models
from .errors import CheckpointError, ConfigError, DataError, UserError
from .modes import PRECISIONS
from .rng import Rng

FROM_DATA = ("image_size", "channels")  # settings of a model that follow from the images


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that determines a run. `config` holds the model's own settings, `options` those of the
    data."""

    model: str
    config: dict[str, Any]
    data: str = "digits"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    preset: str = "small"
    seed: int = 0
    steps: int = 1000
    device: str = "cpu"
    precision: str = "float32"
    log_every: int = 10
    sample_every: int = 250
    save_every: int = 250

    # may change when a run goes on; everything else says which run it is
    FREE = ("steps", "device", "precision", "log_every", "sample_every", "save_every")

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}.")
        for name, least in (("steps", 0), ("log_every", 1), ("sample_every", 1), ("save_every", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}.")

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run, as one flat table."""
        table = {k: v for k, v in dataclasses.asdict(self).items() if k not in (*self.FREE, "config")}
        return {**table, **self.config}


def settings_for(
    name: str,
    *,
    preset: str = "small",
    overrides: Mapping[str, Any] | None = None,
    images: data.Dataset | None = None,
    **rest: Any,
) -> Settings:
    """Settings of a new run: the model's defaults, a preset, overrides, and what follows from the images.

    rest: fields of Settings. Raises ConfigError.
    """
    Model = models.load(name)
    known, overrides = config.specs(Model.Config), dict(overrides or {})
    if images is not None:
        height, width, channels = images.shape
        if "image_size" in known and height != width:
            raise DataError(
                f"the images are {height}×{width}; {name} draws square ones. For a folder of pictures, "
                "--data-option size=32 crops and resizes them."
            )
        overrides |= {k: v for k, v in (("image_size", height), ("channels", channels)) if k in known}
        chosen = {**config.choose_preset(Model.PRESETS, preset), **overrides}
        if "classes" in known and "classes" not in chosen:
            overrides["classes"] = images.classes
    values = config.build(Model.Config, config.choose_preset(Model.PRESETS, preset), overrides)
    rest.setdefault("steps", getattr(Model, "steps", Settings.steps))
    return Settings(model=name, preset=preset, config=config.to_dict(values), **rest)


def make_model(settings: Settings) -> Any:
    """The model as it is before its first step, on the device of the settings."""
    Model = models.load(settings.model)
    device = backend.device(settings.device)
    model = Model(config.from_dict(Model.Config, settings.config), Rng(settings.seed))
    return model if device == "cpu" else model.to(device)


def command(settings: Settings, out: Any) -> str:
    """The command line that makes the run, every setting that is not a preset's spelled out."""
    Model, s = models.load(settings.model), settings
    words = ["tinygen", "train", s.model, "--data", s.data, "--preset", s.preset, "--seed", str(s.seed)]
    words += ["--steps", str(s.steps), "--out", str(out)]
    for k, v in s.options.items():
        words += ["--data-option", f"{k}={v}"]
    preset = config.choose_preset(Model.PRESETS, s.preset)
    for k, spec in config.specs(Model.Config).items():
        value = spec.check(s.config[k])
        if k not in FROM_DATA and value != preset.get(k, spec.default):
            flag = spec.flag if value is not False else spec.flag.replace("--", "--no-", 1)
            words += [flag] if isinstance(value, bool) else [flag, config.show(value)]
    return shlex.join(words)


def load_data(settings: Settings, split: str | None = "train") -> data.Dataset:
    """The images that the settings name."""
    return data.load(settings.data, split, **settings.options)


def digest(images: data.Dataset) -> str:
    """A fingerprint of the images and labels, to notice that a folder has changed under a run."""
    h = hashlib.blake2b(str(images.images.shape).encode(), digest_size=8)
    h.update(np.ascontiguousarray(images.images).data)
    if images.labels is not None:
        h.update(np.ascontiguousarray(images.labels).data)
    return h.hexdigest()


class Run:
    """A run folder."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.log = self.path / "log.jsonl"
        self.samples = self.path / "samples"
        self.figures = self.path / "figures"
        self.scores = self.path / "scores.json"
        self.card = self.path / "card.png"
        self.report = self.path / "report.html"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        return self.config.exists() or self.checkpoint.exists()

    def settings(self) -> Settings:
        """What config.json says. Raises UserError if there is no run here, ConfigError if the file is
        damaged."""
        if not self.config.is_file():
            what = "holds no run (no config.json)" if self.path.is_dir() else "is not a run folder"
            raise UserError(f"{self} {what}; `tinygen train` makes one, and prints its name.")
        try:
            table = json.loads(self.config.read_text())
            known = [f.name for f in dataclasses.fields(Settings)]
            found = Settings(**{k: v for k, v in table.items() if k in known})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{self.config} is damaged ({error}); restore it, or train anew.") from error
        if not isinstance(found.config, dict) or not isinstance(found.options, dict):
            raise ConfigError(f"{self.config} is damaged (config and options are tables); restore it, or train anew.")
        return found

    def write_settings(self, settings: Settings) -> None:
        table = {**dataclasses.asdict(settings), "versions": checkpoint.versions()}
        checkpoint.write_text(self.config, json.dumps(table, indent=1) + "\n")

    def load(self, settings: Settings) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, facts) of the checkpoint, which must be of these settings. Raises CheckpointError."""
        if not self.checkpoint.exists():
            raise CheckpointError(f"{self} has no checkpoint.safetensors yet; train it, or wait for its first step.")
        arrays, meta = checkpoint.load(self.checkpoint)
        saved = meta.get("run")
        if not isinstance(saved, dict) or type(meta.get("step")) is not int:
            raise CheckpointError(f"{self.checkpoint} is not the checkpoint of a run; it does not say which.")
        unlike = config.differences(saved, settings.identity())
        if unlike:
            raise CheckpointError(
                f"{self.checkpoint} is of another run than {self.config.name} beside it: "
                f"{'; '.join(unlike[:4])}. Put the "
                "right file there, or train in a new folder."
            )
        return arrays, meta

    def model(self, device: str | None = None) -> tuple[Any, Settings, int]:
        """(the trained model in evaluation mode, its settings, the steps it has taken)."""
        settings = self.settings()
        if device is not None:
            settings = dataclasses.replace(settings, device=device)
        arrays, meta = self.load(settings)
        model = make_model(settings)
        model.load(arrays)
        return model.eval(), settings, meta["step"]

    @contextlib.contextmanager
    def claim(self, resume: bool) -> Iterator[None]:
        """Hold the folder while training in it: made if need be, locked against others, and checked.

        The lock is the system's own and ends with the process that holds it, however that ends. Raises
        UserError for a folder that is in use, holds a run already (resume=False), or holds none
        (resume=True).
        """
        if resume and not self.exists:
            raise UserError(f"{self} holds no run to resume; leave --resume out to start one there.")
        if not resume:
            self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a+")
        except OSError as error:
            raise UserError(f"cannot make the run folder {self}: {error.strerror}; choose another --out.") from error
        with lock:
            self._lock(lock)
            if not resume:
                self.check_free()
            yield

    def check_free(self) -> None:
        """Raise UserError unless a new run can start here."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self} is a file, not a folder; choose another --out.")
        if self.exists:
            raise UserError(f"{self} already holds a run; continue it with --resume, or choose another --out.")
        if self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
            raise UserError(f"{self} is not empty and holds no run; choose another --out.")

    def _lock(self, lock) -> None:
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise UserError(
                f"{self} is in use: process {pid} is training in it; wait for it, stop it (kill -INT {pid} "
                "saves and "
                "ends it), or choose another --out."
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()


def sample_stream(seed: int) -> Rng:
    """The randomness of samples with a seed: a stream of its own, so that no sample starts from training
    noise."""
    return Rng(Rng(seed).key("sample", 0))


def draw(
    model: Any, n: int, seed: int, at_once: int = 256, progress: Callable[[int], object] | None = None, **options: Any
) -> np.ndarray:
    """n samples as float32 N, H, W, C in [-1, 1], drawn at most `at_once` together, from
    `sample_stream(seed)`. progress: told of each part how many there were."""
    from .tape import no_grad

    rng, training = sample_stream(seed), model.training
    model.eval()
    try:
        with no_grad():
            parts = []
            for i in range(0, n, at_once):
                stream = rng if i == 0 else Rng(rng.key("part", i))
                parts.append(np.asarray(model.sample(min(at_once, n - i), stream, **options)))
                if progress is not None:
                    progress(len(parts[-1]))
    finally:
        model.train(training)
    return np.concatenate(parts)
