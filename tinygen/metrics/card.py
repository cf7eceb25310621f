"""A report card as a picture: samples above their nearest neighbours, power spectra, features in the plane, scores.

Numbers can be right and samples bad; the picture is what lets a reader doubt a number. Drawn with Pillow and NumPy.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tinygen.errors import ShapeError

from ._arrays import Array, as_features, as_images
from .memorisation import nearest_distances

INK, SOFT, RULE, PAPER = "#1a1a1a", "#666666", "#dddddd", "#ffffff"
REAL, FAKE = "#2166ac", "#d6604d"
TIMES = 2  # drawn so much larger, then reduced: edges become smooth
WIDTH, MARGIN, GAP = 1200, 30, 24
COLUMNS, ROWS = 20, 3  # of pairs of a sample and its neighbour
DRAWN, SPELLED = "±°·…", str.maketrans({"–": "-", "×": "x", "∞": "inf", "≤": "<=", "≥": ">="})
PLOT = 300  # height of a chart
MOST_POINTS = 1500  # of a set in a scatter
MOST_IMAGES = 2000  # of a set in a spectrum

Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True)
class Scatter:
    """Features in the plane of their two largest principal components."""

    name: str
    real: Array  # N,2
    fake: Array  # M,2
    shares: tuple[float, float]  # of the variance of both sets together


def spectrum(images: npt.ArrayLike) -> tuple[Array, Array]:
    """The radial power spectrum of images N,H,W,C: (frequencies in cycles per pixel, mean power in each ring).

    Channels are averaged, each image's own mean is taken off, and |FFT|² / (H·W) is averaged over images and over rings
    as wide as one cycle per image, up to half a cycle per pixel. The borders are joined, as a Fourier series has it.
    """
    x = as_images(images, "images").mean(3)
    x = x - x.mean((1, 2), keepdims=True)
    n, h, w = x.shape
    power = (np.abs(np.fft.rfft2(x)) ** 2).mean(0) / (h * w)
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    # the half that is left out mirrors this one; the columns that are their own mirror count once
    weight = np.where((fx == 0) | ((w % 2 == 0) & (fx == 0.5)), 1.0, 2.0) * np.ones_like(fy)
    rings = np.rint(np.hypot(fy, fx) * min(h, w)).astype(int)
    top = min(h, w) // 2
    total, count = (np.bincount(rings.ravel(), v.ravel(), top + 1)[1 : top + 1] for v in (power * weight, weight))
    return np.arange(1, top + 1) / min(h, w), total / count


def plane(name: str, real: npt.ArrayLike, fake: npt.ArrayLike, seed: int = 0) -> Scatter:
    """Features N,D and M,D seen from the side on which both together spread most; random parts of large sets."""
    rng = np.random.default_rng(seed)
    r, f = (x[rng.permutation(len(x))[:MOST_POINTS]] for x in (as_features(real, "real"), as_features(fake, "fake")))
    both = np.concatenate([r, f])
    centre = both.mean(0)
    _, s, vt = np.linalg.svd(both - centre, full_matrices=False)
    axes = vt[:2].T
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros_like(axes)], axis=1)
    share = s**2 / max(float((s**2).sum()), 1e-300)
    second = float(share[1]) if len(s) > 1 else 0.0
    return Scatter(name, (r - centre) @ axes, (f - centre) @ axes, (float(share[0]), second))


def draw(
    title: str,
    about: str,
    lines: Sequence[str],
    samples: npt.NDArray[np.uint8] | None,
    references: npt.NDArray[np.uint8] | None,
    *,
    reference_name: str = "training image",
    real: npt.NDArray[np.uint8] | None = None,
    scatters: Sequence[Scatter] = (),
) -> npt.NDArray[np.uint8]:
    """The picture, uint8 H,W,3.

    samples, references, real: images N,H,W,C; beneath each of the first samples stands the nearest of `references`, by
    pixels; spectra are of samples and `real`. What is None is left out. Raises ShapeError.
    """
    sheet = _Sheet()
    sheet.text(title, 26, INK, 6)
    sheet.text(about, 15, SOFT, 18)
    if samples is not None:
        shown = samples[: COLUMNS * ROWS]
        if references is not None and len(references):
            distances, near = nearest_distances(*_alike(shown, references))
            heading = f"samples, and beneath each the nearest {reference_name} (its distance in pixels of [0, 1])"
            sheet.text(heading, 17, INK, 8)
            sheet.pairs(shown, references[near], distances)
        else:
            sheet.text("samples", 17, INK, 8)
            sheet.pairs(shown, None, None)
    charts: list[Callable[[Box], None]] = []
    if samples is not None and real is not None:
        charts.append(partial(_spectra, sheet, samples[:MOST_IMAGES], real[:MOST_IMAGES]))
    charts += [partial(_scatter, sheet, s) for s in scatters]
    sheet.row(charts)
    sheet.text("scores", 17, INK, 6)
    for line in lines:
        sheet.paragraph(line)
    return sheet.finish()


def spelled(text: str) -> str:
    """Text in the letters that Pillow's own font has: ASCII and a few signs; accents are dropped, the rest is "?"."""
    out = []
    for c in text.translate(SPELLED):
        near = c if c in DRAWN else unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
        out.append(near or "?")
    return "".join(out)


class _Sheet:
    """A page that grows downwards; all lengths are in pixels of the finished picture."""

    def __init__(self) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self.image = Image.new("RGB", (WIDTH * TIMES, 400 * TIMES), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.fonts = {size: ImageFont.load_default(size * TIMES) for size in (12, 13, 15, 17, 26)}
        self.y = float(MARGIN)

    def room(self, height: float) -> None:
        """Make the page at least so much longer than where it is."""
        from PIL import Image, ImageDraw

        need = int((self.y + height + MARGIN) * TIMES)
        if need > self.image.height:
            larger = Image.new("RGB", (self.image.width, max(need, 2 * self.image.height)), PAPER)
            larger.paste(self.image)
            self.image, self.pen = larger, ImageDraw.Draw(larger)

    def label(self, x: float, y: float, text: str, size: int, colour: str, anchor: str = "la") -> None:
        self.pen.text((x * TIMES, y * TIMES), spelled(text), fill=colour, font=self.fonts[size], anchor=anchor)

    def text(self, text: str, size: int, colour: str, after: float) -> None:
        self.room(size * 1.4)
        self.label(MARGIN, self.y, text, size, colour)
        self.y += size * 1.25 + after

    def paragraph(self, text: str) -> None:
        """A line of text, broken between words where the page ends."""
        part, left = "", 0
        for word in text.split(" "):
            longer = f"{part} {word}" if part else word
            if part and self.fonts[15].getlength(longer) > (WIDTH - 2 * MARGIN - left) * TIMES:
                self.label(MARGIN + left, self.y, part, 15, INK)
                self.y, left, longer = self.y + 20, 24, word
                self.room(30)
            part = longer
        self.room(30)
        self.label(MARGIN + left, self.y, part, 15, INK)
        self.y += 26

    def picture(self, x: float, y: float, side: float, image: np.ndarray) -> None:
        """An image in a square of that side, its pixels seen as squares."""
        from PIL import Image

        pixels = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
        scale = side * TIMES / max(pixels.size)
        size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        self.image.paste(pixels.resize(size, how), (round(x * TIMES), round(y * TIMES)))

    def pairs(self, top: np.ndarray, below: np.ndarray | None, distances: Array | None) -> None:
        pitch = (WIDTH - 2 * MARGIN + 6) / COLUMNS
        side = pitch - 6
        height = side * (2 if below is not None else 1) + (22 if distances is not None else 8)
        for i, image in enumerate(top):
            x = MARGIN + i % COLUMNS * pitch
            if i % COLUMNS == 0:
                self.room(height)
            self.picture(x, self.y, side, image)
            if below is not None and distances is not None:
                self.picture(x, self.y + side + 1, side, below[i])
                self.label(x + side / 2, self.y + 2 * side + 4, f"{distances[i]:.2f}", 12, SOFT, "ma")
            if i % COLUMNS == COLUMNS - 1 or i == len(top) - 1:
                self.y += height
        self.y += 14

    def row(self, charts: Sequence) -> None:
        if not charts:
            return
        self.room(PLOT + 40)
        width = (WIDTH - 2 * MARGIN - GAP * 2) / 3
        for i, chart in enumerate(charts[:3]):
            chart((MARGIN + i * (width + GAP), self.y, width, PLOT))
        self.y += PLOT + 24

    def finish(self) -> npt.NDArray[np.uint8]:
        page = self.image.crop((0, 0, self.image.width, int((self.y + MARGIN / 2) * TIMES)))
        return np.asarray(page.reduce(TIMES)).copy()


def _frame(sheet: _Sheet, at: Box, title: str) -> tuple[float, float, float, float]:
    """Draw title, frame and legend; where the data go: x0, y0, x1, y1."""
    x, y, w, h = at
    sheet.label(x, y, title, 15, INK)
    x0, y0, x1, y1 = x + 44, y + 46, x + w, y + h - 26
    for i, (name, colour) in enumerate((("real", REAL), ("samples", FAKE))):
        left = x0 + 80 * i
        sheet.pen.ellipse([v * TIMES for v in (left, y + 28, left + 9, y + 37)], fill=colour)
        sheet.label(left + 14, y + 32, name, 13, SOFT, "lm")
    sheet.pen.rectangle([v * TIMES for v in (x0, y0, x1, y1)], outline=RULE, width=TIMES)
    return x0, y0, x1, y1


def _spectra(sheet: _Sheet, fake: np.ndarray, real: np.ndarray, at: Box) -> None:
    curves = [(spectrum(real), REAL), (spectrum(fake), FAKE)]
    x0, y0, x1, y1 = _frame(sheet, at, "power by spatial frequency")
    powers = np.concatenate([p for (_, p), _ in curves])
    floor = powers[powers > 0].min() if (powers > 0).any() else 1e-12
    low, high = np.floor(np.log10(floor)), np.ceil(np.log10(max(powers.max(), floor * 10)))
    low = max(low, high - 8)  # further down lies rounding

    def place(f: float, p: float) -> tuple[float, float]:
        up = (np.log10(max(p, 10.0**low)) - low) / (high - low)
        return (x0 + (x1 - x0) * f / 0.5) * TIMES, (y1 - (y1 - y0) * up) * TIMES

    for decade in range(int(low), int(high) + 1):
        _, py = place(0, 10.0**decade)
        sheet.pen.line((x0 * TIMES, py, x1 * TIMES, py), fill=RULE, width=TIMES // 2)
        sheet.label(x0 - 6, py / TIMES, f"1e{decade}", 12, SOFT, "rm")
    for f in (0, 0.1, 0.2, 0.3, 0.4, 0.5):
        sheet.label(place(f, 1)[0] / TIMES, y1 + 5, f"{f:g}", 12, SOFT, "ma")
    sheet.label((x0 + x1) / 2, y1 + 17, "cycles per pixel", 12, SOFT, "ma")
    for (frequencies, power), colour in curves:
        points = [place(a, b) for a, b in zip(frequencies, power)]
        sheet.pen.line(points, fill=colour, width=2 * TIMES, joint="curve")
        for px, py in points if len(points) <= 32 else []:
            sheet.pen.ellipse((px - 3 * TIMES, py - 3 * TIMES, px + 3 * TIMES, py + 3 * TIMES), fill=colour)


def _scatter(sheet: _Sheet, s: Scatter, at: Box) -> None:
    from PIL import Image, ImageDraw

    x0, y0, x1, y1 = _frame(sheet, at, f"features of {s.name}")
    both = np.concatenate([s.real, s.fake])
    low, high = np.quantile(both, (0.002, 0.998), axis=0)
    span = np.maximum(high - low, 1e-12) * 1.08
    low = (low + high - span) / 2
    # half transparent, and in turns, so that neither set hides the other
    layer = Image.new("RGBA", (round((x1 - x0) * TIMES), round((y1 - y0) * TIMES)), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer, "RGBA")
    points = [(p, REAL + "a0") for p in s.real] + [(p, FAKE + "a0") for p in s.fake]
    for k in np.random.default_rng(0).permutation(len(points)):
        (u, v), colour = points[k]
        px, py = (u - low[0]) / span[0] * layer.width, (1 - (v - low[1]) / span[1]) * layer.height
        pen.ellipse((px - 1.8 * TIMES, py - 1.8 * TIMES, px + 1.8 * TIMES, py + 1.8 * TIMES), fill=colour)
    sheet.image.paste(layer, (round(x0 * TIMES), round(y0 * TIMES)), layer)
    shares = f"two largest components: {100 * s.shares[0]:.0f} % and {100 * s.shares[1]:.0f} % of the variance"
    sheet.label((x0 + x1) / 2, y1 + 6, shares, 12, SOFT, "ma")


def _alike(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape[1:3] != b.shape[1:3]:
        raise ShapeError(f"samples are {a.shape[1]}x{a.shape[2]} and references {b.shape[1]}x{b.shape[2]}; sizes must "
                         "agree.")
    c = max(a.shape[3], b.shape[3])
    return np.repeat(a, c // a.shape[3], axis=3), np.repeat(b, c // b.shape[3], axis=3)
