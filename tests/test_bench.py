"""The benchmarks: what they conclude from numbers, that a side can be asked, and that PyTorch's networks are ours."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is not installed with the package

from bench import __main__ as command  # noqa: E402
from bench import cases, compare, roofline, suites, table, worker  # noqa: E402
from bench.cases import Case, Target  # noqa: E402


def row(name, ours, theirs=None, group="g", **more):
    sides = {"tinygen": {"rounds": ours, "cpu": ours}}
    for k, v in (theirs or {}).items():
        sides[f"torch: {k}"] = {"rounds": v, "cpu": v}
    return {"name": name, "group": group, "unit": "ms", "flops": 0, "bytes": 0, "sides": sides, **more}


def result(*rows, torch="2.0"):
    return {"rows": list(rows), "machine": {"torch": torch, "cpu": "one", "threads": 2}}


# tables


def test_ratios_are_taken_round_by_round_and_of_the_faster_variant():
    r = row("x", [1.0, 2.0, 4.0], {"a": [9.0, 9.0, 9.0], "b": [2.0, 3.0, 8.0]})
    assert table.side_of(r, "torch") == "torch: b" and table.side_of(r, "jax") is None
    assert table.ratio(r) == (2.0, 1.5, 2.0)
    assert table.ratio(row("x", [1.0])) is None


def test_torch_is_not_taken_for_torch_compile():
    r = row("x", [1.0])
    r["sides"]["torch.compile: a"] = {"rounds": [0.5]}
    assert table.side_of(r, "torch") is None and table.side_of(r, "torch.compile") == "torch.compile: a"


def test_table_shows_rates_against_the_ceilings():
    one = row("conv", [2.0], {"channels_last": [3.0]}, flops=1e8, bytes=1e6)
    head, _, line = table.table([one], {"gflops": 100, "gbytes": 10}).split("\n")
    columns = "work tinygen ms PyTorch ms ratio range CPU time PyTorch's form GFLOP/s of sgemm GB/s of copy"
    assert head.split() == columns.split()
    assert line.split() == ["conv", "2", "3", "1.50", "1.50–1.50", "1.50", "channels_last", "50", "50%", "0.5", "5%"]


def test_table_without_pytorch_has_our_column_alone():
    assert "PyTorch" not in table.table([row("conv", [2.0])]) and "ratio" not in table.table([row("conv", [2.0])])


def test_summary_is_the_geometric_mean_and_the_least():
    rows = [row("a", [1.0], {"": [4.0]}), row("b", [1.0], {"": [1.0]}), row("c", [1.0], {"": [9.0]}, group="other")]
    (found,) = table.summary(rows, {"g": Target(2.0, 0.9), "absent": Target(1)})
    assert found["mean"] == 2.0 and found["least"] == 1.0 and found["met"]
    assert not table.summary(rows, {"g": Target(1.0, 1.1)})[0]["met"]
    assert table.summary_lines([found]) == ["g: 2.00 (least 1.00 of 2); asked 2, none below 0.9: met"]
    assert "no verdict" in table.summary_lines([found], verdict=False)[0]


def test_growth_is_fitted():
    found = suites.fit([(n, 3.0 + 0.5 * n) for n in (1, 2, 4)])
    assert (found["constant"], found["each"]) == (3.0, 0.5)
    assert suites.fit([(n, 0.1 * n**2) for n in (8, 16, 32)])["exponent"] == 2.0


# compare


def test_compare_says_what_is_slower_beyond_noise():
    old = result(row("a", [1.0, 1.1, 1.05]), row("b", [1.0, 1.1, 1.05]), row("c", [1.0, 1.0, 1.0]), row("gone", [1.0]))
    new = result(row("a", [1.3, 1.2, 1.25]), row("b", [1.08, 1.2, 1.2]), row("c", [0.8, 0.8, 0.8]), row("new", [1.0]))
    assert {f["name"]: f["verdict"] for f in compare.compare(old, new)} == {"a": "slower", "b": "same", "c": "faster"}
    text, slower = compare.report(old, new)
    assert slower and "3 compared: 1 slower, 1 faster, 1 the same within noise." in text


def test_compare_by_the_ratio_forgives_a_slow_machine():
    old = result(row("a", [1.0, 1.0, 1.0], {"x": [2.0, 2.0, 2.0]}))
    new = result(row("a", [1.5, 1.6, 1.5], {"x": [3.0, 3.2, 3.0]}))
    assert compare.compare(old, new)[0]["verdict"] == "same"
    new = {**new, "machine": {**new["machine"], "torch": "3.0"}}  # another PyTorch is no measure
    assert compare.compare(old, new)[0]["verdict"] == "slower"


def test_one_odd_round_of_five_convicts_nobody():
    old, new = result(row("a", [1.0, 1.0, 1.0, 1.0, 9.0])), result(row("a", [1.2, 1.2, 1.2, 1.2, 0.9]))
    assert compare.compare(old, new)[0]["verdict"] == "slower"


def test_compare_from_files(tmp_path, capsys):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(result(row("x", [1.0, 1.0]))))
    b.write_text(json.dumps(result(row("x", [2.0, 2.0]))))
    assert command.main(["compare", str(a), str(b)]) == 1 and command.main(["compare", str(a), str(a)]) == 0
    b.write_text("{}")
    assert command.main(["compare", str(a), str(b)]) == 2
    assert command.main(["compare", str(a), str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr().err
    assert "it has no rows" in said and "cannot be read" in said


# the command


def test_only_takes_suites_and_words():
    assert command.chosen("") == {suite: [] for suite in suites.SUITES if suite != "gpu"}
    assert command.chosen("gpu") == command.chosen("gpu:conv,gpu") == {"gpu": []}
    assert command.chosen("gpu:conv,gpu:adam") == {"gpu": ["conv", "adam"]}
    assert command.chosen("conv2d") == {"kernels": ["conv2d"]}
    assert command.chosen("startup,gan,dcgan") == {"startup": [], "steps": ["gan", "dcgan"]}
    assert command.chosen("steps,gan") == {"steps": []}
    with pytest.raises(ValueError, match="nothing called 'flux'"):
        command.chosen("flux")


def test_names_are_unique():
    growth = [c for _, points in cases.growth().values() for _, c in points]
    for some in (cases.kernels(), cases.steps(), cases.memory(), cases.gpu(), growth):
        names = [c.name for c in some]
        assert len(set(names)) == len(names)


def test_the_targets_are_of_groups_that_exist():
    assert set(cases.KERNEL_TARGETS) == {c.group for c in cases.kernels()}
    assert set(cases.STEP_TARGETS) == {c.group for c in cases.steps()}
    assert set(cases.GPU_TARGETS) | {""} == {c.group for c in cases.gpu()}
    assert set(cases.COPY_SHARES) <= {c.group for c in cases.gpu() if c.bytes}


# measuring


@pytest.fixture(scope="module")
def torch_side():
    """bench/in_torch.py, on one thread: waiting for others costs more than these sizes."""
    torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
    from bench import in_torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield in_torch
    torch.set_num_threads(before)


@pytest.fixture
def twins(torch_side):
    return torch_side.twins


TINY = {
    "conv2d": dict(n=1, side=4, cin=4, cout=4, k=3, padding=1), "softmax": dict(rows=4, columns=4),
    "conv_transpose2d": dict(n=1, side=4, cin=4, cout=2, k=4, stride=2, padding=1),
    "group_norm_silu": dict(n=1, side=4, c=4, groups=2), "attention": dict(n=1, heads=2, T=4, d=4, causal=True),
    "layer_norm": dict(rows=4, columns=4), "batch_norm": dict(n=2, side=4, c=4), "bias_gelu": dict(rows=4, columns=4),
    "resize": dict(n=1, side=4, c=4), "concat": dict(n=1, side=4, c=4), "embedding": dict(rows=4, columns=4, ids=6),
}  # fmt: skip


def test_a_worker_measures_in_this_process():
    side = worker.Worker("tinygen", tg.get_threads())
    assert side.answer({"do": "variants", "kind": "conv2d"}) == {"variants": ("",)}
    side.answer({"do": "prepare", "kind": "conv2d", "args": TINY["conv2d"]})
    once = side.answer({"do": "time", "seconds": 0.001})
    assert once["runs"] >= 3 and 0 < once["best"] <= once["ms"]
    assert side.answer({"do": "count"})["flops"] == 3 * 2 * 16 * 9 * 4 * 4  # forward and both gradients
    assert cases.conv_work(1, 4, 4, 4, 3, padding=1)[0] == 3 * 2 * 16 * 9 * 4 * 4
    assert 0 < side.answer({"do": "memory"})["now"] <= side.answer({"do": "memory"})["peak"]
    assert side.answer({"do": "prepare", "kind": "unheard of", "args": {}}) == {"skip": True}


def test_a_transposed_convolution_is_counted_as_its_adjoint():
    assert cases.conv_work(2, 8, 3, 5, 4, stride=2, padding=1)[0] == cases.conv_work(
        2, 4, 5, 3, 4, stride=2, padding=1, transposed=True)[0]


def test_both_sides_know_every_kind(torch_side):
    from bench import in_tinygen

    kinds = {c.kind for c in (*cases.kernels(), *cases.steps(), *cases.memory())}
    assert kinds <= set(in_tinygen.KINDS) and set(in_tinygen.KINDS) == set(torch_side.KINDS)
    for kind, args in TINY.items():
        ours = in_tinygen.KINDS[kind]("", **args)()
        for variant in torch_side.VARIANTS.get(kind, ("",)):
            theirs = torch_side.KINDS[kind](variant, **args)()
            assert sorted(g.size for g in ours) == sorted(g.numel() for g in theirs), kind


def test_the_roofline_of_a_run():
    from bench import in_tinygen

    settings = cases.settings("ddpm", "small", widths=(8, 8), groups=2, batch_size=2)
    step = in_tinygen.KINDS["ddpm_step"]("", **settings)
    step()  # what is compiled first would drown the rest
    groups = roofline.watch(step, 2)
    named = {g["op"] for g in groups}
    assert {"conv2d", "conv2d_weight_grad", "group_norm_grad", "optimiser", "random numbers", "rest"} <= named
    assert all(g["ms"] >= 0 and g["calls"] >= 1 for g in groups)
    ceilings = {"gflops": 100.0, "gbytes": 10.0}
    assert roofline.limit({"flops": 1e9, "bytes": 1e9}, ceilings) == pytest.approx(100.0)
    assert "\nall " in roofline.lines(groups, ceilings) and "\noptimiser " in roofline.lines(groups, ceilings)
    assert sum(g["ms"] for g in roofline.by_operation(groups, ceilings)) == pytest.approx(sum(g["ms"] for g in groups))
    from xml.etree import ElementTree

    picture = ElementTree.fromstring(roofline.svg(groups, ceilings, "a < b"))
    assert len(picture.findall("{http://www.w3.org/2000/svg}circle")) > 3


# PyTorch's networks


def carry_over(ours, theirs, flat=None):
    """Our weights into PyTorch's network, in order. flat: {shape of a linear weight: (axis, (H, W, C))} for those that
    see an image laid flat, which is H,W,C with us and C,H,W there."""
    import torch

    mine, other = list(ours.values()), list(theirs.parameters())
    assert sum(p.size for p in mine) == sum(p.numel() for p in other) and len(mine) == len(other)
    for a, b in zip(mine, other):
        values = np.random.default_rng(a.size).standard_normal(a.shape).astype(np.float32) * 0.3
        a.data[...] = values
        for axis, image in (flat or {}).get(a.shape, ()):
            split = (*a.shape[:axis], *image, *a.shape[axis + 1 :])
            order = [*range(axis), axis + 2, axis, axis + 1, *range(axis + 3, len(split))]
            values = values.reshape(split).transpose(order).reshape(a.shape)
        values = values.transpose(3, 2, 0, 1) if a.ndim == 4 else values.T
        if a.ndim == 4 and b.shape != values.shape:
            values = values.swapaxes(0, 1)  # transposed: C, F, kh, kw
        assert b.shape == values.shape
        b.data = torch.tensor(np.ascontiguousarray(values))


def chw(x):
    import torch

    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def same(ours, theirs):
    theirs = theirs.detach().numpy()
    theirs = np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 else theirs
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4 * max(np.abs(theirs).max(), 1)


def built(name, **changes):
    from bench.in_tinygen import model_of

    settings = cases.settings(name, "small", **changes)
    return model_of(name, settings), settings


def images(n=2, side=8, c=1):
    return np.random.default_rng(0).uniform(-1, 1, (n, side, side, c)).astype(np.float32)


def test_the_papers_unet_has_as_many_parameters(twins):
    import torch

    with torch.device("meta"):
        net = twins.UNet(cases.settings("ddpm", "paper"))
    assert sum(p.numel() for p in net.parameters()) == 35_746_307


def test_unet(twins):
    import torch

    model, s = built("ddpm", widths=(16, 32, 32), layers=2, groups=4, attention=(0, 1, 0), channels=3)
    net = twins.UNet(s).eval()
    carry_over(model.net.parameters(), net)
    x, t = images(c=3), np.array([3, 977])
    with tg.no_grad():
        same(model.net.eval()(tg.Tensor(x), t).numpy(), net(chw(x), torch.tensor(t)))
    for schedule in ("linear", "cosine"):
        model, s = built("ddpm", schedule=schedule)
        assert np.allclose(model._diffusion.abar, twins.abar(s).numpy(), rtol=1e-6)


def test_gan(twins):
    import torch

    model, s = built("gan")
    G, D = twins.gan_nets(s)
    carry_over(model.generator.parameters(), G)
    carry_over(model.discriminator.parameters(), D)
    z, x = np.random.default_rng(0).standard_normal((2, s["latent"])).astype(np.float32), images()
    same(model.generator(tg.Tensor(z)).numpy(), G(torch.tensor(z)))
    same(model.discriminator(tg.Tensor(x)).numpy(), D(chw(x)))


def test_dcgan(twins):
    import torch

    model, s = built("dcgan")
    G, D = twins.DCGANGenerator(s), twins.DCGANDiscriminator(s)
    carry_over(model.generator.parameters(), G, {(32, 512): [(1, (2, 2, 128))]})
    carry_over(model.discriminator.parameters(), D, {(512, 1): [(0, (2, 2, 128))]})
    z, x = np.random.default_rng(0).standard_normal((4, s["latent"])).astype(np.float32), images(4)
    same(model.train().generator(tg.Tensor(z)).numpy(), G(torch.tensor(z)))
    same(model.discriminator(tg.Tensor(x)).numpy(), D(chw(x)))


@pytest.mark.parametrize("decoder", ["gaussian", "bernoulli"])
def test_conv_vae(twins, decoder):
    import torch

    model, s = built("conv_vae", hidden=(250,), decoder=decoder)
    net = twins.ConvVAE(s)
    carry_over(model.parameters(), net, {(256, 250): [(0, (2, 2, 64))], (250, 256): [(1, (2, 2, 64))],
                                         (256,): [(0, (2, 2, 64))]})
    z, x = np.random.default_rng(0).standard_normal((2, s["latent"])).astype(np.float32), images()
    for a, b in zip(model.encoder(tg.Tensor(x)), net.encode(chw(x))):
        same(a.numpy(), b)
    out, seen = model.decoder(tg.Tensor(z)), net.decode(torch.tensor(z))
    same(out.numpy(), seen)
    assert model.pixels.nll(out, tg.Tensor(x)).mean().item() == pytest.approx(net.nll(seen, chw(x)).item(), rel=1e-4)


def test_steps_of_both_sides_run(torch_side):
    from bench import in_tinygen

    tiny = {"ddpm": {"widths": (8, 8), "groups": 2}, "dcgan": {"width": 8}, "gan": {"g_widths": (8,), "d_widths": (8,)},
            "conv_vae": {"widths": (8, 8), "hidden": (8,)}}  # fmt: skip
    for name, changes in tiny.items():
        settings = cases.settings(name, "small", batch_size=2, **changes)
        ours = in_tinygen.KINDS[f"{name}_step"]("", **settings)()
        for variant in torch_side.VARIANTS[f"{name}_step"]:
            theirs = torch_side.KINDS[f"{name}_step"](variant, **settings)()
            assert set(ours) == set(theirs) and all(np.isfinite(v) for v in theirs.values())
    settings = cases.settings("ddpm", "small", **tiny["ddpm"])
    ours = in_tinygen.KINDS["ddim"]("", images=2, count=3, **settings)()
    assert ours.size == torch_side.KINDS["ddim"]("", images=2, count=3, **settings)().numel()
    for recompute in ("none", "each block", "√depth runs"):
        args = dict(n=1, side=4, c=8, depth=3, recompute=recompute)
        ours, theirs = (kinds["blocks"]("", **args)() for kinds in (in_tinygen.KINDS, torch_side.KINDS))
        assert sum(g.size for g in ours) == sum(g.numel() for g in theirs)


def test_a_case_that_one_side_cannot_do_is_left_out_and_named():
    from bench.sides import Race, SideError

    race = Race(["jax"])
    for name in ("x", "y", "z"):
        race._fail(Case(name, "conv2d"), "jax", SideError("jax: no"))
    assert suites.problems(race.problems) == ["jax: no (x, y, z)"]
    assert race.families == []  # three times in a row: not asked again


def test_a_side_that_fails_in_its_turn_ends_nothing(monkeypatch):
    from bench import sides

    class Frail:
        def __init__(self, family, threads, device):
            self.family, self.turns = family, 0

        def ask(self, do, **more):
            self.turns += do == "time"
            if self.family == "torch" and self.turns == 3:
                raise sides.SideError("torch: out of breath")
            once = {"ms": 1.0, "best": 1.0, "cpu_ms": 1.0, "runs": 1}
            return {"variants": {"variants": ("a",)}, "prepare": {"first": 0.1}, "time": once}.get(do, {})

        def close(self):
            pass

    monkeypatch.setattr(sides, "Side", Frail)
    with sides.Race(["tinygen", "torch"], rounds=4) as race:
        found = race.run(Case("x", "conv2d", flops=1))["sides"]
        assert [len(found[k]["rounds"]) for k in ("tinygen: a", "torch: a")] == [4, 1]
        assert race.problems == [("x", "torch: out of breath")] and list(race.sides) == ["tinygen"]
