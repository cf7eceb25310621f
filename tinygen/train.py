"""The training loop. It knows no model: a model's `step(batch, rng)` is the whole update of one iteration.

Batch i and every random number of iteration i are functions of the seed and i alone, and the checkpoint holds
all that a step changes; so a run that stops after k steps and goes on for k more ends in the same bits as
one of 2k, its log included.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import checkpoint, data, run
from .audit.guard import NonFiniteOperation, guard
from .cudagraph import Capture, capture
from .errors import DataError, NonFiniteError, UserError
from .modes import precision
from .rng import Rng
from .run import Run, Settings

GRID = 64  # samples in a grid


class Outcome(NamedTuple):
    """How training ended: steps done, and the signal that ended it early (0: none)."""

    step: int
    signal: int


def train(
    model: Any,
    images: data.Dataset,
    settings: Settings,
    out: str | os.PathLike,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Train in the folder `out` until settings.steps steps are done, and leave there what `tinygen.run`
    lists.

    resume: go on from the folder's checkpoint. SIGINT and SIGTERM finish the step, save and return; a second
    one raises KeyboardInterrupt at once. Raises UserError (a folder in use, a full disk, …),
    CheckpointError, and NonFiniteError naming the step and the operation if a number stops being finite: the
    checkpoint is then the last good one.
    """
    with (
        Run(out).claim(resume), precision(settings.precision), _Signals(quiet) as signals, np.errstate(all="ignore")
    ):
        return _Training(model, images, settings, Run(out), resume, quiet).go(signals)


class _Training:
    """The state of the loop: the step, the running means of the log, the clock."""

    def __init__(self, model: Any, images: data.Dataset, settings: Settings, folder: Run, resume: bool, quiet: bool):
        self.model, self.settings, self.folder, self.quiet = model.train(), settings, folder, quiet
        self.rng, self.digest = Rng(settings.seed), run.digest(images)
        self.loader = data.Loader(
            images, settings.config["batch_size"], self.rng, flip=settings.config.get("flip", False)
        )
        self.step, self.seconds = 0, 0.0
        self.take_step = model.step if settings.device == "cpu" else capture(model.step)
        self.means = _Means()
        if resume:
            self._resume()
        folder.write_settings(settings)
        folder.samples.mkdir(exist_ok=True)
        self.saved = self.step
        if not resume:
            self.save()  # a full disk shows now, and there is always a last good checkpoint
        self.speed = _Speed()

    def go(self, signals: _Signals) -> Outcome:
        s = self.settings
        bar = _Bar(self.step, s.steps, self.quiet)
        try:
            while self.step < s.steps and not signals.number:
                scalars = self._advance()
                if self.step % s.log_every == 0:
                    self._log(bar)
                bar.advance(scalars, self.speed.recent)
                if self.step % s.sample_every == 0 or self.step == s.steps:
                    self.grid(bar)
                if self.step % s.save_every == 0:
                    self.save()
            if self.saved != self.step:
                self.save()
        except NonFiniteError as error:
            bar.close()
            raise NonFiniteError(self._diagnose(error)) from None
        finally:
            bar.close()
        return Outcome(self.step, signals.number if self.step < s.steps else 0)

    def _advance(self) -> dict[str, float]:
        begin = time.perf_counter()
        scalars = one_step(self.take_step, self.loader, self.step, self.rng, self.settings.device)
        spent = time.perf_counter() - begin
        self.step += 1
        self.seconds += spent
        self.speed.add(self.loader.batch_size, spent)
        self.means.add(scalars)
        return scalars

    # what it leaves in the folder

    def _log(self, bar: _Bar) -> None:
        line = {
            "step": self.step,
            **self.means.take(),
            "images_per_second": round(self.speed.take(), 1),
            "seconds": round(self.seconds, 3),
        }
        try:
            with open(self.folder.log, "a") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.folder.log}: {error.strerror}. Make room and --resume.") from error
        bar.line(line)

    def grid(self, bar: _Bar) -> None:
        """samples/NNNNNN.png, always of the same seed, so that the grids of a run show one another's
        progress."""
        try:
            images = run.draw(self.model, GRID, self.settings.seed)
            sheet = data.grid(images, scale=max(1, 40 // images.shape[1]))
        except NonFiniteError:
            bar.say(f"step {self.step}: the samples are not finite; no grid this time")
            return
        data.save_png(self.folder.samples / f"{self.step:06d}.png", sheet)

    def save(self) -> None:
        """Write the checkpoint. Raises NonFiniteError instead where a number in it is not finite."""
        _check_state(self.model)
        checkpoint.save(
            self.folder.checkpoint,
            self.model,
            {
                "run": self.settings.identity(),
                "step": self.step,
                "cursor": {"batch": self.step, "epoch": self.loader.epoch(self.step)},
                "data_digest": self.digest,
                "seconds": self.seconds,
                "means": self.means.state(),
                "versions": checkpoint.versions(),
            },
        )
        self.saved = self.step

    def _resume(self) -> None:
        arrays, meta = self.folder.load(self.settings)
        if meta.get("data_digest") != self.digest:
            raise DataError(
                f"the images of {self.settings.data} are not those that {self.folder} was trained on; "
                "restore them, or "
                "start a new run."
            )
        self.model.load(arrays)
        self.step, self.seconds = meta["step"], meta["seconds"]
        self.means.load(meta["means"])
        now, then = checkpoint.versions(), meta.get("versions", {})
        changed = [f"{k} {then.get(k)} → {v}" for k, v in now.items() if then.get(k) != v]
        if changed and not self.quiet:
            print(
                f"note: {', '.join(changed)}; the last bits may come out otherwise than in one go",
                file=sys.stderr,
            )
        if self.folder.log.exists():  # a run that was killed may have logged steps that it has not saved
            lines = self.folder.log.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= self.step]
            if kept != lines:
                checkpoint.write_text(self.folder.log, "".join(kept))

    # when a number stops being finite

    def _diagnose(self, error: NonFiniteError) -> str:
        """Go back to the last good checkpoint and take its steps again under the guard. Stateless randomness
        makes them the same steps, so the first offending operation shows itself."""
        arrays, meta = checkpoint.load(self.folder.checkpoint)
        good, last = meta["step"], self.step + 1
        if not self.quiet:
            print(
                f"step {last}: {error}\ntaking steps {good + 1} to {last} again to find where",
                file=sys.stderr,
            )
        self.model.load(arrays)
        what, at = str(error), last
        blamed = "no operation: the numbers broke in the update itself, or outside the operations."
        with guard(allow_inf=True) as watch:
            usual: set = set()  # places that give infinities in good steps too, and so mean them
            for i in range(good, last):
                watch.infinities.clear()
                try:
                    one_step(self.model.step, self.loader, i, self.rng, self.settings.device)
                    _check_state(self.model)
                except NonFiniteError as again:
                    at = i + 1
                    odd = [text for place, text in watch.infinities.items() if place not in usual]
                    what = what if isinstance(again, NonFiniteOperation) else str(again)
                    if odd or isinstance(again, NonFiniteOperation):
                        blamed = odd[0] if odd else str(again)
                    break
                usual |= set(watch.infinities)
        return (
            f"step {at}: {what}\nFirst to blame is {blamed}\nTraining stopped; {self.folder.checkpoint} is "
            "the last good "
            f"one, of step {good}. A smaller learning rate, or clipping, is the usual remedy."
        )


def one_step(
    step: Callable[[data.Batch, Rng], dict[str, Any]], loader: data.Loader, i: int, rng: Rng, device: str = "cpu"
) -> dict[str, float]:
    """Iteration i = 0, 1, …: its batch, the model's update, and the scalars. Raises NonFiniteError unless
    all of them are finite."""
    batch = loader.batch(i)
    if device != "cpu" and not isinstance(step, Capture):  # which copies them itself
        batch = dataclasses.replace(batch, images=batch.images.to(device))
    found = step(batch, rng)
    if isinstance(step, Capture):
        loader.prepare(i + 1)  # before the first number is read, which waits for the device
        step.check()
    scalars = {k: float(v) for k, v in found.items()}
    bad = [f"{k} is {v}" for k, v in scalars.items() if not math.isfinite(v)]
    if bad:
        raise NonFiniteError(", ".join(bad) + ".")
    return scalars


def _check_state(model: Any) -> None:
    for name, a in model.state().items():
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            raise NonFiniteError(f"{name} {a.shape} is no longer finite.")


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # half a line, from a disk that was full


class _Means:
    """Means of the scalars since the last line of the log; part of the checkpoint."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, scalars: dict[str, float]) -> None:
        for k, v in scalars.items():
            self.sums[k] = self.sums.get(k, 0.0) + v
            self.counts[k] = self.counts.get(k, 0) + 1

    def take(self) -> dict[str, float]:
        means = {k: v / self.counts[k] for k, v in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class _Speed:
    """Images per second of training alone: sampling and saving do not count, nor does the first step, which
    compiles."""

    def __init__(self) -> None:
        self.images, self.seconds, self.recent, self.warm = 0, 0.0, 0.0, False

    def add(self, images: int, seconds: float) -> None:
        if self.warm:
            self.images, self.seconds = self.images + images, self.seconds + seconds
        now = images / seconds
        self.recent = 0.9 * self.recent + 0.1 * now if self.warm and self.recent else now
        self.warm = True

    def take(self) -> float:
        rate = self.images / self.seconds if self.seconds else self.recent
        self.images, self.seconds = 0, 0.0
        return rate


class _Bar:
    """Progress: a bar on a terminal, now and then a line anywhere else."""

    def __init__(self, step: int, steps: int, quiet: bool):
        from tqdm import tqdm

        self.steps, self.first, self.quiet = steps, step, quiet
        self.began, self.next = time.perf_counter(), 0.0
        self.lines = not quiet and not sys.stderr.isatty()
        form = "{percentage:3.0f}% {bar} step {n_fmt}/{total_fmt}  {postfix}  {remaining} left"
        self.bar = tqdm(total=steps, initial=step, bar_format=form, disable=quiet or self.lines)

    def advance(self, scalars: dict[str, float], speed: float) -> None:
        shown = [f"{k} {v:.4g}" for k, v in list(scalars.items())[:3]]
        self.bar.set_postfix_str("  ".join([*shown, f"{speed:.0f} images/s"]).lstrip(", "), refresh=False)
        self.bar.update()

    def line(self, entry: dict[str, Any]) -> None:
        now = time.perf_counter()
        if not self.lines or now < self.next and entry["step"] < self.steps:
            return
        self.next = now + 5.0
        done = entry["step"] - self.first
        left = (now - self.began) / done * (self.steps - entry["step"])
        scalars = [f"{k} {v:.4g}" for k, v in entry.items() if k not in ("step", "images_per_second", "seconds")]
        rest = f"{entry['images_per_second']:.0f} images/s  {left // 60:02.0f}:{left % 60:02.0f} left"
        print(
            f"step {entry['step']}/{self.steps}  {'  '.join(scalars[:3])}  {rest}",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()


class _Signals:
    """SIGINT and SIGTERM as a number to look at between steps; the second one interrupts at once."""

    number = 0

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self.before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        if not self.quiet:  # os.write: a handler must not enter a stream that may be in the middle of a write
            os.write(2, b"\nfinishing this step and saving; once more to stop at once\n")
