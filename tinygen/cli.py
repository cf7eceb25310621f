"""The command line: tinygen list | train | sample | evaluate | judge | check.

Exit codes: 0 done; 1 a computation failed (a number stopped being finite, a gradient check found an error);
2 the request or its input is wrong, and one sentence says how to mend it; 128 + n ended by signal n (130 is
Ctrl-C), with everything saved. TINYGEN_DEBUG=1 shows the traceback of any error.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, config, models
from .errors import ConfigError, DeviceError, TinygenError, UserError

HELP = """usage: tinygen COMMAND …

  list                       models, data sets, devices
  train MODEL                train a model in a run folder
  sample RUN                 draw images with a trained model
  evaluate RUN|FOLDER|FILE   score samples or pictures, with a card of how
  judge sheet|read           have people choose between pairs, and read their answers
  check [OP …]               verify gradients of operations by finite differences

`tinygen COMMAND --help` says more, and `tinygen train MODEL --help` lists the model's own flags.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (by default that of the process) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as error:  # argparse, after --help
        return int(error.code or 0)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted.", 130)
    except (TinygenError, OSError) as error:
        if os.environ.get("TINYGEN_DEBUG"):
            raise
        if isinstance(error, OSError) and not isinstance(error, TinygenError):
            about = f"{error.filename}: " if error.filename else ""
            return _fail(f"{about}{error.strerror or error}.", 2)
        return _fail(str(error), 2 if isinstance(error, (UserError, DeviceError)) else 1)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"tinygen {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise ConfigError(config.unknown("command", argv[0], COMMANDS))
    return COMMANDS[argv[0]](argv[1:])


def _fail(text: str, code: int) -> int:
    print(f"tinygen: {text}", file=sys.stderr)
    return code


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """argparse, with complaints that are sentences and know the nearest flag."""

    def __init__(self, command: str, about: str, **options: Any):
        super().__init__(f"tinygen {command}", description=about, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        text = re.sub(r"^argument ([^:/]+)[^:]*: ", r"\1 ", message)
        text = text.replace("expected one argument", "needs a value after it")
        raise ConfigError(f"{text if text[-1] in '.?' else text + '.'} `{self.prog} --help` lists the flags.")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        argv = [re.sub(r"^--[^=]+", lambda m: m[0].replace("_", "-"), word) for word in argv]  # as in Python
        found, extra = self.parse_known_args(argv)
        if extra:
            word = next((w for w in extra if w.startswith("-")), extra[0]).split("=")[0]
            if not word.startswith("-"):
                raise ConfigError(
                    f"{self.prog} does not know what to do with {word!r}. `{self.prog} --help` says what."
                )
            near = config.nearest(word, [f for a in self._actions for f in a.option_strings])
            raise ConfigError(f"{self.prog} has no flag {word}{near or '.'} `{self.prog} --help` lists the flags.")
        return found


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return value

    return parse


def _subject(argv: list[str], known: Callable[[str], Any]) -> str | None:
    """The MODEL or RUN that a command line is about, found before its flags can be known."""
    words = [w for w in argv if not w.startswith("-")]
    return next((w for w in words if known(w)), argv[0] if argv and words and words[0] == argv[0] else None)


# ---- list


def _list(argv: list[str]) -> int:
    Parser("list", "List models, data sets and devices.").parse(argv)
    from . import backend, data

    print("Models")
    for name, about in models.MODELS.items():
        Model = models.load(name)
        print(f"  {name:<10} {about}")
        print(f"  {'':<10} presets {', '.join(Model.PRESETS)}; by default on {Model.data}, {Model.steps} steps")
    print("\nData sets (or the path of a folder of images, an IDX, CIFAR or .npz file)")
    for name in data.names():
        for label, text in zip((name, ""), data.describe(name)):
            print(f"  {label:<10} {text}")
    print("\nDevices")
    for name in backend.devices():
        print(f"  {name}")
    return 0


# ---- train


def _train_parser(Model: Any) -> Parser:
    parser = Parser("train", "Train a model in a run folder. Ctrl-C saves; --resume goes on, bit for bit.")
    parser.add_argument("model", metavar="MODEL", help="one of " + ", ".join(models.names()))
    add = parser.add_argument
    steps = f"default {Model.steps}" if Model is not None else "default: the model's own"
    quiet = argparse.SUPPRESS  # a flag that was not given leaves nothing behind
    add("--data", default=quiet, help="digits, emoji, shapes, or a path (default: the model's own)")
    add("--data-option", action="append", metavar="KEY=VALUE", default=quiet, help="an option of the data set")
    add("--out", metavar="RUN", help="the run folder (default runs/MODEL-DATA, numbered)")
    add("--steps", type=_whole(1), default=quiet, help=f"steps in all ({steps})")
    add("--seed", type=_whole(0), default=quiet, help="of every random number (default 0)")
    add("--device", default=quiet, help="cpu or cuda:0 (default cpu)")
    add("--precision", default=quiet, help="of products of matrices: float32, tf32 or bf16 (default float32)")
    add("--preset", default=quiet, help="small: learns in minutes; paper: as published (default small)")
    add("--resume", action="store_true", help="go on with the run in --out")
    for name, what in (
        ("log", "a line in log.jsonl"),
        ("sample", "a grid of samples"),
        ("save", "a checkpoint"),
    ):
        add(
            f"--{name}-every",
            type=_whole(1),
            metavar="N",
            default=quiet,
            help=f"steps between {what} and the next",
        )
    add("--quiet", action="store_true", help="no progress")
    if Model is not None:
        group = parser.add_argument_group(f"flags of {Model.__name__}")
        config.add_flags(group, Model.Config, Model.PRESETS, skip=_from_data())
    else:
        parser.epilog = "`tinygen train MODEL --help` lists the model's own flags too."
    return parser


def _from_data() -> tuple[str, ...]:
    from .run import FROM_DATA

    return FROM_DATA


def _train(argv: list[str]) -> int:
    name = _subject(argv, models.MODELS.__contains__)
    Model = models.load(name) if name is not None else None
    args = _train_parser(Model).parse(argv)
    from . import backend, report, run, train

    own, asked = config.given(args), _asked(args)
    if args.out and not args.resume:
        run.Run(args.out).check_free()
    backend.device(asked.get("device", "cpu"))
    if args.resume:
        if args.out is None:
            raise ConfigError("--resume needs to know which run: name its folder with --out.")
        settings = _resumed(args.model, run.Run(args.out), own, asked)
        images = run.load_data(settings)
    else:
        asked.setdefault("data", getattr(Model, "data", "digits"))
        preset = asked.get("preset", "small")
        run.settings_for(args.model, preset=preset, overrides=own)  # what is wrong here shows before data are read
        images = run.load_data(run.Settings(args.model, {}, asked["data"], asked.get("options", {})))
        settings = run.settings_for(args.model, overrides=own, images=images, **asked)
    out = Path(args.out) if args.out else _free(f"{args.model}-{Path(settings.data).stem or 'data'}")
    model = run.make_model(settings)
    if not args.quiet:
        print(
            f"{args.model} ({model.count():,} parameters) on {images!r}: {settings.steps} steps in {out}",
            flush=True,
        )
    again = f"tinygen train {args.model} --out {shlex.quote(str(out))} --resume"
    try:
        done = train.train(model, images, settings, out, resume=args.resume, quiet=args.quiet)
    except KeyboardInterrupt:
        return _fail(f"stopped at once; the last checkpoint stands. To go on from it: {again}", 130)
    folder = run.Run(out)
    if not done.signal:
        report.figures(folder, model, settings.seed)
    report.write(folder)
    if done.signal:
        return _fail(f"stopped and saved at step {done.step}. To go on: {again}", 128 + done.signal)
    print(f"done, {done.step} steps. Look at")
    for path, what in _look(folder):
        print(f"  {str(path):<40} {what}")
    return 0


def _look(folder: Any) -> list[tuple[Path, str]]:
    found = [(p, "samples") for p in sorted(folder.samples.glob("*.png"))[-1:]]
    found += [(p, "a figure of the model's own") for p in sorted(folder.figures.glob("*.png"))]
    found += [(folder.path / "loss.png", "the loss"), (folder.report, "everything on one page")]
    return [(path, what) for path, what in found if path.exists()]


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `train` that were given, under the names that Settings has for them."""
    names = ("data", "steps", "seed", "device", "precision", "preset", "log_every", "sample_every", "save_every")
    asked = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if hasattr(args, "data_option"):
        asked["options"] = dict(_option(text) for text in args.data_option)
    return asked


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--data-option needs KEY=VALUE, such as size=32, not {text!r}.")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    return key, int(value) if re.fullmatch(r"-?\d+", value) else value


def _resumed(name: str, folder: Any, own: dict[str, Any], asked: dict[str, Any]) -> Any:
    """The settings of a run that goes on. Raises ConfigError if a flag contradicts them."""
    saved = folder.settings()
    free = {k: v for k, v in asked.items() if k in saved.FREE}
    wanted = {"model": name, **own, **{k: v for k, v in asked.items() if k not in free}}
    identity = saved.identity()
    unlike = config.differences({k: identity.get(k) for k in wanted}, wanted)
    if unlike:
        raise ConfigError(
            f"{folder} goes on as it began, and there {'; '.join(unlike)}. Leave the flag out, or start a new run."
        )
    return dataclasses.replace(saved, **free)


def _free(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3, … that is not taken."""
    path, n = Path("runs") / name, 1
    while path.exists():
        n += 1
        path = path.with_name(f"{name}-{n}")
    return path


# ---- sample


def _sample(argv: list[str]) -> int:
    from .run import Run

    subject = _subject(argv, lambda w: Run(w).exists)
    parser = Parser("sample", "Draw images with a trained model.")
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder")
    add("-n", type=_whole(1), default=64, metavar="N", help="how many (default 64)")
    add("-o", action="append", metavar="FILE", help="a grid as .png, or the images as .npz; may be repeated "
        "(default RUN/grid.png)")  # fmt: skip
    add("--seed", type=_whole(0), default=0, help="of the noise (default 0)")
    add("--columns", type=_whole(1), help="of the grid (default: a square)")
    add("--device", default=None, help="cpu or cuda:0 (default: that of the training)")
    if subject is not None:
        Model = models.load(Run(subject).settings().model)
        config.add_flags(parser.add_argument_group(f"options of {Model.__name__}"), Model.sample)
    else:
        parser.epilog = "`tinygen sample RUN --help` lists the model's own options too."
    args = parser.parse(argv)
    import numpy as np

    from . import checkpoint, data, run

    folder = Run(args.run)
    targets = [Path(o) for o in args.o or [folder.path / "grid.png"]]
    for path in targets:
        if path.suffix not in (".png", ".npz"):
            raise ConfigError(f"{path}: a grid is written as .png, images as .npz; give the file one of these endings.")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}; make it first.")
    model, settings, step = folder.model(args.device)
    images = data.to_uint8(run.draw(model, args.n, args.seed, **config.given(args)))
    for path in targets:
        if path.suffix == ".png":
            scale = max(1, 40 // images.shape[1])
            data.save_png(path, data.grid(images, columns=args.columns, scale=scale))
        else:
            checkpoint.write(path, lambda f: np.savez_compressed(f, images=images))
    print(f"{args.n} samples of {settings.model}, step {step}, seed {args.seed}: {', '.join(map(str, targets))}")
    return 0


# ---- evaluate and judge


def _evaluate(argv: list[str]) -> int:
    from . import cli_judge

    return cli_judge.evaluate(argv)


def _judge(argv: list[str]) -> int:
    from . import cli_judge

    return cli_judge.judge(argv)


# ---- check


def _check(argv: list[str]) -> int:
    parser = Parser("check", "Verify gradients, to second order at least, by finite differences in float64.")
    parser.add_argument("ops", nargs="*", metavar="OP", help="operations (default: all)")
    parser.add_argument("--order", type=_whole(1), help="the highest order (default: what each case states)")
    args = parser.parse(argv)
    from .audit import cases, check

    names = args.ops or sorted(cases.CASES)
    for name in names:
        if name not in cases.CASES:
            raise ConfigError(config.unknown("operation", name, cases.CASES))
    failed = 0
    total = 0
    for name in names:
        results = check.check_ops([name], order=args.order)
        bad = [r for r in results if not r.ok]
        orders = f"1 to {max(r.order for r in results)}"
        print(f"{'FAIL' if bad else 'ok':<5} {name:<24} {len(results):>3} checks, orders {orders}", flush=True)
        for r in bad:
            print(f"      {r.case}\n      {r.message}")
        failed, total = failed + len(bad), total + len(results)
    print(f"{total} checks of {len(names)} operations: {f'{failed} failed' if failed else 'all right'}.")
    return 1 if failed else 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": _list, "train": _train, "sample": _sample, "evaluate": _evaluate, "judge": _judge,
    "check": _check,
}  # fmt: skip
