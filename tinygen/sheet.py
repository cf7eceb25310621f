"""Human judgement: a blinded sheet of pairs to be answered in a browser, and its answers read back.

    sheet = make([("real", real_images), ("gan", gan_images)], pairs=50, seed=7)
    sheet.page                                                  # HTML, for whoever answers
    sheet.key                                                   # JSON, for whoever asks: kept apart from the page
    judge([answers], sheet.key).lines

Which contestants meet is balanced, their pictures, the order of the pairs and the sides are drawn from the seed, and
the page tells none of it: it holds nothing but pixels, encoded alike. The key has a digest of itself and of the
pictures, by which answers to another sheet are known.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import metrics, sheet_page
from .data.image import to_uint8
from .errors import ConfigError, DataError
from .metrics.human import BradleyTerry, WinRate

KEY, ANSWERS = "key of a pair sheet", "answers to a pair sheet"
CHOICES = ("left", "right", "tie")
MOST_BYTES = 1 << 28  # of a file of answers or a key


@dataclass(frozen=True)
class Sheet:
    """A page to be answered, and the key that says whose its pictures are."""

    page: str
    key: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the answers to a sheet say."""

    pairs: dict[tuple[str, str], WinRate]  # (a, b): how often a was chosen rather than b
    scores: BradleyTerry | None  # of more than two contestants
    left: WinRate  # how often the left side was chosen: far from a half, the side itself decided
    answered: int
    asked: int  # pairs, times files of answers
    raters: int
    seconds: float  # median of an answer
    lines: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the lines as JSON knows it; numbers that are not finite as text."""
        out: dict[str, Any] = {"pairs": [{"first": a, "second": b, **asdict(r)} for (a, b), r in self.pairs.items()]}
        if self.scores is not None:
            s = self.scores
            out["bradley_terry"] = {
                "names": list(s.names), "scores": _plain(s.scores), "standard_errors": _plain(s.standard_errors),
                "covariance": [_plain(row) for row in s.covariance], "wins": s.wins.tolist(), "notes": list(s.notes),
            }  # fmt: skip
        return {**out, "left": asdict(self.left), "answered": self.answered, "asked": self.asked, "raters": self.raters,
                "median_seconds": self.seconds}  # fmt: skip


def make(
    contestants: Sequence[tuple[str, np.ndarray]],
    *,
    pairs: int = 50,
    seed: int = 0,
    question: str | None = None,
    ties: bool = True,
) -> Sheet:
    """A sheet of `pairs` pairs of two or more contestants: (name, images uint8 N,H,W,C or float in [-1, 1]).

    Every two contestants meet equally often, to within one; each stands left as often as right, to within one of each
    meeting. Pictures are drawn without replacement, and again only when a contestant has too few. Grey pictures are
    shown as colour where others have colour. Raises ConfigError (fewer than two, names alike, pairs), DataError (sizes
    differ: a size would tell them apart).
    """
    names = [name for name, _ in contestants]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"a sheet compares at least two contestants of different names; got "
                          f"{', '.join(names) or 'none'}.")
    meetings = list(itertools.combinations(range(len(names)), 2))
    if pairs < len(meetings):
        raise ConfigError(f"{len(names)} contestants meet in {len(meetings)} ways; ask for at least as many pairs, "
                          f"not {pairs}.")
    images = _alike(contestants)
    rng = np.random.default_rng(seed)
    chosen = [meetings[i % len(meetings)] for i in range(pairs)]
    # of each meeting, every other one is turned over, starting with a side by lot
    turned = rng.integers(2, size=len(meetings))
    sides = [m if (i // len(meetings) + turned[i % len(meetings)]) % 2 else m[::-1] for i, m in enumerate(chosen)]
    sides = [sides[i] for i in rng.permutation(pairs)]
    decks = [_deck(len(x), sum(k in s for s in sides), rng) for k, x in enumerate(images)]
    shown = [tuple((k, int(next(decks[k]))) for k in s) for s in sides]
    cards = sorted({card for pair in shown for card in pair})
    cards = [cards[i] for i in rng.permutation(len(cards))]  # their order in the page must not tell whose they are
    place = {card: i for i, card in enumerate(cards)}
    pngs = [_png(images[k][i]) for k, i in cards]
    key: dict[str, Any] = {
        "tinygen": KEY, "version": 1, "seed": seed,
        "contestants": [{"name": n, "images": len(x), "digest": digest(x)} for (n, _), x in zip(contestants, images)],
        "pairs": [{"left": a[0], "left_image": a[1], "right": b[0], "right_image": b[1]} for a, b in shown],
        "pictures": hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in pngs)).hexdigest(),
    }  # fmt: skip
    key["sheet"] = _identity(key)
    if question is None:
        question = "Which picture is real?" if "real" in names else "Which picture is better?"
    uris = ["data:image/png;base64," + base64.b64encode(p).decode() for p in pngs]
    page = sheet_page.page(key["sheet"], question, uris, [(place[a], place[b]) for a, b in shown], ties)
    return Sheet(page, key)


def judge(answers: Sequence[tuple[str, Mapping[str, Any]]], key: Mapping[str, Any], where: str = "the key") -> Verdict:
    """What answers say: [(name of the file, its content), …] to the sheet of `key`.

    Raises DataError for a key or answers that were altered, are of another sheet, or come twice.
    """
    _check_key(key, where)
    names = [c["name"] for c in key["contestants"]]
    pairs = key["pairs"]
    counts = np.zeros((len(names), len(names), 3), int)  # i, j: i won, i lost, tie
    sides, times = [0, 0, 0], []
    seen: dict[str, str] = {}
    for name, content in answers:
        found = _check_answers(name, content, key)
        mark = content["checksum"]
        if mark in seen:
            raise DataError(f"{name} holds the same answers as {seen[mark]}; give each person's file once.")
        seen[mark] = name
        for a in found:
            p = pairs[a["pair"]]
            side = CHOICES.index(a["choice"])
            sides[side] += 1
            times.append(a["ms"] / 1000)
            counts[p["left"], p["right"], (0, 1, 2)[side]] += 1
            counts[p["right"], p["left"], (1, 0, 2)[side]] += 1
    if not times:
        raise DataError("no pair is answered in these files; open the sheet in a browser and answer some.")
    rates = {(names[i], names[j]): metrics.win_rate(*map(int, counts[i, j]))
             for i, j in itertools.combinations(range(len(names)), 2) if counts[i, j].any()}  # fmt: skip
    scores = metrics.bradley_terry(counts[..., 0] + counts[..., 2] / 2, names) if len(names) > 2 else None
    left = metrics.win_rate(*sides)
    asked, seconds = len(pairs) * len(answers), float(np.median(times))
    verdict = Verdict(rates, scores, left, len(times), asked, len(answers), seconds, ())
    return Verdict(**{**vars(verdict), "lines": tuple(_lines(verdict))})


def read(path: str | Path) -> dict[str, Any]:
    """A file of answers or a key. Raises DataError unless it is one."""
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is too large to be answers or a key.")
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError):
        raise DataError(f"{path} is not whole JSON; give the file that the sheet's page saved, or the sheet's "
                        "key.") from None
    if not isinstance(found, dict) or found.get("tinygen") not in (KEY, ANSWERS) or found.get("version") != 1:
        raise DataError(f"{path} is neither answers to a pair sheet nor the key of one; `tinygen judge sheet` makes "
                        "both.")
    return found


def digest(images: np.ndarray) -> str:
    """A fingerprint of images, their shape and order."""
    h = hashlib.sha256(str(images.shape).encode())
    h.update(np.ascontiguousarray(images).data)
    return "sha256:" + h.hexdigest()[:16]


def _alike(contestants: Sequence[tuple[str, np.ndarray]]) -> list[np.ndarray]:
    """All as uint8 of one shape."""
    out = [x if x.dtype == np.uint8 else to_uint8(x) for _, x in contestants]
    (first, _), colour = contestants[0], max(x.shape[3] for x in out)
    for (name, _), x in zip(contestants, out):
        if not len(x):
            raise DataError(f"{name} has no picture to show.")
        if x.shape[1:3] != out[0].shape[1:3]:
            raise DataError(f"{first} has pictures of {out[0].shape[2]}×{out[0].shape[1]} pixels and {name} of "
                            f"{x.shape[2]}×{x.shape[1]}; the size would tell them apart, so bring them to "
                            "one.")  # fmt: skip
    return [np.repeat(x, colour // x.shape[3], axis=3) for x in out]


def _deck(n: int, wanted: int, rng: np.random.Generator):
    rounds = [rng.permutation(n) for _ in range(-(-wanted // n))]
    return iter(np.concatenate(rounds).tolist() if rounds else [])


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)).save(out, format="PNG")
    return out.getvalue()


def _identity(key: Mapping[str, Any]) -> str:
    table = {k: v for k, v in key.items() if k != "sheet"}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]


def _check_key(key: Mapping[str, Any], where: str) -> None:
    if key.get("tinygen") != KEY:
        raise DataError(f"{where} is not the key of a pair sheet; it lies beside the page, and its name ends in "
                        ".key.json.")
    if key.get("sheet") != _identity(key):
        raise DataError(f"{where} was altered: it does not have the digest that it states; restore it, or make a new "
                        "sheet.")


def _check_answers(name: str, content: Mapping[str, Any], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    if content.get("tinygen") != ANSWERS:
        raise DataError(f"{name} holds no answers to a pair sheet; give the file that the page saved.")
    if content.get("sheet") != key["sheet"]:
        raise DataError(f"{name} answers another sheet ({str(content.get('sheet'))[:8]}…) than the key is of "
                        f"({key['sheet'][:8]}…); give the key that lies beside the page that was "
                        "answered.")  # fmt: skip
    found: Any = content.get("answers")
    found = found if isinstance(found, list) else [None]
    whole = all(
        isinstance(a, dict) and a.get("pair") == i and a.get("choice") in CHOICES and type(a.get("ms")) is int
        for i, a in enumerate(found)
    )
    if not whole or len(found) > len(key["pairs"]) or content.get("checksum") != checksum(content):
        raise DataError(f"{name} was altered after the page saved it: its answers do not have the checksum that it "
                        "states; use the file as it was saved.")  # fmt: skip
    return found


def checksum(content: Mapping[str, Any]) -> str:
    """32-bit FNV-1a of answers, as the page computes it: it shows accidents and careless edits, and seals nothing."""
    head = [content.get("sheet"), content.get("began"), content.get("ended")]
    text = "\n".join([*map(str, head), *(f"{a['choice']} {a['ms']}" for a in content["answers"])])
    h = 0x811C9DC5
    for byte in text.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{h:08x}"


def _lines(v: Verdict) -> list[str]:
    people = "1 file" if v.raters == 1 else f"{v.raters} files"
    out = [f"{v.answered} of {v.asked} pairs answered in {people} of answers, {v.seconds:.1f} s each (median)"]
    out += [f"{a} was chosen rather than {b} in {rate}" for (a, b), rate in v.pairs.items()]
    if v.scores is not None:
        s = v.scores
        out.append("Bradley–Terry scores ± standard error (a difference of 1.1 is being chosen three times in four)")
        wide = max(map(len, s.names))
        for k in s.order:
            error = f" ± {s.standard_errors[k]:.2f}" if np.isfinite(s.standard_errors[k]) else ""
            out.append(f"  {s.names[k]:<{wide}}  {s.scores[k]:+.2f}{error}")
        out += [f"  {note}" for note in s.notes]
    low, high = v.left.interval
    odd = "" if low <= 0.5 <= high else ": the side itself seems to have decided"
    out.append(f"the left picture was chosen in {v.left}{odd}")
    return out


def _plain(values: np.ndarray) -> list[float | str]:
    return [float(x) if np.isfinite(x) else str(float(x)) for x in values]
