"""The layers: values against PyTorch's, gradients against differences, initial laws, noise and running statistics."""

import contextlib
import gc
import math
import weakref

import numpy as np
import pytest

import tinygen as tg
from tinygen import nn, ops
from tinygen.nn import init

RNG = np.random.default_rng(31)
F32 = np.float32


def x(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


def message(call, error=tg.TinygenError):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


@contextlib.contextmanager
def assigned(module: nn.Module, tensors: dict):
    """Put other tensors in the place of parameters, by path, while inside."""
    owners = [(owner, name, value) for _, owner in module.modules() for name, value in vars(owner).items()]
    params = module.parameters()
    places = {path: next((o, n) for o, n, v in owners if v is p) for path, p in params.items()}
    try:
        for path, t in tensors.items():
            setattr(*places[path], t)
        yield
    finally:
        for path, p in params.items():
            setattr(*places[path], p)


def check_module(module: nn.Module, *inputs, order: int = 2, run=None) -> None:
    """check_grads of a module's output, with respect to its inputs and all its parameters."""
    params = module.astype(np.float64).parameters()

    def fn(*tensors):
        with assigned(module, dict(zip(params, tensors[len(inputs):]))):
            return (run or module)(*tensors[: len(inputs)])

    tg.check.check_grads(fn, [*inputs, *(p.numpy() for p in params.values())], order)


def moved(module: nn.Module) -> nn.Module:
    """In float64, every parameter away from its initial value, so that gains of 1 and offsets of 0 hide nothing."""
    module.astype(np.float64)
    for p in module.parameters().values():
        p.assign(p.numpy() + 0.3 * x(*p.shape))
    return module


# ---- against PyTorch


def agree(module: nn.Module, theirs, arrays, weights: dict, run=None, run_theirs=None) -> None:
    """Values, and the gradients of inputs and parameters. weights: our path -> (their parameter's name, how their
    array becomes ours); a parameter of theirs that is left out is an error."""
    torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
    params = module.parameters()
    theirs = theirs.double()
    assert set(weights) == set(params)
    assert {name for name, _ in weights.values()} == {name for name, _ in theirs.named_parameters()}
    for path, (name, across) in weights.items():
        values = across(theirs.get_parameter(name).detach().numpy())
        params[path].assign(np.ascontiguousarray(values))
    mine = [tg.Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    other = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y, z = (run or module)(*mine), (run_theirs or theirs)(*other)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-12)
    w = RNG.standard_normal(y.shape)
    theirs.zero_grad()
    wanted = {**params, **{k: t for k, t in enumerate(mine) if t.requires_grad}}
    grads = tg.grad(ops.sum(y * tg.Tensor(w)), wanted)
    (z * torch.tensor(w)).sum().backward()
    for k, t in enumerate(other):
        if t.requires_grad:
            np.testing.assert_allclose(grads[k].numpy(), t.grad.numpy(), rtol=1e-11, atol=1e-12)
    for path, (name, across) in weights.items():
        np.testing.assert_allclose(grads[path].numpy(), across(theirs.get_parameter(name).grad.numpy()), rtol=1e-11,
                                   atol=1e-11, err_msg=path)


def torch_nn():
    torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
    torch.manual_seed(0)
    return torch.nn


def same(a):
    return a


def transposed(a):
    return a.T


def kernel(a):  # out, in, kh, kw → kh, kw, in, out
    return a.transpose(2, 3, 1, 0)


def first(f):
    """A function of images N, C, H, W as one of N, H, W, C."""
    return lambda t: f(t.movedim(-1, 1)).movedim(1, -1)


def test_linear_agrees_with_pytorch():
    t = torch_nn()
    agree(nn.Linear(5, 3).astype(np.float64), t.Linear(5, 3), [x(2, 4, 5)],
          {"w": ("weight", transposed), "b": ("bias", same)})
    agree(nn.Linear(5, 3, bias=False).astype(np.float64), t.Linear(5, 3, bias=False), [x(5)],
          {"w": ("weight", transposed)})


@pytest.mark.parametrize("how", [
    {}, {"stride": 2, "padding": 1}, {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2)}, {"groups": 2},
    {"groups": 4, "padding": 1, "bias": False},
], ids=str)
def test_conv2d_agrees_with_pytorch(how):
    t = torch_nn()
    theirs = t.Conv2d(4, 8, (3, 2), **how)
    weights = {"w": ("weight", kernel), "b": ("bias", same)}
    if how.get("bias") is False:
        weights.pop("b")
    agree(nn.Conv2d(4, 8, (3, 2), **how).astype(np.float64), theirs, [x(2, 7, 6, 4)], weights, None, first(theirs))


def test_conv2d_with_unequal_margins_agrees_with_pytorch():
    t = torch_nn()
    theirs = t.Conv2d(3, 4, 3, 2)
    padded = t.Sequential(t.ZeroPad2d((0, 1, 2, 0)), theirs)  # left, right, top, bottom
    agree(nn.Conv2d(3, 4, 3, 2, ((2, 0), (0, 1))).astype(np.float64), theirs, [x(2, 6, 5, 3)],
          {"w": ("weight", kernel), "b": ("bias", same)}, None, first(padded))
    odd = nn.Conv2d(3, 4, 3, 2, "same")(tg.Tensor(x(2, 7, 6, 3, dtype=F32)))
    assert odd.shape == (2, 4, 3, 4)


def test_conv1d_and_the_transposed_agree_with_pytorch():
    t = torch_nn()
    theirs = t.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2)
    agree(nn.Conv1d(4, 6, 3, 2, 2, 2, 2).astype(np.float64), theirs, [x(2, 9, 4)],
          {"w": ("weight", lambda a: a.transpose(2, 1, 0)), "b": ("bias", same)}, None, first(theirs))
    for how in ({}, {"size": 3, "stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}, {"bias": False}):
        how = {"size": 4, "stride": 2, "padding": 1, **how}
        theirs = t.ConvTranspose2d(3, 5, **{{"size": "kernel_size"}.get(k, k): v for k, v in how.items()})
        weights = {"w": ("weight", lambda a: a.transpose(2, 3, 0, 1)), "b": ("bias", same)}
        if how.get("bias") is False:
            weights.pop("b")
        agree(nn.ConvTranspose2d(3, 5, **how).astype(np.float64), theirs, [x(2, 4, 3, 3)], weights, None, first(theirs))


def test_norms_agree_with_pytorch():
    t = torch_nn()
    both = {"w": ("weight", same), "b": ("bias", same)}

    def theirs(made):
        for p in made.parameters():
            p.data += 0.3 * t.init.normal_(p.data.clone())
        return made

    for module, other in ((nn.LayerNorm(5, 1e-3), theirs(t.LayerNorm(5, 1e-3))),
                          (nn.LayerNorm(5, affine=False), t.LayerNorm(5, elementwise_affine=False))):
        agree(module.astype(np.float64), other, [x(2, 3, 5)], both if list(other.parameters()) else {})
    group = theirs(t.GroupNorm(3, 6, 1e-3))
    agree(nn.GroupNorm(3, 6, 1e-3).astype(np.float64), group, [x(2, 3, 4, 6)], both, None, first(group))
    agree(nn.GroupNorm(3, 6, 1e-3, silu=True).astype(np.float64), group, [x(2, 3, 4, 6)], both, None,
          first(t.Sequential(group, t.SiLU())))
    instance = theirs(t.InstanceNorm2d(4, affine=True))
    agree(nn.InstanceNorm(4, affine=True).astype(np.float64), instance, [x(2, 3, 5, 4)], both, None, first(instance))
    batch = theirs(t.BatchNorm2d(4, 1e-3, 0.2))
    agree(nn.BatchNorm(4, 1e-3, 0.2).astype(np.float64), batch, [x(3, 2, 5, 4)], both, None, first(batch))


def test_batch_norm_keeps_the_running_statistics_of_pytorch():
    torch = pytest.importorskip("torch")
    ours, theirs = nn.BatchNorm(3, momentum=0.3).astype(np.float64), torch.nn.BatchNorm2d(3, momentum=0.3).double()
    for seed in range(3):
        batch = np.random.default_rng(seed).standard_normal((2, 3, 2, 3)) * (1 + seed) + seed
        a, b = ours(tg.Tensor(batch)), first(theirs)(torch.tensor(batch))
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(ours.mean.numpy(), theirs.running_mean.numpy(), rtol=1e-13)
        np.testing.assert_allclose(ours.var.numpy(), theirs.running_var.numpy(), rtol=1e-13)
    ours.eval()
    theirs.eval()
    kept = ours.state()
    a, b = ours(tg.Tensor(batch)), first(theirs)(torch.tensor(batch))
    np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12)
    assert all((ours.state()[k] == kept[k]).all() for k in kept)  # evaluation changes nothing
    bare = nn.BatchNorm(3, affine=False).astype(np.float64)
    np.testing.assert_allclose(bare(tg.Tensor(batch)).numpy().mean((0, 1, 2)), 0, atol=1e-15)


@pytest.mark.parametrize("kind", ["self", "cross", "masked", "causal"])
def test_attention_agrees_with_pytorch(kind):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    source = 5 if kind == "cross" else 6
    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True, kdim=5 if kind == "cross" else None,
                                         vdim=5 if kind == "cross" else None)
    torch.nn.init.normal_(theirs.in_proj_bias)
    torch.nn.init.normal_(theirs.out_proj.bias)
    ours = nn.MultiHeadAttention(6, 3, 5 if kind == "cross" else None, causal=kind == "causal").astype(np.float64)
    mask = None
    if kind in ("masked", "causal"):
        mask = np.tril(np.ones((4, 4), bool)) if kind == "causal" else RNG.random((4, 4)) < 0.6
        mask[:, 0] = True
    weights = {f"{name}.b": ("in_proj_bias", lambda a, k=k: a[6 * k: 6 * k + 6]) for k, name in enumerate("qkv")}
    if kind == "cross":
        weights |= {f"{name}.w": (f"{name}_proj_weight", transposed) for name in "qkv"}
    else:
        weights |= {f"{n}.w": ("in_proj_weight", lambda a, k=k: a[6 * k: 6 * k + 6].T) for k, n in enumerate("qkv")}
    weights |= {"out.w": ("out_proj.weight", transposed), "out.b": ("out_proj.bias", same)}

    def run(a, b=None):
        return ours(a, b, mask=None if kind != "masked" else mask)

    def run_theirs(a, b=None):
        b = a if b is None else b
        return theirs(a, b, b, attn_mask=None if mask is None else torch.tensor(~mask), need_weights=False)[0]

    arrays = [x(2, 4, 6)] + ([x(2, 7, source)] if kind == "cross" else [])
    agree(ours, theirs, arrays, weights, run, run_theirs)


def test_embedding_agrees_with_pytorch():
    t = torch_nn()
    agree(nn.Embedding(7, 3).astype(np.float64), t.Embedding(7, 3), [np.array([[0, 6, 6], [2, 0, 0]])],
          {"w": ("weight", same)})


def test_lstm_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True).double()
    ours = nn.LSTM(3, 4, 2).astype(np.float64)
    for k, cell in enumerate(ours.cells):
        ih, hh, b1, b2 = (getattr(theirs, f"{name}_l{k}").detach().numpy()
                          for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        cell.w.assign(np.concatenate([ih, hh], axis=1).T.copy())
        cell.b.assign(b1 + b2)
    a = x(2, 5, 3)
    y, states = ours(tg.Tensor(a))
    z, (h, c) = theirs(torch.tensor(a))
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-14)
    for k, (ours_h, ours_c) in enumerate(states):
        np.testing.assert_allclose(ours_h.numpy(), h[k].detach().numpy(), atol=1e-14)
        np.testing.assert_allclose(ours_c.numpy(), c[k].detach().numpy(), atol=1e-14)
    g = tg.grad(ops.sum(ops.square(y)), ours.parameters())
    (z**2).sum().backward()
    for k in range(2):
        w = np.concatenate([getattr(theirs, f"weight_{n}_l{k}").grad.numpy() for n in ("ih", "hh")], axis=1).T
        np.testing.assert_allclose(g[f"cells.{k}.w"].numpy(), w, atol=1e-12)
        np.testing.assert_allclose(g[f"cells.{k}.b"].numpy(), getattr(theirs, f"bias_ih_l{k}").grad.numpy(), atol=1e-12)
    half, middle = ours(tg.Tensor(a[:, :2]))
    rest, _ = ours(tg.Tensor(a[:, 2:]), middle)  # a sequence may be run in two pieces
    np.testing.assert_allclose(np.concatenate([half.numpy(), rest.numpy()], axis=1), y.numpy(), atol=1e-15)


# ---- against differences, and against formulas

LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), x(2, 3)),
    "conv2d": (lambda: nn.Conv2d(2, 2, (2, 3), (1, 2), ((1, 0), (0, 2))), x(1, 3, 3, 2)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=(2, 0), dilation=1, groups=2), x(2, 4, 2)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), x(1, 2, 3, 2)),
    "upsample": (lambda: nn.Upsample(2, channels_out=1), x(1, 2, 2, 2)),
    "upsample, bilinear": (lambda: nn.Upsample(2, 3, conv=False, mode="bilinear"), x(1, 2, 2, 2)),
    "downsample": (lambda: nn.Downsample(2, asymmetric=True, channels_out=1), x(1, 4, 4, 2)),
    "downsample, mean": (lambda: nn.Downsample(2, conv=False), x(1, 4, 4, 2)),
    "batch norm": (lambda: nn.BatchNorm(3), x(4, 2, 3)),
    "batch norm, evaluated": (lambda: nn.BatchNorm(3).eval(), x(4, 2, 3)),
    "layer norm": (lambda: nn.LayerNorm(4), x(3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4, silu=True), x(2, 3, 4)),
    "instance norm": (lambda: nn.InstanceNorm(2, affine=True), x(2, 4, 2)),
    "attention": (lambda: nn.MultiHeadAttention(4, 2, causal=True), x(2, 3, 4)),
    "Fourier features": (lambda: nn.FourierFeatures(4, 1.0, log=True), RNG.uniform(1, 3, 3)),
    "spectral norm": (lambda: nn.SpectralNorm(nn.Conv2d(2, 3, 2)).eval(), x(1, 3, 3, 2)),
    "weight norm": (lambda: nn.WeightNorm(nn.Linear(3, 2)), x(2, 3)),
    "a stack": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.Sigmoid(),
                                      nn.Reshape(2, 2), nn.Flatten(), nn.Identity(), ops.exp), x(2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_layers(name):
    make, value = LAYERS[name]
    check_module(moved(make()), value)


def test_gradients_of_recurrent_layers():
    check_module(nn.LSTMCell(2, 3), x(2, 2), run=None)
    lstm = nn.LSTM(2, 2, 2)
    check_module(lstm, x(2, 3, 2), run=lambda a: lstm(a)[0], order=1)


def test_the_helper_sees_a_parameter_whose_gradient_is_wrong():
    class Wrong(nn.Linear):
        def forward(self, a):
            return ops.matmul(a, self.w) + self.b.detach() * 1.0 + 0.999 * (self.b - self.b.detach())

    assert "input 2" in message(lambda: check_module(Wrong(2, 2), x(1, 2)), tg.GradientError)


def test_sinusoids_are_the_formula():
    t = np.array([0, 1, 17, 999])
    for features, flip, shift in ((8, False, 1.0), (6, True, 0.0), (7, False, 1.0)):
        h = features // 2
        y = nn.sinusoidal(t, features, flip=flip, shift=shift, dtype=np.float64).numpy()
        for row, time in zip(y, t):
            for i in range(h):
                angle = time * 10000 ** (-i / (h - shift))
                sine, cosine = (h + i, i) if flip else (i, h + i)
                assert row[sine] == pytest.approx(math.sin(angle), abs=1e-12)
                assert row[cosine] == pytest.approx(math.cos(angle), abs=1e-12)
        assert y.shape == (4, features) and (features % 2 == 0 or (y[:, -1] == 0).all())
    layer = nn.SinusoidalEmbedding(6, flip=True, shift=0.0)
    assert layer(t).dtype == F32 and layer(tg.Tensor(t * 1.0)).dtype == np.float64
    assert np.array_equal(layer(t).numpy(), nn.sinusoidal(t, 6, flip=True, shift=0.0).numpy())
    assert message(lambda: nn.sinusoidal(t, 2)) == "sinusoidal with shift 1 needs at least 4 features, not 2."


def test_fourier_features_are_the_formula():
    layer = nn.FourierFeatures(6, 4.0, rng=tg.Rng(3))
    t = np.array([0.1, 2.0], F32)
    w = layer.w.numpy()
    angles = 2 * np.pi * t[:, None] * w
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    np.testing.assert_allclose(layer(t).numpy(), expected, atol=1e-4)
    layer.flip, layer.log = True, True
    angles = 2 * np.pi * np.log(t)[:, None] * w
    np.testing.assert_allclose(layer(t).numpy(), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-4)
    assert list(layer.buffers()) == ["w"] and not layer.parameters()
    assert abs(nn.FourierFeatures(20000, 4.0, rng=tg.Rng(0)).w.numpy().std() - 4) < 0.15


def test_resampling_layers():
    a = tg.Tensor(x(1, 4, 6, 2, dtype=F32))
    up = nn.Upsample(2, 3, conv=False)(a).numpy()
    assert up.shape == (1, 12, 18, 2) and np.array_equal(up[:, ::3, ::3], a.numpy())
    assert nn.Upsample(2, channels_out=5)(a).shape == (1, 8, 12, 5)
    down = nn.Downsample(2, conv=False)(a).numpy()
    np.testing.assert_allclose(down, a.numpy().reshape(1, 2, 2, 3, 2, 2).mean((2, 4)), rtol=1e-6)
    symmetric, asymmetric = nn.Downsample(2, rng=tg.Rng(0)), nn.Downsample(2, asymmetric=True, rng=tg.Rng(0))
    assert symmetric(a).shape == asymmetric(a).shape == (1, 2, 3, 2)
    padded = np.pad(a.numpy(), ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = ops.conv2d(tg.Tensor(padded), asymmetric.conv.w, asymmetric.conv.b, stride=2)
    np.testing.assert_allclose(asymmetric(a).numpy(), expected.numpy(), rtol=1e-5)
    assert message(lambda: nn.Upsample(2, mode="cubic"), ValueError) == (
        "Upsample: mode is 'nearest' or 'bilinear', not 'cubic'.")


def test_simple_layers_are_their_operations():
    a = tg.Tensor(x(2, 3, 4, dtype=F32))
    for layer, expected in ((nn.ReLU(), ops.relu(a)), (nn.LeakyReLU(0.1), ops.leaky_relu(a, slope=0.1)),
                            (nn.ELU(0.7), ops.elu(a, alpha=0.7)), (nn.GELU(), ops.gelu(a)), (nn.Tanh(), ops.tanh(a)),
                            (nn.Sigmoid(), ops.sigmoid(a)), (nn.SiLU(), ops.silu(a)), (nn.Identity(), a),
                            (nn.Lambda(ops.exp, "exp"), ops.exp(a)), (nn.Flatten(), ops.reshape(a, shape=(2, 12))),
                            (nn.Reshape(2, 6), ops.reshape(a, shape=(2, 2, 6)))):
        assert np.array_equal(layer(a).numpy(), expected.numpy()), layer


# ---- initial values


@pytest.mark.parametrize("law, std", [
    ("he", math.sqrt(2 / 144)), ("xavier_normal", math.sqrt(2 / (144 + 288))), ("lecun", math.sqrt(1 / 144)),
    (0.02, 0.02),
])
def test_normal_laws(law, std):
    w = init.weight(nn.Init(tg.Rng(0)), (3, 3, 16, 32), law).numpy()
    n = w.size
    assert abs(w.mean()) < 4 * std / math.sqrt(n) and abs(w.std() / std - 1) < 4 / math.sqrt(2 * n)
    assert abs((w**4).mean() / std**4 - 3) < 4 * math.sqrt(96 / n)  # a normal law's kurtosis
    assert w.dtype == F32


@pytest.mark.parametrize("law, bound", [
    ("default", 1 / math.sqrt(144)), ("he_uniform", math.sqrt(6 / 144)), ("xavier", math.sqrt(6 / (144 + 288))),
])
def test_uniform_laws(law, bound):
    w = init.weight(nn.Init(tg.Rng(0)), (3, 3, 16, 32), law).numpy()
    assert 0.999 * bound < np.abs(w).max() <= bound and abs(w.mean()) < 4 * bound / math.sqrt(3 * w.size)
    assert abs(w.std() / (bound / math.sqrt(3)) - 1) < 0.02


def test_orthogonal_law():
    for shape in ((20, 7), (7, 20), (3, 3, 2, 5)):
        w = init.weight(nn.Init(tg.Rng(1)), shape, "orthogonal").numpy().reshape(-1, shape[-1])
        gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-6)
    assert message(lambda: init.weight(nn.Init(tg.Rng(0)), (2, 2), "magic"), ValueError) == (
        "unknown initial law 'magic'; see tinygen.nn.init.weight.")


def test_initial_values_come_from_the_stream_in_order():
    def build(rng):
        return nn.Sequential(nn.Linear(4, 4, rng=rng), nn.Linear(4, 4, rng=rng), nn.Embedding(4, 4, rng=rng))

    a, b, c = (build(tg.Rng(s)).state() for s in (0, 0, 1))
    assert all((a[k] == b[k]).all() for k in a) and all((a[k] != c[k]).any() for k in a)
    assert (a["0.w"] != a["1.w"]).any()
    named = nn.Init(tg.Rng(0), "other")
    assert (nn.Linear(4, 4, rng=named).w.numpy() != a["0.w"]).any() and named.drawn == 2
    assert (nn.Linear(3, 9, law="he").b.numpy() == 0).all() and (nn.Linear(3, 9).b.numpy() != 0).any()
    assert (nn.LSTMCell(2, 3).b.numpy() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]).all()


def test_an_rng_that_layers_were_built_from_can_be_let_go_of():
    rng = tg.Rng(5)
    nn.Linear(2, 2, rng=rng)
    there = weakref.ref(rng)
    del rng
    gc.collect()
    assert there() is None


# ---- spectral and weight norm


@pytest.mark.parametrize("layer", [nn.Linear(20, 30), nn.Conv2d(4, 8, 3), nn.Conv1d(5, 9, 3), nn.ConvTranspose2d(4, 6)])
def test_sigma_is_the_largest_singular_value(layer):
    normed = nn.SpectralNorm(layer)
    exact = np.linalg.svd(layer.w.numpy().reshape(-1, layer.w.shape[-1]), compute_uv=False)[0]
    assert abs(normed.sigma().item() / exact - 1) < 0.05
    a = tg.Tensor(x(2, *((6, 6) if layer.w.ndim == 4 else (6,) * (layer.w.ndim - 2)), layer.w.shape[-2], dtype=F32))
    for _ in range(30):
        normed(a)
    assert abs(normed.sigma().item() / exact - 1) < 1e-3


def test_spectral_norm_divides_by_sigma_and_evaluation_leaves_u_alone():
    layer = nn.Linear(6, 4)
    normed = nn.SpectralNorm(layer)
    a = tg.Tensor(x(3, 6, dtype=F32))
    before = normed.u.numpy().copy(), normed.v.numpy().copy()
    normed.eval()
    y = normed(a)
    assert (normed.u.numpy() == before[0]).all() and (normed.v.numpy() == before[1]).all()
    expected = a.numpy() @ layer.w.numpy() / normed.sigma().item() + layer.b.numpy()
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-6)
    normed.train()
    normed(a)
    assert (normed.u.numpy() != before[0]).any()
    assert abs(np.linalg.norm(normed.u.numpy()) - 1) < 1e-6 and abs(np.linalg.norm(normed.v.numpy()) - 1) < 1e-6
    assert normed.layer is layer and list(normed.parameters()) == ["layer.w", "layer.b"]
    assert sorted(normed.buffers()) == ["u", "v"] and layer.w.requires_grad
    message(lambda: normed(tg.Tensor(x(3, 5, dtype=F32))))
    assert layer.w is normed.parameters()["layer.w"]  # put back after an error too


def test_spectral_norm_uses_averaged_u_and_v_as_directions():
    normed = nn.SpectralNorm(nn.Linear(6, 4)).eval()
    sigma = normed.sigma().item()
    normed.u.assign(0.5 * normed.u.data)
    normed.v.assign(0.25 * normed.v.data)
    assert normed.sigma().item() == pytest.approx(sigma, rel=1e-6)


def test_two_calls_of_a_spectral_norm_in_one_loss():
    """As a discriminator is called on real and on fake: each keeps the u and v that it was computed with."""
    def twice(run):
        normed = nn.SpectralNorm(nn.Linear(5, 3, rng=tg.Rng(0)), warm_up=1).astype(np.float64)
        a, b = (np.random.default_rng(s).standard_normal((2, 5)) for s in (0, 1))
        return run(normed, tg.Tensor(a), tg.Tensor(b))

    def together(normed, a, b):
        return tg.grad(ops.sum(ops.square(normed(a))) + ops.sum(ops.square(normed(b))), normed.parameters())

    def apart(normed, a, b):
        one = tg.grad(ops.sum(ops.square(normed(a))), normed.parameters())
        two = tg.grad(ops.sum(ops.square(normed(b))), normed.parameters())
        return {k: one[k] + two[k] for k in one}

    first_, second = twice(together), twice(apart)
    for k in first_:
        np.testing.assert_allclose(first_[k].numpy(), second[k].numpy(), rtol=1e-12)


def test_weight_norm_starts_as_the_layer_and_separates_length_from_direction():
    layer = nn.Conv2d(3, 4, 3)
    a = tg.Tensor(x(1, 5, 5, 3, dtype=F32))
    y = layer(a).numpy()
    normed = nn.WeightNorm(layer)
    np.testing.assert_allclose(normed(a).numpy(), y, rtol=1e-4, atol=1e-5)
    assert list(normed.parameters()) == ["g", "layer.w", "layer.b"]
    layer.b.assign(np.zeros(4, F32))
    y = normed(a).numpy()
    layer.w.assign(7 * layer.w.data)
    np.testing.assert_allclose(normed(a).numpy(), y, rtol=1e-4, atol=1e-5)
    normed.g.assign(2 * normed.g.data)
    np.testing.assert_allclose(normed(a).numpy(), 2 * y, rtol=1e-4, atol=1e-5)


# ---- dropout


def test_dropout_statistics_and_evaluation():
    layer, ones = nn.Dropout(0.3), tg.Tensor(np.ones((200, 100), F32))
    with nn.streams(tg.Rng(0), 4):
        y = layer(ones).numpy()
    assert np.allclose(np.unique(y), [0, 1 / 0.7]) and abs((y == 0).mean() - 0.3) < 5 * math.sqrt(0.21 / 20000)
    assert layer.eval()(ones) is ones and nn.Dropout(0.0)(ones) is ones
    assert message(lambda: nn.Dropout(1.0), ValueError) == "Dropout: p is in [0, 1), not 1.0."


def test_dropout_draws_from_the_streams_around_it():
    rng = tg.Rng(7)
    net = nn.Sequential(nn.Dropout(0.5, rng=rng), nn.Dropout(0.5, rng=rng))
    ones = tg.Tensor(np.ones((8, 16), F32))

    def run(step, seed=0):
        with nn.streams(tg.Rng(seed), step):
            return [net(ones).numpy(), net(ones).numpy()]

    (a, b), (c, d), (e, _), (f, _) = run(3), run(3), run(4), run(3, seed=1)
    assert (a == c).all() and (b == d).all()  # the same step again
    assert (a != b).any() and (a != e).any() and (a != f).any()  # another call, step, seed
    with nn.streams(tg.Rng(0), 0):
        one, two = net.items[0](ones).numpy(), net.items[1](ones).numpy()
        with nn.streams(tg.Rng(0), 9):
            inner = net.items[0](ones).numpy()
        again = net.items[0](ones).numpy()
    assert (one != two).any() and (inner != one).any() and (again != one).any()
    assert message(lambda: net(ones)) == (
        "dropout in training draws from named streams: put `with nn.streams(rng, step):` around the forward pass, or "
        "call .eval() on the network.")


def test_dropout_inside_recompute():
    layer, a = nn.Dropout(0.5), tg.Tensor(x(6, 5, dtype=F32), requires_grad=True)

    def noisy(t):
        with nn.streams(tg.Rng(0), 2):
            return ops.exp(layer(t)) * layer(t)

    plain = tg.grad(ops.sum(noisy(a)), a).numpy()
    assert (tg.grad(ops.sum(tg.recompute(noisy)(a)), a).numpy() == plain).all()

    def careless(t):
        return ops.exp(layer(t))

    with nn.streams(tg.Rng(0), 2):
        loss = ops.sum(tg.recompute(careless)(a))
        text = message(lambda: tg.grad(loss, a))
    assert text == ("dropout inside recompute would drop other numbers when it is run again: open `with "
                    "nn.streams(rng, step):` inside the function that is recomputed.")


def test_running_statistics_move_once_under_recompute():
    plain, again = nn.BatchNorm(3), nn.BatchNorm(3)
    a = tg.Tensor(x(4, 3, dtype=F32), requires_grad=True)
    g = tg.grad(ops.sum(ops.exp(plain(a))), [a, plain.w])
    h = tg.grad(ops.sum(ops.exp(tg.recompute(again)(a))), [a, again.w])
    for k in ("mean", "var"):
        assert (getattr(plain, k).numpy() == getattr(again, k).numpy()).all()
    assert (g[0].numpy() == h[0].numpy()).all() and (g[1].numpy() == h[1].numpy()).all()
    normed = nn.SpectralNorm(nn.Linear(3, 3), warm_up=1)
    y = tg.recompute(normed)(a)
    u = normed.u.numpy()
    tg.grad(ops.sum(ops.square(y)), normed.parameters())
    assert (normed.u.numpy() == u).all()
