# ruff: noqa: E501  (sentences stand whole, so that they can be searched for)
"""The loop: resuming is exact, stopping is safe, and a number that stops being finite is traced to its operation."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_model

import tinygen as tg
from tinygen import checkpoint, run
from tinygen.errors import CheckpointError, ConfigError, DataError, NonFiniteError, UserError
from tinygen.run import Run
from tinygen.train import train

DIGITS = tg.data.load("digits", "train")
TIMES = ("images_per_second", "seconds")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygen.models.tiny", tiny_model)
    monkeypatch.setitem(tg.models.MODELS, "tiny", "for tests")


def settings(steps=12, seed=0, images=DIGITS, every=4, **overrides):
    return run.settings_for("tiny", overrides=overrides, images=images, steps=steps, seed=seed, log_every=3,
                            sample_every=every, save_every=every)  # fmt: skip


def go(out, s, images=DIGITS, **options):
    return train(run.make_model(s), images, s, out, quiet=True, **options)


def log(folder):
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in (folder / "log.jsonl").open()]


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def same(a, b):
    (x, m), (y, n) = checkpoint.load(a / "checkpoint.safetensors"), checkpoint.load(b / "checkpoint.safetensors")
    assert x.keys() == y.keys()
    assert [k for k in x if x[k].tobytes() != y[k].tobytes()] == []
    assert {k: v for k, v in m.items() if k != "seconds"} == {k: v for k, v in n.items() if k != "seconds"}


def test_a_run_leaves_what_it_should(tmp_path):
    out = tmp_path / "a" / "run"
    assert go(out, settings()) == (12, 0)
    assert files(out) == {".lock", "config.json", "checkpoint.safetensors", "checkpoint.json", "log.jsonl",
                          "samples/000004.png", "samples/000008.png", "samples/000012.png"}  # fmt: skip
    lines = [json.loads(line) for line in (out / "log.jsonl").open()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert set(lines[0]) == {"step", "loss", "lr", "images_per_second", "seconds"}
    assert lines[-1]["loss"] < lines[0]["loss"]
    meta = json.loads((out / "checkpoint.json").read_text())
    assert meta["step"] == 12 and meta["cursor"] == {"batch": 12, "epoch": 0}
    assert meta["run"]["model"] == "tiny" and meta["run"]["width"] == 8 and meta["run"]["classes"] == 10
    assert {"tinygen", "numpy", "numba", "threads"} <= meta["versions"].keys()
    assert json.loads((out / "config.json").read_text())["steps"] == 12


def test_the_mean_in_the_log_is_the_mean_of_the_steps(tmp_path):
    s = settings(steps=3)
    go(tmp_path / "run", s)
    model, rng = run.make_model(s), tg.Rng(0)
    loader = tg.data.Loader(DIGITS, 16, rng)
    losses = [model.step(loader.batch(i), rng)["loss"] for i in range(3)]
    assert log(tmp_path / "run") == [{"step": 3, "loss": sum(losses) / 3, "lr": 0.01}]


@pytest.mark.parametrize("first", [4, 7])  # where a checkpoint is due anyway, and between two lines of the log
def test_k_steps_and_k_more_are_bit_for_bit_as_many_at_once(tmp_path, first):
    go(tmp_path / "whole", settings(14, batch_size=200))  # 4 batches an epoch: the cursor passes several
    go(tmp_path / "parts", settings(first, batch_size=200))
    go(tmp_path / "parts", settings(14, batch_size=200), resume=True)
    same(tmp_path / "whole", tmp_path / "parts")
    assert log(tmp_path / "whole") == log(tmp_path / "parts")
    for name in ("000008.png", "000014.png"):
        assert (tmp_path / "whole/samples" / name).read_bytes() == (tmp_path / "parts/samples" / name).read_bytes()


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    go(tmp_path / "whole", settings(12))

    def dies(self, batch, rng, step=tiny_model.Tiny.step):
        if self.iteration == 10:
            raise RuntimeError("the power fails")
        return step(self, batch, rng)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(tiny_model.Tiny, "step", dies)
        go(tmp_path / "run", settings(12))
    with (tmp_path / "run/log.jsonl").open("a") as f:
        f.write('{"step": 10, "lo')  # and the disk was full, too
    assert log_steps(tmp_path / "run") == [3, 6, 9, None]
    go(tmp_path / "run", settings(12), resume=True)
    same(tmp_path / "whole", tmp_path / "run")
    assert log(tmp_path / "whole") == log(tmp_path / "run")


def log_steps(folder):
    def step(line):
        try:
            return json.loads(line)["step"]
        except ValueError:
            return None

    return [step(line) for line in (folder / "log.jsonl").open()]


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    go(tmp_path / "run", settings(4))
    before = (tmp_path / "run/checkpoint.safetensors").read_bytes()
    assert go(tmp_path / "run", settings(4), resume=True) == (4, 0)
    assert (tmp_path / "run/checkpoint.safetensors").read_bytes() == before


# ---- refusals


def refused(kind, text, *args, **kwargs):
    with pytest.raises(kind) as caught:
        go(*args, **kwargs)
    assert text in str(caught.value), str(caught.value)


def test_folders_that_cannot_take_a_run(tmp_path):
    go(tmp_path / "run", settings(1))
    before = files(tmp_path)
    refused(UserError, f"{tmp_path}/run already holds a run; continue it with --resume, or choose another --out.",
            tmp_path / "run", settings(1))  # fmt: skip
    refused(UserError, f"{tmp_path}/none holds no run to resume; leave --resume out to start one there.",
            tmp_path / "none", settings(1), resume=True)  # fmt: skip
    (tmp_path / "file").write_text("x")
    refused(UserError, "/file is a file, not a folder; choose another --out.", tmp_path / "file", settings(1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    refused(UserError, "/full is not empty and holds no run; choose another --out.", tmp_path / "full", settings(1))
    assert files(tmp_path) == before | {"file", "full/thesis.tex"}


def test_a_folder_in_use_is_refused_and_a_dead_lock_is_not(tmp_path):
    go(tmp_path / "run", settings(1))
    hold = f"import sys; sys.path[:0] = {sys.path!r}\nfrom tinygen.run import Run\nfrom pathlib import Path\n" \
           f"with Run({str(tmp_path / 'run')!r}).claim(True):\n print('held', flush=True); sys.stdin.read()"  # fmt: skip
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        refused(UserError, f"{tmp_path}/run is in use: process {other.pid} is training in it; wait for it, stop it (kill "
                f"-INT {other.pid} saves and ends it), or choose another --out.", tmp_path / "run", settings(2), resume=True)  # fmt: skip
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    assert (tmp_path / "run/.lock").read_text() == f"{other.pid}\n"  # of a process that is no more
    assert go(tmp_path / "run", settings(2), resume=True) == (2, 0)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    go(tmp_path / "a", settings(1))
    go(tmp_path / "b", settings(1, width=16, seed=5))
    (tmp_path / "a/checkpoint.safetensors").write_bytes((tmp_path / "b/checkpoint.safetensors").read_bytes())
    text = (
        "is of another run than config.json beside it: seed is 5, not 0; width is 16, not 8. Put the right file there"
    )
    refused(CheckpointError, text, tmp_path / "a", settings(2), resume=True)
    with pytest.raises(CheckpointError, match="is of another run"):
        Run(tmp_path / "a").model()
    checkpoint.save(tmp_path / "a/checkpoint.safetensors", {"x": np.ones(2)})
    refused(
        CheckpointError,
        "is not the checkpoint of a run; it does not say which.",
        tmp_path / "a",
        settings(2),
        resume=True,
    )
    (tmp_path / "a/checkpoint.safetensors").unlink()
    refused(CheckpointError, "has no checkpoint.safetensors yet", tmp_path / "a", settings(2), resume=True)


def test_data_that_have_changed_are_noticed(tmp_path):
    go(tmp_path / "run", settings(1))
    other = DIGITS.subset(range(500))
    refused(DataError, f"the images of digits are not those that {tmp_path}/run was trained on; restore them, or start a new run.",
            tmp_path / "run", settings(2), images=other, resume=True)  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "tiny"}', '{"model": "tiny", "config": 3}', "\x00"])
def test_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config.json is damaged \(.*; restore it, or train anew\.$"):
        Run(tmp_path).settings()


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="save_every must be a whole number of at least 1, not 0."):
        dataclasses.replace(settings(), save_every=0)
    wide = tg.data.Dataset(np.zeros((4, 8, 9, 1), np.uint8), name="wide")
    with pytest.raises(
        DataError, match="the images are 8×9; tiny draws square ones. For a folder of pictures, --data-option size=32"
    ):
        settings(images=wide)


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(tmp_path, monkeypatch):
    replace = os.replace

    def full(a, b):
        if Path(b).name == "checkpoint.safetensors" and b.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(a, b)

    monkeypatch.setattr(os, "replace", full)
    refused(CheckpointError, "checkpoint.safetensors: No space left on device; the checkpoint that was there before is "
            "untouched. Make room", tmp_path / "run", settings())  # fmt: skip
    assert checkpoint.load(tmp_path / "run/checkpoint.safetensors")[1]["step"] == 0
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".checkpoint")]


# ---- numbers that stop being finite


@pytest.mark.parametrize("broken, words", [
    ("forward", ["First to blame is log at ", "tiny_model.py:", "gave nan at [0, 0] of (16, 64) float32 (1024 in all)"]),
    ("backward", ["First to blame is ", ", in the rule of sqrt at ", "tiny_model.py:", "ops.sqrt(0.0 * y)"]),
    ("inf", ["First to blame is exp at ", "gave inf at [0, 0]", "ops.exp(y + 1000.0)"]),
    ("update", ["enter.w (64, 8) is no longer finite.", "First to blame is no operation: the numbers broke in the update"]),
])  # fmt: skip
def test_nan_stops_the_run_and_is_traced(tmp_path, broken, words):
    with pytest.raises(NonFiniteError) as caught:
        go(tmp_path / "run", settings(break_at=5, broken=broken))
    text = str(caught.value)
    assert text.startswith("step 6: ")
    assert [w for w in words if w not in text] == [], text
    assert f"Training stopped; {tmp_path}/run/checkpoint.safetensors is the last good one, of step 4." in text
    arrays, meta = checkpoint.load(tmp_path / "run/checkpoint.safetensors")
    assert meta["step"] == 4 and all(np.isfinite(a).all() for a in arrays.values())
    assert log_steps(tmp_path / "run") == ([3, 6] if broken == "update" else [3])  # its scalars were finite yet


def test_samples_that_are_not_finite_cost_a_grid_and_not_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny_model.Tiny, "sample", lambda self, n, rng: tg.Tensor(np.full((n, 8, 8, 1), np.nan, np.float32))
    )
    assert go(tmp_path / "run", settings(4)) == (4, 0)
    assert not list((tmp_path / "run/samples").iterdir())


# ---- samples


def test_samples_depend_on_the_seed_alone(tmp_path):
    go(tmp_path / "run", settings(1))
    model, _, step = Run(tmp_path / "run").model()
    a = run.draw(model, 10, 3)
    assert step == 1 and a.shape == (10, 8, 8, 1) and a.dtype == np.float32
    assert a.tobytes() == run.draw(model, 10, 3).tobytes() != run.draw(model, 10, 4).tobytes()
    parts = run.draw(model, 10, 3, at_once=4)
    assert parts.shape == a.shape and len(np.unique(parts.reshape(10, -1), axis=0)) == 10
