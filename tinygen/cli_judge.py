"""The commands that judge: tinygen evaluate, and tinygen judge for the judgement of people."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import config
from .cli import Parser, _note, _whole
from .errors import ConfigError

EVALUATE = """
Score a run (its model draws samples now), a folder of pictures, an .npz of images or saved statistics. Of a run,
scores.json, card.png and the report are written too.

Pictures are scored as they are: 8-bit, opaque, of one size; what would change a pixel is refused. --json prints a card
of how every number was made; its keys are listed in tinygen/evaluate.py.
"""
JUDGE = """usage: tinygen judge sheet A B … -o sheet.html     make a page of pairs to choose from
       tinygen judge read answers.json … sheet.key.json     what the answers say

`tinygen judge sheet --help` and `tinygen judge read --help` say more.
"""
ENDS = {".png": "the picture", ".json": "the numbers"}


def evaluate(argv: list[str]) -> int:
    from .evaluate import METRICS
    from .metrics.resize import RESIZERS

    parser = Parser("evaluate", EVALUATE)
    add = parser.add_argument
    add("what", metavar="RUN|FOLDER|FILE.npz", help="what is judged; or a data set, such as digits or digits:test")
    add("--against", metavar="WHAT", help="real images, named likewise (default for a run: its held-out images)")
    add("--train", metavar="WHAT", help="the images that the generator learned from (default for a run: its own)")
    add("--metric", action="append", metavar="NAME", help=f"{', '.join(METRICS)}, or all; may be repeated (default: a "
        "few that apply)")  # fmt: skip
    add("--extractor", action="append", metavar="NAME", help="of features: randconv-v1, attributes-v1, pixels, or "
        "inception with --weights; may be repeated (default: two embedded ones)")  # fmt: skip
    add("--weights", action="append", metavar="FILE", help="of Inception or of LPIPS's network; may be repeated")
    add("--resize", default="tf1", metavar="NAME", help=f"how images reach Inception: {', '.join(RESIZERS)} (default "
                                                        "tf1)")
    add("-n", type=_whole(2), metavar="N", help="samples to draw (default: as many as held-out images, at most "
        "1000), or at most so many pictures of a folder or file")  # fmt: skip
    add("--seed", type=_whole(0), default=0, help="of the samples (default 0)")
    add("--device", default=None, help="cpu or cuda:0 (default: that of the training)")
    add("--count", type=_whole(2), metavar="N", help="how many images saved statistics are of that do not say so")
    add("--save-statistics", metavar="FILE.npz", help="keep mean and covariance of the features of what is judged, "
        "to be given to --against later")  # fmt: skip
    add("--json", action="store_true", help="print the card as JSON")
    add("-o", action="append", metavar="FILE", help="the card as .png or .json; may be repeated")
    args = parser.parse(argv)
    for name in args.metric or []:
        if name.replace("-", "_") not in (*METRICS, "all"):
            raise ConfigError(config.unknown("metric", name, [*METRICS, "all"]))
    targets = [_writable(path, tuple(ENDS)) for path in args.o or []]
    statistics = _writable(args.save_statistics, (".npz",)) if args.save_statistics else None
    from . import checkpoint, data, report, run
    from .evaluate import judge

    found = judge(
        args.what, against=args.against, train=args.train, chosen=args.metric, extractors=args.extractor or (),
        weights=args.weights or (), resize=args.resize, n=args.n, seed=args.seed, count=args.count,
        device=args.device, say=_note, bar=bar,
    )  # fmt: skip
    result, folder = found.result, run.Run(args.what)
    if statistics is not None:
        from .metrics import saved

        saved.save(statistics, found.statistics())
    pictures = [path for path in targets if path.suffix == ".png"] + ([folder.card] if folder.exists else [])
    if pictures:
        drawn = found.picture()
        for path in pictures:
            data.save_png(path, drawn)
    for path in targets:
        if path.suffix == ".json":
            checkpoint.write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if folder.exists:
        report.write(folder)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(_head(result))
    print(*result["lines"], *(f"note: {note}" for note in result["notes"]), sep="\n")
    return 0


def _head(result: dict[str, Any]) -> str:
    if "run" in result:
        head = f"{result['run']}: {result['model']} on {result['data']}, step {result['step']}, {result['n']} samples, "
        return head + f"seed {result['seed']}"
    head = f"{result['subject']['name']}: {result['n']} images ({result['subject']['kind']})"
    return head + (f" against {result['against']['n']} of {result['against_name']}" if result["against"] else "")


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Any]:
    """A progress bar with the time left on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from tqdm import tqdm

    with tqdm(total=total or None, desc=what, file=sys.stderr, leave=False, dynamic_ncols=True) as shown:
        yield shown.update


def judge(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(JUDGE, end="")
        return 0 if argv else 2
    commands = {"sheet": _sheet, "read": _read}
    if argv[0] not in commands:
        raise ConfigError(config.unknown("command of judge", argv[0], commands))
    return commands[argv[0]](argv[1:])


def _sheet(argv: list[str]) -> int:
    parser = Parser("judge sheet", "Make one HTML page of blinded pairs, to be answered in a browser by clicks or "
                    "arrow keys, and beside it the key that says whose each picture is: keep that from whoever "
                    "answers.")  # fmt: skip
    add = parser.add_argument
    add("what", nargs="+", metavar="WHAT", help="two contestants or more: runs, folders of pictures, .npz files, "
        "data sets, or the word real for the held-out images of the first run; NAME=WHAT gives one a name")  # fmt: skip
    add("-o", default="sheet.html", metavar="FILE.html", help="the page; the key goes to FILE.key.json (default "
                                                              "sheet.html)")
    add("--pairs", type=_whole(1), default=50, metavar="N", help="how many (default 50)")
    add("--seed", type=_whole(0), default=0, help="of the samples, the pictures, their order and their sides "
                                                  "(default 0)")
    add("--question", metavar="TEXT", help="above each pair (default: which is better; with real among them: which "
                                           "is real)")
    add("--no-ties", action="store_true", help="without the answer `cannot tell`")
    args = parser.parse(argv)
    page = _writable(args.o, (".html",))
    from . import checkpoint, sheet

    contestants = _contestants(args.what, args.pairs, args.seed)
    made = sheet.make(contestants, pairs=args.pairs, seed=args.seed, question=args.question, ties=not args.no_ties)
    key = page.with_suffix(".key.json")
    # the key first: a page without one could never be read back
    checkpoint.write_text(key, json.dumps(made.key, indent=1) + "\n")
    checkpoint.write_text(page, made.page)
    names = ", ".join(c["name"] for c in made.key["contestants"])
    print(f"{args.pairs} pairs of {names}: open {page} in a browser, answer, save, then\n  tinygen judge read "
          f"answers-{made.key['sheet'][:8]}.json {key}\n{key} says whose each picture is; keep it from whoever "
          "answers.")  # fmt: skip
    return 0


def _contestants(words: Sequence[str], pairs: int, seed: int) -> list[tuple[str, Any]]:
    from . import run, subject

    runs = [w.partition("=")[2] or w for w in words if run.Run(w.partition("=")[2] or w).exists]
    out = []
    for word in words:
        name, equals, what = word.partition("=") if not Path(word).exists() else ("", "", word)
        what = what if equals else word
        if what == "real" and not Path(what).exists():
            if not runs:
                raise ConfigError("`real` stands for the held-out images of a run, and no run is among the "
                                  "contestants; name a data set, such as real=digits:test.")  # fmt: skip
            images = run.load_data(run.Run(runs[0]).settings(), "test").images
            out.append((name if equals else "real", images))
            continue
        found = subject.load(what, bar, n=max(pairs, 2), seed=seed)
        if found.images is None:
            raise ConfigError(f"{what} holds statistics, and people compare pictures.")
        out.append((name if equals else Path(what).name, found.images))
    return out


def _read(argv: list[str]) -> int:
    parser = Parser("judge read", "Read answers to a pair sheet: win rates with Wilson's 95 % intervals, and of more "
                    "than two contestants their Bradley–Terry scores.")  # fmt: skip
    parser.add_argument("files", nargs="+", metavar="FILE", help="files of answers, one for each person, and the "
                                                                 "sheet's key")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse(argv)
    from . import sheet

    content = [(name, sheet.read(name)) for name in args.files]
    keys = [(name, c) for name, c in content if c["tinygen"] == sheet.KEY]
    answers = [(name, c) for name, c in content if c["tinygen"] == sheet.ANSWERS]
    if len(keys) != 1 or not answers:
        raise ConfigError(f"one key and at least one file of answers are needed; got {len(keys)} and {len(answers)}.")
    verdict = sheet.judge(answers, keys[0][1], keys[0][0])
    print(json.dumps(verdict.as_dict(), indent=1) if args.json else "\n".join(verdict.lines))
    return 0


def _writable(text: str, endings: Sequence[str]) -> Path:
    """A path that can be written, checked before anything is computed. Raises ConfigError."""
    path = Path(text)
    if path.suffix not in endings:
        raise ConfigError(f"{path}: give the file the ending {' or '.join(endings)}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first.")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written; choose another file.")
    return path
