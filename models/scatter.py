"""Where an encoder puts images: a picture of points in the colours of their labels."""

from __future__ import annotations

import numpy as np

__all__ = ["scatter"]

COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
           (227, 119, 194), (90, 90, 90), (188, 189, 34), (23, 190, 207))


def scatter(points: np.ndarray, labels: np.ndarray | None = None, names=None, size: int = 480) -> np.ndarray:
    """Points (N, 2) as dots in the colours of their labels, the name of each label at the median of its points: uint8
    size,size,3. Of points in more dimensions, the two principal ones; the first axis to the right, the second up."""
    from PIL import Image, ImageDraw, ImageFont

    p = np.asarray(points, np.float64)
    if p.shape[1] != 2:
        p = p - p.mean(0)
        p = p @ np.linalg.svd(p, full_matrices=False)[2][:2].T
        p = np.pad(p, ((0, 0), (0, 2 - p.shape[1])))
    twice = 2 * size  # drawn at twice the size and reduced, for smooth edges
    place = (p * [1, -1] / max(np.abs(p).max(), 1e-12) * 0.47 + 0.5) * twice
    picture = Image.new("RGB", (twice, twice), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    groups = np.zeros(len(p), int) if labels is None else labels
    for at, label in zip(place, groups):
        draw.ellipse((*(at - 6), *(at + 6)), fill=COLOURS[label % len(COLOURS)])
    for label in np.unique(groups) if labels is not None else ():
        text = names[label] if names else str(label)
        draw.text(tuple(np.median(place[groups == label], axis=0)), text, fill=(0, 0, 0), anchor="mm", stroke_width=6,
                  stroke_fill=(255, 255, 255), font=ImageFont.load_default(40))
    return np.asarray(picture.reduce(2))
