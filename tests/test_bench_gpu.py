"""The suite "gpu" without a GPU: both sides know its work and do the same, ours on the emulated device and PyTorch's on
its CPU; and it goes through, from the cases to the verdicts."""

import inspect
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_device import device  # noqa: F401  (a fixture)

import tinygen as tg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is not installed with the package

from bench import __main__ as command  # noqa: E402
from bench import cases, device_trace, events, gpu, in_tinygen, suites, worker  # noqa: E402
from bench.cases import Case  # noqa: E402

CONV = dict(n=1, side=4, cin=4, cout=2, k=3)
TINY = {
    "conv_forward": CONV, "conv_input_grad": CONV, "conv_weight_grad": CONV, "matmul": dict(m=4, n=3, k=5),
    "group_norm_silu": dict(n=1, side=4, c=4, groups=2), "attention": dict(n=1, heads=2, T=4, d=4, causal=False),
    "softmax": dict(rows=4, columns=4), "layer_norm": dict(rows=4, columns=4), "batch_norm": dict(n=2, side=4, c=4),
    "resize": dict(n=1, side=4, c=4), "embedding": dict(rows=8, columns=4, ids=6),
}  # fmt: skip
UNET = {"widths": (8, 8), "groups": 2}
MODELS = {"ddpm": UNET, "dcgan": {"width": 8}, "gan": {"g_widths": (8,), "d_widths": (8,)},
          "conv_vae": {"widths": (8, 8), "hidden": (8,)}}  # fmt: skip


def step_of(model):
    return cases.settings(model, "small", batch_size=2, **MODELS[model])


@pytest.fixture
def ours(device, monkeypatch):  # noqa: F811
    """bench/gpu_tinygen.py on the device."""
    from bench import gpu_tinygen

    monkeypatch.setattr(in_tinygen, "DEVICE", "cpu")
    monkeypatch.setattr(in_tinygen, "CAPTURED", True)
    monkeypatch.setattr(gpu_tinygen, "VARIANTS", {})
    with warnings.catch_warnings(), tg.precision("float32"):
        gpu_tinygen.use(device)
        yield gpu_tinygen


@pytest.fixture
def theirs(monkeypatch):
    """bench/gpu_torch.py, on the CPU."""
    torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
    from bench import gpu_torch, in_torch

    for name in ("DEVICE", "DTYPE", "AUTOCAST"):
        monkeypatch.setattr(in_torch, name, getattr(in_torch, name))
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    yield gpu_torch
    torch.set_num_threads(before[0])
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[1:]


def sizes(found):
    found = found if isinstance(found, list | tuple) else [found]
    return sorted(int(np.prod(tuple(a.shape))) for a in found)


# the cases


def test_both_sides_take_the_arguments_of_every_case(theirs):
    from bench import gpu_tinygen

    for case in cases.gpu():
        args = {k: v for k, v in case.args.items() if k != "precision"}
        assert case.args.get("precision", "float32") in cases.PRECISIONS
        for side in (gpu_tinygen, theirs):
            assert case.kind in side.KINDS
        for makers in (in_tinygen.KINDS, theirs.in_torch.KINDS):
            inspect.signature(makers[case.kind]).bind("", **args)


def test_the_table_is_the_one_that_was_asked_for():
    asked = {"ddpm paper, batch 128, float32": 0.9, "ddpm paper, batch 128, tf32": 0.6,
             "ddpm paper, batch 128, bf16": 0.5,
             "ddpm small": 2.0, "dcgan small": 2.0, "conv_vae small": 2.0, "gan small": 2.0,
             "DDIM ddpm paper, 64 images, 50 steps, float32": 0.8, "group norm + SiLU 128 @ 32²": 1.2,
             "attention (64, 4, 256, 64), bf16": 0.5, "Adam + EMA, 35.7 M": 1.2}  # fmt: skip
    for what in ("forward", "input grad", "weight grad"):
        asked |= {f"conv {what} 3×3 {size}², tf32": 0.6 for size in ("128 @ 32", "256 @ 16")}
    rows = {c.name: c for c in cases.gpu()}
    for name, least in asked.items():
        assert cases.GPU_TARGETS[rows[name].group].mean == least, name
    conv, (flops, _) = rows["conv forward 3×3 128 @ 32², tf32"], cases.conv_work(128, 32, 128, 128, 3, padding=1)
    assert conv.flops == flops / 3


# the work


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_kernels_of_both_sides_do_the_same_work(ours, theirs, precision):
    assert {c.kind for c in cases.gpu()} <= set(TINY) | {"adam", "ddim"} | {f"{m}_step" for m in MODELS}
    products = ("conv_forward", "conv_input_grad", "conv_weight_grad", "matmul", "attention")
    for kind, args in TINY.items():
        if precision == "float32" or kind in products:
            mine = ours.KINDS[kind]("", precision=precision, **args)
            assert isinstance(mine, tg.cudagraph.Capture) and mine.graph is not None, kind
            for variant in theirs.VARIANTS.get(kind, ("",)):
                found = theirs.KINDS[kind](variant, precision=precision, **args)()
                assert sizes(found) == sizes(mine()), kind
                assert all(f.dtype == theirs.in_torch.DTYPE for f in (found if type(found) is tuple else [found]))


@pytest.mark.parametrize("model", sorted(MODELS))
def test_steps_of_both_sides_report_the_same(ours, theirs, model):
    mine = ours.KINDS[f"{model}_step"]("", **step_of(model))()
    assert all(np.isfinite(float(v)) for v in mine.values())
    for variant in theirs.VARIANTS[f"{model}_step"]:
        for precision in ("float32", "bf16") if model == "ddpm" else ("float32",):
            found = theirs.KINDS[f"{model}_step"](variant, precision=precision, **step_of(model))()
            assert set(found) == set(mine) and all(np.isfinite(float(v)) for v in found.values())


def test_updates_of_both_sides(ours, theirs):
    run = ours.KINDS["adam"]("", widths=[32] * 4)
    net = run.model.net
    assert run.graph is not None and next(iter(net.parameters().values())).device == "cuda:0"
    before = net.conv_in.w.numpy()
    run()
    assert run.replays == 1 and not np.array_equal(net.conv_in.w.numpy(), before)
    theirs.KINDS["adam"]("fused", widths=[32] * 4)()


def test_sampling(ours, theirs):
    args = dict(images=2, count=2, **step_of("ddpm"))
    mine = ours.KINDS["ddim"]("", **args)()
    assert mine.device == "cuda:0"
    for precision in ("float32", "bf16"):
        assert sizes(theirs.KINDS["ddim"]("channels_last", precision=precision, **args)()) == sizes(mine)


def test_operation_by_operation(ours):
    ours.use("cuda:0", "tinygen.plain")
    run = ours.KINDS["softmax"]("", **TINY["softmax"])
    assert not isinstance(run, tg.cudagraph.Capture) and run()[0].device == "cuda:0"
    assert ours.VARIANTS["ddim"] == ()  # that is never anything else


def test_a_step_that_does_not_become_a_graph_is_an_error(ours, monkeypatch):
    def read():
        return float(x.data.sum())

    x = in_tinygen._tensor(4)
    monkeypatch.setitem(in_tinygen.KINDS, "softmax", lambda variant: in_tinygen._ready(read, in_tinygen.Held(x=x)))
    with pytest.raises(tg.cudagraph.CaptureWarning, match="not run as one CUDA graph"):
        ours.KINDS["softmax"]("")


@pytest.mark.gpu
def test_what_is_measured_once(monkeypatch):
    """The GPU's name and the ceilings, on a GPU."""
    if gpu.missing():
        pytest.skip(gpu.missing())
    from bench import gpu_tinygen

    monkeypatch.setattr(in_tinygen, "DEVICE", "cpu")
    with warnings.catch_warnings():
        gpu_tinygen.use("cuda:0")
        assert gpu_tinygen.about()["gpu"] and gpu_tinygen.ceilings()["gbytes"] > 0
        gpu_tinygen.wait()
        gpu_tinygen.give_back()


# the clock


def test_a_sample_lasts_long_enough_and_no_run_is_waited_for():
    now, waited, runs = 0.0, 0, 0

    def run():
        nonlocal now, runs
        now, runs = now + 0.5, runs + 1

    def between(a, b):
        nonlocal waited
        waited += 1
        return b - a

    found = events.timed(run, 0, 130, lambda: now, between)
    assert found["ms"] == found["best"] == 0.5 and found["runs"] == 3 * 48  # 1.2 × 20 ms
    assert waited == 3 + 3 and runs == 1 + 10 + 48 + found["runs"]


# the whole


class Here:
    """A side in this process."""

    def __init__(self, *what):
        self.family, self.device, self.worker = what[0], what[2], worker.Worker(*what)

    def ask(self, do, **more):
        self.worker.module.use(self.device, self.family)  # which the others share
        return self.worker.answer({"do": do, **more})

    def close(self):
        pass


def test_it_goes_through(ours, theirs, device, monkeypatch):  # noqa: F811
    table = [Case("small", "gan_step", step_of("gan"), "small training steps", 1e6),
             Case("sampling", "ddim", dict(images=1, count=1, **step_of("ddpm")), "DDIM"),
             Case("norm", "group_norm_silu", TINY["group_norm_silu"], "group norm + SiLU", 0, 1e3),
             Case("conv", "conv_forward", {**CONV, "precision": "tf32"}, "conv 3×3, tf32", 1e3, 1e3)]  # fmt: skip
    clock = {"mark": time.perf_counter, "between": lambda a, b: 1e3 * (b - a)}
    for module, changes in ((ours, {}), (theirs, {**clock, "SQUARE": 16})):
        changes |= {"COPIED": 1024, "about": lambda m=module: {m.__name__: "here"}, "give_back": lambda: None,
                    "wait": lambda: None}
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(theirs, "use", lambda device, family: None)
    monkeypatch.setattr(events, "SHORTEST", 0.01)
    monkeypatch.setattr(events, "SAMPLES", 1)
    monkeypatch.setattr("bench.sides.Side", Here)
    monkeypatch.setattr("bench.sides.PAUSE", 0.0)
    monkeypatch.setattr(worker, "gc", SimpleNamespace(collect=lambda: 0))  # half a second each, in a large process
    monkeypatch.setattr(cases, "gpu", lambda: table)
    result = suites.on_gpu(suites.Options(["tinygen", "torch"], rounds=1, seconds=0.001))
    assert result["device"] == {"bench.gpu_tinygen": "here", "bench.gpu_torch": "here"} and not result["problems"]
    rows = {r["name"]: r for r in result["rows"]}
    labels = {"tinygen", "tinygen.plain", "torch: channels_last", "torch: N,C,H,W"}
    graphs = {"torch.graph: channels_last", "torch.graph: N,C,H,W"}
    assert set(rows["norm"]["sides"]) == set(rows["conv"]["sides"]) == labels | graphs
    assert set(rows["small"]["sides"]) >= {"tinygen", "tinygen.plain", "torch: fused Adam", "torch: foreach Adam"}
    assert rows["conv"]["precision"] == "tf32" and "tinygen.plain" not in rows["sampling"]["sides"]
    assert {s["group"] for s in result["summary"]} == {c.group for c in table}
    (share,) = result["copy"]
    assert share["group"] == "group norm + SiLU" and share["asked"] == 0.7
    said = "\n".join(suites.report({"suite": "gpu", **result}))
    assert "ceilings" in said and "of the copy bandwidth" in said and "conv 3×3, tf32: " in said and "small " in said


def test_without_pytorch_there_is_our_column(ours, monkeypatch):
    monkeypatch.setattr(ours, "about", lambda: {"gpu": "here"})
    monkeypatch.setattr(ours, "give_back", lambda: None)
    monkeypatch.setattr(ours, "wait", lambda: None)
    monkeypatch.setattr(ours, "COPIED", 1024)
    monkeypatch.setattr(events, "SHORTEST", 0.01)
    monkeypatch.setattr(events, "SAMPLES", 1)
    monkeypatch.setattr("bench.sides.Side", Here)
    monkeypatch.setattr(cases, "gpu", lambda: [Case("soft", "softmax", TINY["softmax"], "", 0, 1e3)])
    result = suites.on_gpu(suites.Options(["tinygen"], rounds=1, seconds=0.001))
    assert list(result["rows"][0]["sides"]) == ["tinygen.plain", "tinygen"] and result["summary"] == []
    assert any(line.startswith("ceilings") for line in suites.report({"suite": "gpu", **result}))


def test_without_a_gpu_each_says_so_in_a_sentence(capsys, monkeypatch):
    monkeypatch.setenv("TINYGEN_CUDA", "emulated")
    for call in (lambda: command.main(["--only", "gpu"]), gpu.main, lambda: device_trace.main([])):
        assert call() == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1 and said.err.startswith("There is no GPU")


# the CPU against the GPU


def test_the_losses_of_both_devices(device):  # noqa: F811
    found = device_trace.compare("ddpm", device, 4, normals=1001, widths=(8,), groups=2, batch_size=2, attention=(0,))
    assert found["met"] and 0 <= found["difference"] <= 1e-4 and found["graph launches"] == 2
    assert len(found["cpu"]["loss"]) == len(found[device]["loss"]) == 4
    assert found["same bits"] == {"float32": True, "float64": True}
