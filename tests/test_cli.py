# ruff: noqa: E501  (sentences stand whole, so that they can be searched for)
"""The command line: what it prints, what it leaves, and how it answers what it cannot do."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_model

import tinygen as tg
from tinygen import checkpoint, cli

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tinygen.models.tiny", tiny_model)
    monkeypatch.setitem(tg.models.MODELS, "tiny", "an autoencoder for tests")
    monkeypatch.chdir(tmp_path)


def call(capsys, *argv):
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def trained(capsys):
    assert call(capsys, "train", "tiny", "--out", "run", "--steps", 4, "--quiet")[0] == 0
    return Path("run")


# ---- train


def test_train_leaves_a_run_and_says_where_to_look(capsys):
    code, out, err = call(capsys, "train", "tiny", "--steps", 4, "--log-every", 2, "--width", 4)
    assert code == 0
    assert re.match(
        r"tiny \(\d+ parameters\) on Dataset\(digits: 899 images 8×8×1, 10 classes\): 4 steps in runs/tiny-digits\n",
        out,
    )
    tail = out.split("done, 4 steps. Look at\n")[1]
    assert [line.split()[0].removeprefix("runs/tiny-digits/") for line in tail.splitlines()] == [
        "samples/000004.png", "figures/one_sample.png", "loss.png", "report.html"]  # fmt: skip
    assert re.search(r"step 4/4  loss \d.*  lr 0.01  \d+ images/s  00:00 left", err)
    assert call(capsys, "train", "tiny", "--steps", 1, "--quiet")[0] == 0
    assert Path("runs/tiny-digits-2/report.html").exists()


def test_resume_takes_the_settings_of_the_run(capsys):
    for out, *parts in (("whole", 6), ("parts", 3, 6)):
        for i, steps in enumerate(parts):
            more = ["--resume"] if i else ["--width", "4", "--seed", "7"]
            assert call(capsys, "train", "tiny", "--out", out, "--steps", steps, "--quiet", *more)[0] == 0
    a, b = (checkpoint.load(f"{out}/checkpoint.safetensors")[0] for out in ("whole", "parts"))
    assert a["enter.w"].shape == (64, 4) and all(a[k].tobytes() == b[k].tobytes() for k in a)
    assert (
        call(capsys, "train", "tiny", "--out", "parts", "--resume", "--width", "4", "--quiet")[0] == 0
    )  # no contradiction
    code, out, err = call(
        capsys, "train", "tiny", "--out", "parts", "--resume", "--width", "5", "--seed", "1", "--data", "emoji"
    )
    assert code == 2 and err == (
        "tinygen: parts goes on as it began, and there width is 4, not 5; data is digits, not emoji; seed is 7, not 1. Leave "
        "the flag out, or start a new run.\n"
    )
    assert call(capsys, "train", "tiny", "--resume")[2] == (
        "tinygen: --resume needs to know which run: name its folder with --out.\n")  # fmt: skip
    assert "nowhere is not a run folder" in call(capsys, "train", "tiny", "--resume", "--out", "nowhere")[2]


def test_help_lists_the_flags_of_the_model(capsys):
    code, out, _ = call(capsys, "train", "tiny", "--help")
    assert code == 0
    text = " ".join(out.split())
    assert "--width N hidden units (default 8; paper: 16)" in text and "steps in all (default 12)" in text
    assert "--image-size" not in text  # it follows from the data
    assert "lists the model's own flags too" in " ".join(call(capsys, "train", "--help")[1].split())


def refuses(capsys, text, *argv):
    before = sorted(Path().rglob("*"))
    code, out, err = call(capsys, *argv)
    assert (code, err) == (2, f"tinygen: {text}\n") and "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


REFUSALS = [
    (["trian"], "there is no command 'trian'; did you mean 'train'? There are: list, train, sample, evaluate, judge, check."),
    (["train"], "the following arguments are required: MODEL. `tinygen train --help` lists the flags."),
    (["train", "dppm"], "there is no model 'dppm'; there are gan, dcgan, vae, conv_vae, ddpm, tiny. Did you mean 'ddpm'?"),
    (["train", "tiny", "--widht", "3"], "tinygen train has no flag --widht; did you mean '--width'? `tinygen train --help` lists the flags."),
    (["train", "tiny", "--widht=3"], "tinygen train has no flag --widht; did you mean '--width'? `tinygen train --help` lists the flags."),
    (["train", "tiny", "--zzzz"], "tinygen train has no flag --zzzz. `tinygen train --help` lists the flags."),
    (["train", "tiny", "digits"], "tinygen train does not know what to do with 'digits'. `tinygen train --help` says what."),
    (["train", "tiny", "--width", "wide"], "--width must be a whole number, not 'wide'. `tinygen train --help` lists the flags."),
    (["train", "tiny", "--width"], "--width needs a value after it. `tinygen train --help` lists the flags."),
    (["train", "tiny", "--act", "tahn"], "--act must be one of tanh, relu, not 'tahn'; did you mean 'tanh'? `tinygen train --help` lists the flags."),
    (["train", "tiny", "--steps", "0"], "--steps must be a whole number of at least 1, not '0'. `tinygen train --help` lists the flags."),
    (["train", "tiny", "--seed", "-1"], "--seed must be a whole number of at least 0, not '-1'. `tinygen train --help` lists the flags."),
    (["train", "tiny", "--preset", "papre"], "there is no preset 'papre'; did you mean 'paper'? There are: small, paper."),
    (["train", "tiny", "--data", "digit"], "there is no data set 'digit'; did you mean 'digits'? The embedded sets are digits, emoji, shapes; "
     "anything else is taken for the path of a file or folder, and none of that name exists"),
    (["train", "tiny", "--data", "./none"], "./none: no such file or folder; give the path of a folder of images, IDX or CIFAR files, an "
     ".npz or a zip of images"),
    (["train", "tiny", "--data-option", "size"], "--data-option needs KEY=VALUE, such as size=32, not 'size'."),
    (["train", "tiny", "--precision", "half"], "precision is one of float32, tf32, bf16, not 'half'."),
    (["train", "tiny", "--device", "gpu"], "unknown device 'gpu'; devices are 'cpu' and 'cuda:0', 'cuda:1', …."),
    (["sample"], "the following arguments are required: RUN. `tinygen sample --help` lists the flags."),
    (["sample", "none"], "none is not a run folder; `tinygen train` makes one, and prints its name."),
    (["evaluate", "none"], "none: nothing of that name exists; a run folder, a folder of pictures, an .npz or one of the data sets "
     "digits, emoji, shapes is needed."),
    (["evaluate", "none", "--metric", "frechte"], "there is no metric 'frechte'; did you mean 'frechet'? There are: frechet, fid, "
     "kid, cmmd, precision_recall, density_coverage, inception, vendi, memorisation, authpct, labels, attributes, psnr, ssim, lpips, "
     "model, all."),
]  # fmt: skip


@pytest.mark.parametrize("argv, text", REFUSALS, ids=[" ".join(argv) for argv, _ in REFUSALS])
def test_what_cannot_be_done_gets_one_sentence_and_leaves_nothing(capsys, argv, text):
    refuses(capsys, text, *argv)


def test_a_new_run_does_not_touch_an_old_one(capsys, trained):
    refuses(
        capsys,
        "run already holds a run; continue it with --resume, or choose another --out.",
        "train",
        "tiny",
        "--out",
        "run",
    )


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("TINYGEN_DEBUG", "1")
    with pytest.raises(tg.ConfigError):
        cli.main(["train", "nothing"])


def test_nan_is_exit_code_1(capsys):
    code, _, err = call(capsys, "train", "tiny", "--out", "run", "--break-at", 2, "--steps", 4)
    assert code == 1
    assert "step 3: loss is nan.\ntaking steps 1 to 3 again to find where\n" in err.replace(
        "the gradient of enter.w is not finite (6 of 6 parameters); nothing was updated.", "loss is nan.")  # fmt: skip
    assert "First to blame is log at " in err and "Traceback" not in err


def test_pictures_in_a_folder_that_are_not_square(capsys, tmp_path):
    np.savez("wide.npz", images=np.zeros((4, 8, 9, 1), np.uint8))
    refuses(capsys, "the images are 8×9; tiny draws square ones. For a folder of pictures, --data-option size=32 crops and "
            "resizes them.", "train", "tiny", "--data", "wide.npz")  # fmt: skip


# ---- sample


def test_sample(capsys, trained):
    code, out, _ = call(
        capsys, "sample", "run", "-n", 6, "--temperature", "0.5", "-o", "g.png", "-o", "a.npz", "--columns", 3
    )
    assert (code, out) == (0, "6 samples of tiny, step 4, seed 0: g.png, a.npz\n")
    images = np.load("a.npz")["images"]
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8
    from PIL import Image

    with Image.open("g.png") as sheet:
        assert sheet.size == (3 * 41 + 1, 2 * 41 + 1)
    call(capsys, "sample", "--seed", 1, "-n", 6, "run", "-o", "b.npz")
    call(capsys, "sample", "run", "-n", 6, "--temperature", "0.5", "-o", "c.npz")
    assert not np.array_equal(images, np.load("b.npz")["images"]) and np.array_equal(images, np.load("c.npz")["images"])
    assert call(capsys, "sample", "run")[0] == 0 and (trained / "grid.png").exists()
    assert "--temperature X of the noise (default 1.0)" in " ".join(call(capsys, "sample", "run", "--help")[1].split())
    refuses(capsys, "tinygen sample has no flag --temprature; did you mean '--temperature'? `tinygen sample --help` lists the "
            "flags.", "sample", "run", "--temprature", "1")  # fmt: skip
    refuses(capsys, "g.jpg: a grid is written as .png, images as .npz; give the file one of these endings.",
            "sample", "run", "-o", "g.jpg")  # fmt: skip
    refuses(capsys, "no/g.png: there is no folder no; make it first.", "sample", "run", "-o", "no/g.png")


def test_a_truncated_checkpoint(capsys, trained):
    path = trained / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    code, _, err = call(capsys, "sample", "run")
    assert code == 2 and re.match(r"tinygen: run/checkpoint.safetensors is truncated.*\n$", err)


# ---- evaluate


def test_evaluate(capsys, trained):
    code, out, _ = call(capsys, "evaluate", "run", "-n", 40)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "run: tiny on digits, step 4, 40 samples, seed 0"
    assert (
        lines[1].startswith("FD[randconv-v1/32 | native 8x8 | N=40/40 | ddof1")
        and "times the floor of real against real" in lines[1]
    )
    assert (
        lines[3].startswith("digits 0-9: ")
        and lines[4].startswith("nearest training digit: ")
        and lines[5] == "images = 898"
    )
    code, out, _ = call(capsys, "evaluate", "run", "-n", 40, "--metric", "memorisation", "--json")
    result = json.loads(out)
    assert code == 0 and set(result["scores"]) == {"memorisation"} and len(result["lines"]) == 1
    assert json.loads((trained / "scores.json").read_text()) == result
    assert result["lines"][0] in (trained / "report.html").read_text()


def test_evaluate_on_other_images(capsys, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)
    np.savez("noise.npz", images=images)
    assert call(capsys, "train", "tiny", "--data", "noise.npz", "--out", "run", "--steps", 2, "--quiet")[0] == 0
    code, out, _ = call(capsys, "evaluate", "run", "-n", 20, "--metric", "frechet", "--metric", "memorisation")
    assert code == 0 and out.count("times the floor of real against real") == 2 and "nearest training image: " in out
    code, _, err = call(capsys, "evaluate", "run", "--metric", "labels")
    assert (code, err) == (
        2,
        "tinygen: the metric 'labels' does not apply to run: it is for digits, and this is noise.npz.\n",
    )


# ---- the rest


def test_check(capsys, monkeypatch):
    code, out, _ = call(capsys, "check", "tanh", "mul")
    assert code == 0
    assert re.search(r"^ok    tanh +\d+ checks, orders 1 to \d$", out, re.M)
    assert re.search(r"^\d+ checks of 2 operations: all right\.$", out, re.M)
    code, _, err = call(capsys, "check", "tahn")
    assert code == 2 and err.startswith("tinygen: there is no operation 'tahn'; did you mean 'tanh'? There are: ")
    from tinygen.audit import check

    wrong = check.Result("tanh", "case 0", 1, False, "the gradient is 0.1 % off")
    monkeypatch.setattr(check, "check_ops", lambda names, order=None: [wrong])
    code, out, _ = call(capsys, "check", "tanh")
    assert code == 1 and "FAIL  tanh" in out and "0.1 % off" in out and "1 failed." in out


def test_version_and_usage(capsys):
    assert call(capsys, "--version") == (0, f"tinygen {tg.__version__}\n", "")
    assert call(capsys)[0] == 2 and "tinygen COMMAND" in call(capsys, "--help")[1]


def run_script(*argv, **options):
    return subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, env=ENVIRONMENT, **options)


def test_start_up_is_light():
    code = ("import sys; from tinygen.cli import main; a = main(['list']); b = main(['train', '--help']); "
            "heavy = {'numba', 'scipy', 'PIL', 'tqdm', 'safetensors'} & set(sys.modules); print(a, b, sorted(heavy))")  # fmt: skip
    done = run_script("-c", code)
    assert done.stdout.endswith("0 0 []\n"), done.stdout + done.stderr
    for words in ("ddpm", "presets small, paper", "digits", "CC BY 4.0", "cpu"):
        assert words in done.stdout
    assert run_script("-m", "tinygen", "--version").stdout == f"tinygen {tg.__version__}\n"


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(f"{sys.executable} -m tinygen train --help | true; exit ${{PIPESTATUS[0]}}", shell=True,
                          executable="/bin/bash", capture_output=True, text=True, env=ENVIRONMENT)  # fmt: skip
    assert done.stderr == "" and done.returncode in (0, 141)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(number, code, capsys):
    process = start("--steps", 400)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "finishing this step and saving; once more to stop at once" in err
    step = int(
        re.search(r"tinygen: stopped and saved at step (\d+)\. To go on: tinygen train tiny --out run --resume\n", err)[
            1
        ]
    )
    assert 0 < step < 400
    assert json.loads(Path("run/checkpoint.json").read_text())["step"] == step
    go = re.search("To go on: tinygen (.*)", err)[1].split()
    assert call(capsys, *go, "--steps", step + 2, "--quiet")[0] == 0
    assert json.loads(Path("run/checkpoint.json").read_text())["step"] == step + 2


def test_a_second_signal_stops_at_once(capsys):
    process = start("--steps", 400, "--wait", 30)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped at once; the last checkpoint stands. To go on from it: tinygen train tiny --out run --resume" in err
    assert checkpoint.load("run/checkpoint.safetensors")[1]["step"] == 0
    assert "Traceback" not in err


def start(*flags):
    """`tinygen train tiny` in another process, once it is in its loop."""
    command = [sys.executable, HERE / "tiny_model.py", "train", "tiny", "--out", "run", "--wait", "0.02", *flags]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 60
    while not Path("run/checkpoint.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(0.3)
    return process
