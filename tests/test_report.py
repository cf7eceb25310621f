"""The report: one file with everything in it, whatever of the run there is."""

import json
import re
import sys

import numpy as np
import pytest
import tiny_model

import tinygen as tg
from tinygen import report, run
from tinygen.evaluate import evaluate
from tinygen.report import Axes
from tinygen.run import Run
from tinygen.train import train

DIGITS = tg.data.load("digits", "train")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygen.models.tiny", tiny_model)
    monkeypatch.setitem(tg.models.MODELS, "tiny", "for tests")


@pytest.fixture
def folder(tmp_path):
    s = run.settings_for("tiny", overrides={"width": 4, "mirror": True, "depths": (3,)}, images=DIGITS, steps=6,
                         log_every=1, sample_every=2)  # fmt: skip
    train(run.make_model(s), DIGITS, s, tmp_path / "run", quiet=True)
    return Run(tmp_path / "run")


def test_a_whole_report(folder):
    model, settings, _ = folder.model()
    assert report.figures(folder, model, settings.seed) == ["one_sample"]
    result = evaluate(folder, n=40)
    report.write(folder)
    page = folder.report.read_text()
    assert page.count("data:image/png;base64,") == 1 + 1 + 3  # the last grid, the figure, the grids over time
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "<script" not in page and "http" not in page
    for words in (
        "tiny on digits",
        "6 of 6 steps",
        "id=log",
        "Figures",
        "one sample",
        "width",
        "numba",
        *result["lines"],
    ):
        assert words.replace("'", "&#x27;") in page, words
    assert "Fréchet distance between the features of samples and of held-out images" in page
    assert f"tinygen train tiny --data digits --preset small --seed 0 --steps 6 --out {folder} --classes 10 " \
           "--width 4 --depths 3 --mirror" in page  # fmt: skip
    from PIL import Image

    with Image.open(folder.path / "loss.png") as picture:
        assert picture.size == (report.WIDTH, report.HEIGHT)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10  # something is drawn


def test_a_report_of_a_run_that_has_just_begun(folder):
    for path in (folder.log, folder.checkpoint.with_suffix(".json")):
        path.unlink()
    for path in folder.samples.iterdir():
        path.unlink()
    folder.scores.write_text("{")
    report.write(folder)
    page = folder.report.read_text()
    assert "0 of 6 steps" in page and "scores.json is damaged; run `tinygen evaluate` again." in page
    assert not (folder.path / "loss.png").exists()


def test_a_log_with_lines_that_are_not_whole(folder):
    folder.log.write_text('{"step": 1, "loss": 2.0, "seconds": 1}\n{"step": 2, "loss": NaN}\n[]\n{"step": 3, "lo')
    assert report.read_log(folder) == {"loss": [(1.0, 2.0)]}
    report.write(folder)
    assert "<circle" in folder.report.read_text()


def test_names_are_escaped(folder):
    folder.log.write_text(json.dumps({"step": 1, "loss<script>": 2.0}) + "\n")
    report.write(folder)
    assert "<script>" not in folder.report.read_text()


def test_long_curves_are_averaged_down(folder):
    folder.log.write_text("".join(json.dumps({"step": i, "loss": i % 2}) + "\n" for i in range(3000)))
    points = report.read_log(folder)["loss"]
    assert len(points) == 600 and points[-1] == (2999.0, pytest.approx(0.4, abs=0.21))


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.013, 0.0171), (-3e5, 2e6), (5.0, 5.0), (1e-9, 3e-9)])
def test_ticks_are_round_and_inside(low, high):
    ticks = Axes({"a": [(0.0, low), (10.0, high)]}, False).y_ticks()
    assert 1 <= len(ticks) <= 11
    span = max(high - low, abs(low), 1e-12)
    assert all(low - 0.11 * span - 1e-9 <= t <= high + 0.11 * span + 1e-9 for t in ticks)
    assert all(len(f"{t:.4g}") <= 10 for t in ticks)


def test_a_logarithmic_axis_has_ticks():
    for values in ((1e-4, 10.0), (0.5, 0.6), (1.0, 300.0)):
        ticks = Axes({"a": [(0.0, values[0]), (1.0, values[1])]}, True).y_ticks()
        assert len(ticks) >= 2 and all(t > 0 for t in ticks)
