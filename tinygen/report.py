"""report.html: a run on one page that needs nothing but itself; pictures are inside it, curves are drawn
here.

Everything comes from the run folder, so a report can be written at any time, by another process, without a
model.
"""

from __future__ import annotations

import base64
import html
import inspect
import json
import math
from pathlib import Path
from typing import Any

from . import checkpoint, config
from .errors import NonFiniteError
from .evaluate import METRICS
from .run import Run, command, load_data, sample_stream

Series = dict[str, list[tuple[float, float]]]  # name -> points (step, value)
COLOURS = ("#2166ac", "#d6604d", "#4d9221", "#8073ac", "#b8860b", "#01665e")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 300, 64, 14, 14, 34
POINTS = 600  # of a curve; more are averaged in groups
_TIMES = ("step", "seconds", "images_per_second")


def write(folder: Run) -> None:
    """Write report.html and loss.png of a run folder. Raises UserError where that cannot be."""
    curves = read_log(folder)
    main = {k: v for k, v in curves.items() if "loss" in k} or dict(list(curves.items())[:1])
    if main:
        _draw_png(folder, main)
    checkpoint.write_text(folder.report, _page(folder, curves, main))


def figures(folder: Run, model: Any, seed: int) -> list[str]:
    """Save the pictures that the model draws of itself, figures/NAME.png; returns their names. A model whose
    figures() takes a `dataset` is given the held-out images."""
    from .data import save_png
    from .tape import no_grad

    if not hasattr(model, "figures"):
        return []
    training = model.training
    model.eval()
    try:
        with no_grad():
            wants = "dataset" in inspect.signature(model.figures).parameters
            drawn = model.figures(sample_stream(seed), *([load_data(folder.settings(), "test")] if wants else []))
    except NonFiniteError:
        return []  # an untrained model may draw nothing finite; that is no reason to lose the run
    finally:
        model.train(training)
    folder.figures.mkdir(exist_ok=True)
    for name, picture in drawn.items():
        times = max(1, 500 // max(picture.shape[:2]))  # pixels of 8×8 digits, large enough to be seen
        save_png(folder.figures / f"{name}.png", picture.repeat(times, axis=0).repeat(times, axis=1))
    return list(drawn)


def read_log(folder: Run) -> Series:
    """The scalars of log.jsonl by name; a line that is not whole is left out."""
    curves: Series = {}
    for line in folder.log.read_text().splitlines() if folder.log.exists() else []:
        try:
            entry = json.loads(line)
            step = float(entry["step"])
        except (ValueError, KeyError, TypeError):
            continue
        for k, v in entry.items():
            if k not in _TIMES and isinstance(v, (int, float)) and math.isfinite(v):
                curves.setdefault(k, []).append((step, float(v)))
    return {k: _thin(v) for k, v in curves.items()}


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    group = -(-len(points) // POINTS)
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(p[-1][0], sum(y for _, y in p) / len(p)) for p in parts]


# ---- curves


class Axes:
    """Where a point lies in a chart of WIDTH × HEIGHT, and the ticks."""

    def __init__(self, curves: Series, log: bool):
        xs = [x for points in curves.values() for x, _ in points]
        ys = [y for points in curves.values() for _, y in points]
        self.log = log
        self.x0, self.x1 = min(xs), max(xs)
        ys = [math.log10(y) for y in ys] if log else ys
        margin = 0.05 * (max(ys) - min(ys)) or 0.1 * abs(ys[0]) or 1.0
        self.y0, self.y1 = min(ys) - margin, max(ys) + margin

    def place(self, x: float, y: float) -> tuple[float, float]:
        y = math.log10(y) if self.log else y
        across = (x - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        up = (y - self.y0) / (self.y1 - self.y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def x_ticks(self) -> list[float]:
        return _ticks(self.x0, self.x1)

    def y_ticks(self) -> list[float]:
        if not self.log:
            return _ticks(self.y0, self.y1)
        decades = range(math.floor(self.y0), math.ceil(self.y1) + 1)
        steps = (1, 2, 5) if self.y1 - self.y0 < 3 else (1,)
        found = [s * 10.0**d for d in decades for s in steps if self.y0 <= math.log10(s * 10.0**d) <= self.y1]
        return found if len(found) > 1 else [10**v for v in _ticks(self.y0, self.y1)]


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between low and high."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(curves: Series, log: bool = False) -> str:
    """A chart as inline SVG; text and lines take the page's colour."""
    axes = Axes(curves, log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(", ".join(curves))}">']
    for y in axes.y_ticks():
        _, py = axes.place(axes.x0, y)
        parts.append(f'<path class="rule" d="M{LEFT} {py:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in axes.x_ticks():
        px, _ = axes.place(x, 10**axes.y0 if log else axes.y0)
        parts.append(f'<text x="{px:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{x:.6g}</text>')
    for i, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (axes.place(x, y) for x, y in points))
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(points) == 1:
            px, py = axes.place(*points[0])
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT - 4}" y="{TOP + 14 + 16 * i}" text-anchor="end" '
                     f'style="fill:{colour}">{html.escape(name)}</text>')  # fmt: skip
    return "".join(parts) + "</svg>"


def _draw_png(folder: Run, curves: Series) -> None:
    """loss.png: the same chart in pixels, drawn at twice the size and reduced."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from .data import save_png

    axes = Axes(curves, False)
    picture = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(22)

    def at(x: float, y: float) -> tuple[float, float]:
        px, py = axes.place(x, y)
        return 2 * px, 2 * py

    for y in axes.y_ticks():
        _, py = at(axes.x0, y)
        pen.line((2 * LEFT, py, 2 * (WIDTH - RIGHT), py), fill="#dddddd", width=2)
        pen.text((2 * LEFT - 12, py), f"{y:.4g}", fill="#444444", font=font, anchor="rm")
    for x in axes.x_ticks():
        pen.text((at(x, axes.y0)[0], 2 * HEIGHT - 40), f"{x:.6g}", fill="#444444", font=font, anchor="mm")
    for i, (name, points) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        pen.line([at(x, y) for x, y in points], fill=colour, width=3, joint="curve")
        pen.text((2 * (WIDTH - RIGHT) - 8, 2 * TOP + 22 + 30 * i), name, fill=colour, font=font, anchor="rm")
    save_png(folder.path / "loss.png", np.asarray(picture.reduce(2)))


# ---- the page

STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--line:#ddd;--soft:#666}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#151515;--line:#3a3a3a;--soft:#999}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem
auto; padding:0 1rem}h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}figure{margin:0}
figcaption,.soft{color:var(--soft);font-size:.9rem}img{max-width:100%;image-rendering:pixelated}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}.rule{stroke:var(--line)}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:1rem}
table{border-collapse:collapse;font-size:.9rem}td{padding:.1rem 1.2rem .1rem 0;vertical-align:top}
pre{white-space:pre-wrap;background:color-mix(in srgb,var(--ink) 7%,transparent);padding:.7rem;border-radius:4px}
input[name=scale]~.log{display:none}#log:checked~.log{display:block}#log:checked~.linear{display:none}
"""


def _page(folder: Run, curves: Series, main: Series) -> str:
    settings = folder.settings()
    facts = _facts(folder)
    step = facts.get("step", 0)
    title = f"{settings.model} on {settings.data}"
    spent = f"{facts.get('seconds', 0.0):.0f} s of training"
    about = f"{settings.preset} preset, {step} of {settings.steps} steps, {spent}"
    parts = [f"<h1>{html.escape(title)}</h1><p class=soft>{html.escape(about)}</p>"]
    samples = sorted(folder.samples.glob("*.png")) if folder.samples.is_dir() else []
    if samples:
        parts.append(_section("Samples", _image(samples[-1], f"after {int(samples[-1].stem)} steps")))
    drawn = sorted(folder.figures.glob("*.png")) if folder.figures.is_dir() else []
    if drawn:
        parts.append(_section("Figures", "".join(_image(p, p.stem.replace("_", " ")) for p in drawn)))
    if folder.scores.exists():
        parts.append(_section("Scores", _scores(folder)))
    if main:
        parts.append(_section("Loss", _loss(main)))
    rest = {k: v for k, v in curves.items() if k not in main}
    if rest:
        small = "".join(f"<figure>{_svg({k: v})}</figure>" for k, v in rest.items())
        parts.append(_section("Other scalars", f"<div class=row>{small}</div>"))
    if len(samples) > 1:
        shown = [samples[round(i * (len(samples) - 1) / 11)] for i in range(12)] if len(samples) > 12 else samples
        grids = "".join(_image(p, f"step {int(p.stem)}") for p in shown)
        parts.append(_section("Samples over time, from the same noise", f"<div class=row>{grids}</div>"))
    parts.append(_section("To make it again", f"<pre>{html.escape(command(settings, folder))}</pre>"))
    parts.append(_section("Settings", _table({**settings.config, "seed": settings.seed})))
    parts.append(_section("Made with", _table(facts.get("versions", {}))))
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}{''.join(parts)}</html>\n"


def _facts(folder: Run) -> dict[str, Any]:
    """What the checkpoint says of itself, from its readable copy."""
    try:
        facts = json.loads(folder.checkpoint.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{body}"


def _image(path: Path, caption: str) -> str:
    inside = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    image = f"<img alt='{text}' src='data:image/png;base64,{inside}'>"
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _table(values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{html.escape(k)}<td>{html.escape(config.show(v))}" for k, v in values.items())
    return f"<table>{rows}</table>"


def _scores(folder: Run) -> str:
    try:
        found = json.loads(folder.scores.read_text())
        lines, names = [str(t) for t in found["lines"]], [k for k in found["scores"] if k in METRICS]
        made = f"{found['n']} samples of seed {found['seed']}, after {found['step']} steps"
    except (OSError, ValueError, KeyError, TypeError):
        return "<p>scores.json is damaged; run `tinygen evaluate` again.</p>"
    picture = _image(folder.card, "the report card") if folder.card.exists() else ""
    picture = picture.replace("<img ", "<img style='image-rendering:auto' ", 1)  # it is text, not pixels
    means = "".join(f"<p class=soft>{html.escape(k)}: {html.escape(METRICS[k])}</p>" for k in names)
    return f"<pre>{html.escape(chr(10).join(lines))}</pre><p class=soft>{html.escape(made)}</p>{picture}{means}"


def _loss(curves: Series) -> str:
    """The chart, with a logarithmic scale to switch to where all values allow it; no script is needed."""
    if any(y <= 0 for points in curves.values() for _, y in points):
        return _svg(curves)
    return (
        "<input type=radio name=scale id=linear checked><label for=linear> linear</label> "
        "<input type=radio name=scale id=log><label for=log> logarithmic</label>"
        f"<div class=linear>{_svg(curves)}</div><div class=log>{_svg(curves, log=True)}</div>"
    )
