"""What a module holds, saves, loads and says of itself."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, ops

F32 = np.float32


def message(call, error=tg.TinygenError):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


class Net(nn.Module):
    saved = ("epoch",)

    def __init__(self, rng=None):
        self.stem = nn.Linear(2, 3, rng=rng)
        self.blocks = [nn.Linear(3, 3, rng=rng), nn.Sequential(nn.BatchNorm(3), nn.Dropout(0.1))]
        self.heads = {"a": nn.Linear(3, 1, rng=rng), "b": (nn.Linear(3, 1, bias=False, rng=rng),)}
        self.shared = self.stem
        self.scale = tg.Tensor(np.ones(1, F32), requires_grad=True)
        self.table = tg.Tensor(np.arange(3))
        self.epoch = 4
        self._hidden = nn.Linear(9, 9)

    def forward(self, a):
        return self.heads["a"](self.blocks[1](self.blocks[0](self.stem(a)))) * self.scale


def test_what_a_module_holds():
    net = Net()
    assert list(net.parameters()) == [
        "scale", "stem.w", "stem.b", "blocks.0.w", "blocks.0.b", "blocks.1.0.w", "blocks.1.0.b", "heads.a.w",
        "heads.a.b", "heads.b.0.w"]
    assert list(net.buffers()) == ["table", "blocks.1.0.mean", "blocks.1.0.var"]
    assert net.count() == 1 + 9 + 12 + 6 + 4 + 3
    assert list(net.children()) == ["stem", "blocks.0", "blocks.1", "heads.a", "heads.b.0", "shared"]
    assert len([m for _, m in net.modules()]) == 8  # the shared one counts once, the hidden one not at all
    assert set(net.state()) == {*net.parameters(), *net.buffers(), "epoch"}
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].w = tied[0].w
    assert list(tied.parameters()) == ["0.w", "0.b", "1.b"] and tied.count() == 15


def test_names_are_those_of_the_whole_even_after_looking_at_a_part():
    net = Net()
    params = net.parameters()
    assert [t.name for t in params.values()] == list(params)
    repr(net)
    net.stem.count()
    nn.summary(net, (2, 2))
    assert [t.name for t in params.values()] == list(params)
    text = message(lambda: tg.grad(ops.sum(net.eval()(tg.Tensor(np.ones((1, 2), F32)))), params))
    assert "'heads.b.0.w'" in text


def test_modes_reach_everything_below():
    net = Net()
    assert all(m.training for _, m in net.modules())
    assert net.eval() is net and not any(m.training for _, m in net.modules())
    assert net.train() is net and all(m.training for _, m in net.modules())


def test_lists_of_modules():
    items = nn.ModuleList([nn.Linear(1, 2)])
    items.append(nn.Linear(2, 3))
    assert len(items) == 2 and items[1] is list(items)[1] and list(items.parameters()) == ["0.w", "0.b", "1.w", "1.b"]

    class Named(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 2), ops.relu, nn.Linear(2, 1))
            self.gain = tg.Tensor(np.ones(1, F32), requires_grad=True)
            self.other = nn.Linear(1, 1)

        def forward(self, a):
            return self.other(super().forward(a)) * self.gain

    named = Named()
    assert list(named.parameters()) == ["gain", "0.w", "0.b", "2.w", "2.b", "other.w", "other.b"]
    assert named(tg.Tensor(np.ones((3, 2), F32))).shape == (3, 1)
    assert message(nn.Module(), NotImplementedError) == "Module defines no forward()."


def test_state_and_load():
    a, b = Net(tg.Rng(0)), Net(tg.Rng(1))
    a.epoch = 9
    a.blocks[1][0].mean.assign(np.full(3, 0.5, F32))
    b.load({k: np.array(v) for k, v in a.state().items()})
    assert all((a.state()[k] == b.state()[k]).all() for k in a.state()) and b.epoch == 9 and type(b.epoch) is int
    assert not np.shares_memory(a.stem.w.data, b.stem.w.data)
    loss = ops.sum(b.stem(tg.Tensor(np.ones((1, 2), F32))))
    b.load(a.state())
    with pytest.raises(tg.StaleGraphError):  # what was computed before belongs to other weights
        tg.grad(ops.square(loss), b.stem.w)


def test_a_state_that_does_not_fit_changes_nothing():
    class Trained(nn.Module):
        def __init__(self):
            self.net = nn.Linear(2, 2, rng=tg.Rng(0))
            self.opt = tg.optim.Adam(self.net.parameters())
            self.steps = tg.optim.SGD(self.net.parameters(), momentum=0.9)

    net = Trained()
    good = {k: np.array(v) for k, v in net.state().items()}

    def refuse(change, *errors):
        bad = {k: np.array(v) + 1 for k, v in good.items()}
        change(bad)
        text = message(lambda: net.load(bad), tg.CheckpointError)
        assert all((net.state()[k] == good[k]).all() for k in good), "changed"
        return text

    assert refuse(lambda s: (s.pop("net.w"), s.update(extra=np.zeros(1)))) == (
        "the state does not fit Trained: missing net.w; unknown extra.")
    assert refuse(lambda s: s.update({f"extra{i}": np.zeros(1) for i in range(5)})) == (
        "the state does not fit Trained: unknown extra0, extra1, extra2 and 2 more.")
    assert refuse(lambda s: s.update({"net.w": np.zeros((3, 2))})) == (
        "the state holds net.w of shape (3, 2); this model needs (2, 2).")
    assert refuse(lambda s: s.pop("opt.m.w")) == "the optimiser's state does not fit: ['m.w']."
    assert refuse(lambda s: s.update({"steps.velocity.b": np.zeros(3)})) == (
        "the optimiser's velocity.b has shape (3,), not (2,).")
    assert refuse(lambda s: [s.pop(k) for k in list(s) if k.startswith("opt.")]).startswith(
        "the optimiser's state does not fit:")


def test_types_and_devices():
    net = Net()
    names = list(net.parameters())
    assert net.astype(np.float64) is net
    assert {p.dtype for p in net.parameters().values()} == {np.dtype(np.float64)} and net.table.dtype == np.int64
    assert [p.name for p in net.parameters().values()] == names
    y = net.eval()(tg.Tensor(np.ones((2, 2))))
    assert y.dtype == np.float64
    assert net.to("cpu") is net


@pytest.mark.skipif(len(tg.devices()) > 1, reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so():
    text = message(lambda: Net().to("cuda:0"), tg.DeviceError)
    assert text.startswith("device 'cuda:0'") and "use --device cpu" in text and "\n" not in text
    assert message(lambda: Net().to("tpu"), tg.DeviceError) == (
        "unknown device 'tpu'; devices are 'cpu' and 'cuda:0', 'cuda:1', ….")


def test_constructors_that_refuse():
    assert message(lambda: nn.GroupNorm(4, 6), ValueError) == "GroupNorm: 6 channels do not split into 4 groups."
    assert message(lambda: nn.MultiHeadAttention(6, 4), tg.ShapeError) == (
        "MultiHeadAttention: 6 features do not split into 4 heads.")


# ---- how it looks


def test_repr_shows_the_tree_with_shapes_and_counts():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Sequential(nn.GroupNorm(2, 8, silu=True)), nn.Linear(8, 10))
    rows = [line.rsplit(None, 1) for line in repr(net).splitlines()]
    assert [(a.rstrip(), b) for a, b in rows] == [
        ("Sequential", "330"), ("├─ 0: Conv2d(3 → 8, 3×3, stride 2)  w (3, 3, 3, 8) b (8,)", "224"),
        ("├─ 1: Sequential", "16"), ("│  └─ 0: GroupNorm(8 in 2 + SiLU)  w (8,) b (8,)", "16"),
        ("└─ 2: Linear(8 → 10)  w (8, 10) b (10,)", "90")]
    assert len({len(line) for line in repr(net).splitlines()}) == 1  # the counts stand in a column


def test_every_layer_has_a_repr():
    layers = [nn.Conv1d(4, 2, 3, groups=2), nn.ConvTranspose2d(2, 3), nn.Embedding(5, 2), nn.Upsample(2),
              nn.Downsample(2), nn.BatchNorm(3), nn.LayerNorm(3), nn.InstanceNorm(3),
              nn.SpectralNorm(nn.Linear(2, 2)), nn.LSTM(2, 3),
              nn.MultiHeadAttention(4, 2), nn.FourierFeatures(4), nn.SinusoidalEmbedding(4), nn.Dropout(0.1),
              nn.LeakyReLU(), nn.Reshape(2, 2), nn.Lambda(ops.exp, "exp"), nn.WeightNorm(nn.Linear(2, 2))]
    heads = [repr(layer).splitlines()[0].split("  ")[0] for layer in layers]
    assert heads == [
        "Conv1d(4 → 2, 3)", "ConvTranspose2d(2 → 3, 4×4, stride 2)", "Embedding(5 × 2)", "Upsample(×2 nearest)",
        "Downsample(÷2)", "BatchNorm(3)", "LayerNorm(3)", "InstanceNorm(3)", "SpectralNorm", "LSTM",
        "MultiHeadAttention(2 heads)", "FourierFeatures(4)", "SinusoidalEmbedding(4)", "Dropout(0.1)", "LeakyReLU(0.2)",
        "Reshape(2×2)", "Lambda(exp)", "WeightNorm"]


def test_summary_of_a_known_network():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10))
    net[1].training = False
    rows = [line.split("  ") for line in nn.summary(net, (2, 8, 8, 3)).splitlines()]
    cells = [[c.strip() for c in row if c.strip()] for row in rows]
    conv = 2 * 8 * 8 * 8 * (2 * 3 * 3 * 3 + 1)  # outputs × (products and sums, and the bias)
    linear = 2 * 10 * (2 * 512) + 2 * 10
    assert cells[0] == ["layer", "output", "parameters", "FLOPs"]
    assert cells[3] == ["0", "Conv2d(3 → 8, 3×3)", "(2, 8, 8, 8)", "224", f"{conv:,}"]
    assert cells[4][:2] == ["1", "ReLU"] and cells[5][-1] == "0"
    assert cells[6] == ["3", "Linear(512 → 10)", "(2, 10)", "5,130", f"{linear:,}"]
    total = conv + linear + int(cells[4][-1].replace(",", ""))
    assert cells[2] == ["Sequential", "Sequential", "(2, 10)", "5,354", f"{total:,}"]
    assert cells[-1] == ["5,354 parameters, 0 in buffers"]
    assert net.training and not net[1].training  # modes are as they were


def test_summary_takes_several_inputs_and_survives_errors():
    attention = nn.MultiHeadAttention(4, 2, 6)
    text = nn.summary(attention, (1, 3, 4), np.zeros((1, 5, 6), F32))
    assert "(1, 3, 4)" in text and "(1, 5, 4)" in text
    with pytest.raises(tg.ShapeError):
        nn.summary(attention, (1, 3, 5))
    assert attention.training and nn.module.watcher is None
    assert "(1, 3, 2)" in nn.summary(nn.LSTM(2, 2), (1, 3, 2))
