"""shapes32: the renderer, captions, and the parser that reads pictures back."""

import numpy as np
import pytest

from tinygen import data
from tinygen.data import shapes, shapes_parser
from tinygen.data.shapes import Scene
from tinygen.errors import ConfigError, ShapeError

RNG = np.random.default_rng(0)
SAMPLE = np.sort(RNG.choice(shapes.COUNT, 1000, replace=False))


def test_index_is_a_bijection():
    index = np.arange(shapes.COUNT)
    digits = shapes.decode(index)
    assert np.array_equal(shapes.encode(digits), index)
    assert digits.min() == 0 and np.array_equal(digits.max(axis=0) + 1, shapes.RADIX)
    assert len(np.unique(digits, axis=0)) == shapes.COUNT == 46656 and shapes.CAPTIONS == 5184


def naive(shape, colour, size, cell, background, jitter):
    """The specification, one sub-sample at a time."""
    r = (4, 6, 8)[size] * 8
    cy = (72, 124, 176)[cell // 3] + 8 * (jitter // 3 - 1)
    cx = (72, 124, 176)[cell % 3] + 8 * (jitter % 3 - 1)
    bg, fg = shapes.BACKGROUND_RGB[background].tolist(), shapes.COLOUR_RGB[colour].tolist()
    out = np.empty((32, 32, 3), np.uint8)
    for i in range(32):
        for j in range(32):
            k = 0
            for dy in (-3, -1, 1, 3):
                for dx in (-3, -1, 1, 3):
                    y, x = 8 * i + dy - cy, 8 * j + dx - cx
                    a, b = abs(x), abs(y)
                    k += (x * x + y * y <= r * r, 8 * a <= 7 * r and 8 * b <= 7 * r,
                          y <= 7 * r // 8 and 2 * a <= y + r, a + b <= r,
                          a <= r and 3 * b <= r or b <= r and 3 * a <= r,
                          r * r <= 4 * (x * x + y * y) and x * x + y * y <= r * r)[shape]
            out[i, j] = [(g * (16 - k) + f * k + 8) // 16 for g, f in zip(bg, fg)]
    return out


def test_renderer_follows_the_specification():
    picks = np.array([0, 46655, *RNG.choice(shapes.COUNT, 16, replace=False)])
    drawn = shapes.render(picks)
    for index, image in zip(picks, drawn):
        assert np.array_equal(image, naive(*shapes.decode(index).tolist())), shapes.decode(index)


def test_templates_differ_and_stay_inside():
    t = shapes.templates()
    assert t.shape == (1458, 32, 32) and t.max() == 16 and len(np.unique(t.reshape(1458, -1), axis=0)) == 1458
    assert all(np.bincount(template.ravel(), minlength=17)[16] > 4 for template in t)


def test_load_and_its_three_disjoint_parts():
    parts = {s: data.load("shapes", s, jitter=False) for s in shapes.PARTS}
    whole = data.load("shapes", jitter=False)
    assert whole.images.shape == (5184, 32, 32, 3) and len(set(whole.captions)) == 5184
    sets = [set(p.captions) for p in parts.values()]
    assert sum(map(len, sets)) == 5184 == len(set.union(*sets))
    assert 0.08 < len(parts["test"]) / (len(parts["train"]) + len(parts["test"])) < 0.12
    combos = {s: {tuple(row) for row in np.stack([p.attributes[k] for k in ("shape", "colour", "size")], 1)}
              for s, p in parts.items()}
    assert not combos["compositional"] & (combos["train"] | combos["test"])
    assert all((3 * a + 5 * b + 7 * c) % 10 == 0 for a, b, c in combos["compositional"])
    assert whole.label_names == list(shapes.SHAPES)
    assert np.array_equal(whole.labels, whole.attributes["shape"])
    colours = data.load("shapes", jitter=False, label="colour")
    assert colours.classes == 8 and np.array_equal(colours.labels, whole.attributes["colour"])


def test_a_caption_keeps_its_nine_images_together():
    test = data.load("shapes", "test")
    assert test.images.shape[1:] == (32, 32, 3)
    names, counts = np.unique(test.captions, return_counts=True)
    assert set(counts.tolist()) == {9}
    assert set(names) == set(data.load("shapes", "test", jitter=False).captions)


def test_every_caption_parses_back():
    for row in shapes.decode(np.arange(0, shapes.COUNT, 9))[:, :5].tolist():
        assert shapes.parse_caption(shapes.caption(tuple(row))) == tuple(row)
    said = "a medium pink ring at the middle right on a brown background"
    assert shapes.caption(Scene(5, 7, 1, 5, 3)) == said


def test_paraphrases_say_it_all_but_do_not_parse():
    scene = Scene(2, 1, 0, 6, 2)
    said = shapes.paraphrases(scene)
    assert len(set(said)) == 5
    for text in said:
        assert all(w in text for w in ("triangle", "green", "small", "bottom", "left", "white"))
        with pytest.raises(ConfigError):
            shapes.parse_caption(text)


@pytest.mark.parametrize("text, why", [
    ("a small rad circle at the top left on a black background",
     " ('rad' is not a word of it; did you mean 'red')"),
    ("A small red circle at the top left on a black background", " ('A' is not a word of it)"),
    ("a small red circle at the top left on a black background ", ""),
    ("a small red circle at the top on a black background", ""),
    ("a red small circle at the top left on a black background", ""),
    ("", ""),
])
def test_other_captions_are_refused(text, why):
    with pytest.raises(ConfigError) as caught:
        shapes.parse_caption(text)
    assert str(caught.value) == (
        f"{text!r} is not a caption of shapes{why}; write 'a {{size}} {{colour}} {{shape}} at the {{row}} "
        "{column} on a {background} background', for instance 'a small red circle at the top left on a "
        "black background'")


def test_parser_is_exact_on_clean_images():
    parsed = shapes_parser.parse_images(shapes.render(SAMPLE))
    assert np.array_equal(parsed.index, SAMPLE)
    assert parsed.rmse.max() <= 0.11 and parsed.strict.all()
    assert parsed.captions[3] == shapes.caption(tuple(shapes.decode(SAMPLE[3])[:5]))


@pytest.mark.slow
def test_parser_is_exact_on_all_clean_images():
    for start in range(0, shapes.COUNT, 4096):
        index = np.arange(start, min(start + 4096, shapes.COUNT))
        parsed = shapes_parser.parse_images(shapes.render(index))
        assert np.array_equal(parsed.index, index) and parsed.rmse.max() <= 0.11


@pytest.mark.parametrize("sigma, least", [(20, 1.0), (40, 0.99), (90, 0.93)])
def test_parser_withstands_noise(sigma, least):
    index = SAMPLE[::2]
    noisy = shapes.render(index) + np.random.default_rng(sigma).normal(0, sigma, (len(index), 32, 32, 3))
    parsed = shapes_parser.parse_images(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    right = (parsed.scenes == shapes.decode(index)[:, :5]).all(axis=1)
    assert right.mean() >= least


def test_validity_tells_noise_and_blends_from_pictures():
    rng = np.random.default_rng(1)
    noise = shapes_parser.parse_images(rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    assert noise.rmse.min() > 60 and not noise.lenient.any()
    a, b = shapes.render(rng.permutation(SAMPLE)[:200]), shapes.render(rng.permutation(SAMPLE)[:200])
    blends = shapes_parser.parse_images(((a.astype(int) + b) // 2).astype(np.uint8))
    assert blends.strict.mean() < 0.05


def test_floats_parse_as_bytes_do():
    images = shapes.render(SAMPLE[:50])
    parsed = shapes_parser.parse_images(data.to_float(images))
    assert np.array_equal(parsed.index, SAMPLE[:50]) and parsed.rmse.max() <= 0.11


def test_score_reports_each_attribute_and_all():
    index = SAMPLE[:100]
    images = shapes.render(index)
    captions = [shapes.caption(tuple(row[:5])) for row in shapes.decode(index)]
    assert set(shapes_parser.score(images, captions).values()) == {1.0}
    other = {True: "pink", False: "red"}
    recoloured = [c.replace(c.split()[2], other[c.split()[2] == "red"], 1) for c in captions]
    wrong = shapes_parser.score(images, recoloured)
    assert wrong["colour"] == wrong["joint"] == wrong["joint_strict"] == 0
    assert wrong["shape"] == wrong["size"] == wrong["cell"] == wrong["background"] == wrong["strict"] == 1


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match=r"parser of shapes takes N, 32, 32, 3; \(2, 16, 16, 3\) arrived"):
        shapes_parser.parse_images(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ShapeError, match="takes one caption for each picture, at least one; 2 pictures"):
        shapes_parser.score(np.zeros((2, 32, 32, 3), np.uint8), ["a"])
    with pytest.raises(ShapeError, match=r"render takes indices as \(N,\); \(1, 1\) arrived"):
        shapes.render(np.zeros((1, 1), int))
