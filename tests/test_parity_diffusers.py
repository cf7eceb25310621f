"""models/unet.py against diffusers' UNet2DModel: every switch, with its weights carried over, in float64.

The gates are tight because the faults that matter are small: a norm's eps of 1e-5 instead of 1e-6 moves the output by
1e-4, the other formula of GELU by 1e-4. Diffusers computes the sinusoids of time in float32, which is all that a gate
of 1e-5 at large t has to allow for; with exact sinusoids put in their place the two networks agree to rounding.
"""

import contextlib
import math
import sys

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.models import unet as unet_file
from tinygen.models.unet import UNet

torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers, which this is compared with, is not installed")

EXACT, EARLY, LATE = 1e-12, 1e-7, 1e-5  # relative: in float64 throughout; with float32 sinusoids of t ≤ 1; of larger t

# arguments of UNet that UNet2DModel has under another name
ALIKE = {"channels": "in_channels", "widths": "block_out_channels", "layers": "layers_per_block",
         "groups": "norm_num_groups", "eps": "norm_eps", "head_dim": "attention_head_dim",
         "flip": "flip_sin_to_cos", "shift": "freq_shift",
         "mid_scale": "mid_block_scale_factor", "mid_attention": "add_attention", "centre_input": "center_input_sample",
         "activation": "act_fn", "classes": "num_class_embeds", "timesteps": "num_train_timesteps",
         "mid_groups": "attn_norm_num_groups", "time_features": "time_embedding_dim", "dropout": "dropout",
         "channels_out": "out_channels", "resample": ("downsample_type", "upsample_type")}  # fmt: skip
DDPM = dict(widths=(8, 12, 16), attention=(False, True, False), groups=4, eps=1e-6, head_dim=None, flip=False,
            shift=1.0, asymmetric=True)
DEFAULTS = dict(widths=(8, 16, 24), attention=(False, True, True), groups=4, eps=1e-5, head_dim=8, flip=True, shift=0.0,
                asymmetric=False)
SMALL = {**DEFAULTS, "widths": (8, 16), "attention": (False, True), "layers": 1}

CONFIGS = {
    "ddpm-cifar10-32": DDPM,
    "defaults": DEFAULTS,
    "class table, scale and shift, resampling blocks": {
        **DEFAULTS, "attention": (True, True, True), "scale_shift": True, "resample": "resnet", "classes": 5},
    "resampling blocks without attention": {**SMALL, "attention": (False, False), "resample": "resnet"},
    "scaled middle, centred input": {**DEFAULTS, "mid_scale": math.sqrt(2), "centre_input": True},
    "Fourier": {**SMALL, "time": "fourier"},
    "learned time": {**SMALL, "time": "learned", "timesteps": 1000},
    "timestep class embedding": {**SMALL, "class_embedding": "timestep"},
    "timestep class embedding of learned times": {
        **SMALL, "class_embedding": "timestep", "time": "learned", "timesteps": 1000},
    "identity class embedding": {**SMALL, "class_embedding": "identity"},
    "heads of 4": {**SMALL, "head_dim": 4},
    "one head": {**SMALL, "head_dim": None},
    "attention everywhere": {**SMALL, "attention": (True, True)},
    "attention in the first only": {**SMALL, "attention": (True, False)},
    "no attention in the middle": {**SMALL, "mid_attention": False},
    "no middle": {**SMALL, "mid_block": False},
    "scale and shift, a norm in the middle": {**SMALL, "scale_shift": True, "mid_groups": 2},
    "more channels out, wider time": {**SMALL, "channels": 2, "channels_out": 5, "time_features": 20, "dropout": 0.3},
    "one width": {**SMALL, "widths": (8,), "attention": (False,)},
    "three layers": {**SMALL, "layers": 3},
    "gelu": {**SMALL, "activation": "gelu"},
    "relu": {**SMALL, "activation": "relu"},
    "mish": {**SMALL, "activation": "mish", "scale_shift": True},
}


def build(config: dict) -> UNet:
    ours = UNet(**{"channels": 3, **config}, zero=False, rng=tg.Rng(0)).astype(np.float64)
    return ours.eval()


def build_theirs(config: dict):
    """The UNet2DModel of the same meaning, in float64, norms and biases moved away from 1 and 0."""
    config = {"channels": 3, "layers": 2, **config}
    config.setdefault("channels_out", config["channels"])
    asked = {}
    for ours, theirs in ALIKE.items():
        for name in (theirs,) if isinstance(theirs, str) else theirs:
            if ours in config:
                asked[name] = config[ours]
    plain = "ResnetDownsampleBlock2D" if config.get("resample") == "resnet" else "DownBlock2D"
    down = ["AttnDownBlock2D" if a else plain for a in config["attention"]]
    ups = {"AttnDownBlock2D": "AttnUpBlock2D", "DownBlock2D": "UpBlock2D",
           "ResnetDownsampleBlock2D": "ResnetUpsampleBlock2D"}
    up = [ups[d] for d in down]
    kind = config.get("class_embedding", "table")
    torch.manual_seed(1)
    theirs = diffusers.UNet2DModel(
        **asked, down_block_types=down, up_block_types=up[::-1], downsample_padding=0 if config["asymmetric"] else 1,
        mid_block_type="UNetMidBlock2D" if config.get("mid_block", True) else None,
        resnet_time_scale_shift="scale_shift" if config.get("scale_shift") else "default",
        time_embedding_type=config.get("time", "positional"),
        class_embed_type=None if kind == "table" else kind,
    ).double().eval()  # fmt: skip
    if kind == "timestep" and not hasattr(theirs.time_proj, "weight"):
        theirs.time_proj = Widened(theirs.time_proj)  # diffusers forgets to cast the embedding of a class
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.ndim == 1:
                p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return theirs


class Widened(torch.nn.Module):
    """The float32 result of a module without weights, as float64."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, t):
        return self.inner(t).double()


FIXED = {"time1": "time_embedding.linear_1", "time2": "time_embedding.linear_2", "time_table": "time_proj",
         "fourier": "time_proj", "class1": "class_embedding.linear_1", "class2": "class_embedding.linear_2",
         "class_table": "class_embedding", "conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}
IN_BLOCK = {"blocks": "resnets", "attentions": "attentions", "time": "time_emb_proj", "skip": "conv_shortcut",
            "norm": "group_norm", "attention.q": "to_q", "attention.k": "to_k", "attention.v": "to_v",
            "attention.out": "to_out.0"}


def their_name(name: str, middle: list) -> str:
    """Our "down.0.blocks.1.conv1.w" as "down_blocks.0.resnets.1.conv1.weight"."""
    *path, leaf = name.split(".")
    leaf = {"w": "weight", "b": "bias"}[leaf]
    head = path[0]
    if head in FIXED:
        return f"{FIXED[head]}.{leaf}"
    if head == "middle":
        place = int(path[1])
        block = middle[place]
        part = ".".join(path[2:])
        if isinstance(block, unet_file.AttentionBlock):
            return f"mid_block.attentions.0.{IN_BLOCK.get(part, part)}.{leaf}"
        return f"mid_block.resnets.{0 if place == 0 else 1}.{IN_BLOCK.get(part, part)}.{leaf}"
    assert head in ("down", "up"), name
    level, kind, number, part = *path[1:4], ".".join(path[4:])
    kind = f"{head}samplers" if kind == "resample" else IN_BLOCK[kind]
    return f"{head}_blocks.{level}.{kind}.{number}.{IN_BLOCK.get(part, part)}.{leaf}"


def across(theirs: np.ndarray, name: str) -> np.ndarray:
    """A weight in our axes: (out, in) → (in, out); (out, in, kh, kw) → (kh, kw, in, out); tables as they are."""
    if theirs.ndim == 4:
        return theirs.transpose(2, 3, 1, 0)
    return theirs.T if theirs.ndim == 2 and "table" not in name else theirs


def carry(ours: UNet, theirs) -> dict[str, str]:
    """Give our network their weights; every one of theirs is read once. Returns our name -> their name."""
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    names = {k: their_name(k, ours.middle) for k in {**ours.parameters(), **ours.buffers()}}
    assert len(set(names.values())) == len(names), "two of ours are mapped to one of theirs"
    assert set(names.values()) == set(state), sorted(set(names.values()) ^ set(state))
    ours.load({k: np.ascontiguousarray(across(state[v], k)) for k, v in names.items()})
    return names


def exact_sinusoids(theirs) -> None:
    """Put the formula, in float64, in the place of diffusers' float32 one."""
    was = theirs.time_proj.inner if isinstance(theirs.time_proj, Widened) else theirs.time_proj
    half = was.num_channels // 2

    class Exact(torch.nn.Module):
        def forward(self, t):
            i = torch.arange(half, dtype=torch.float64)
            f = torch.exp(-math.log(10000) * i / (half - was.downscale_freq_shift))
            angles = t.double()[:, None] * f
            parts = (angles.cos(), angles.sin()) if was.flip_sin_to_cos else (angles.sin(), angles.cos())
            return torch.cat(parts, dim=1)

    theirs.time_proj = Exact()


def images(config: dict, seed: int = 0):
    """Taller than wide, two of them, as N, H, W, C."""
    shrink = 2 ** (len(config["widths"]) - 1)
    return np.random.default_rng(seed).standard_normal((2, 4 * shrink, 2 * shrink, config.get("channels", 3)))


def labels_of(config: dict, ours: UNet):
    """(what we are given, what they are), or (None, None)."""
    kind = config.get("class_embedding", "table")
    if kind == "identity":
        v = np.random.default_rng(3).standard_normal((2, ours.time2.w.shape[1]))
        return tg.Tensor(v), torch.tensor(v)
    if kind == "timestep" or config.get("classes"):
        v = np.array([3, 1])
        return v, torch.tensor(v)
    return None, None


def run(ours: UNet, config: dict, x, t):
    return ours(tg.Tensor(x), np.asarray(t), labels_of(config, ours)[0]).numpy()


def run_theirs(theirs, config: dict, ours: UNet, x, t):
    sample = torch.tensor(x.transpose(0, 3, 1, 2))
    t = torch.tensor(t, dtype=torch.float64 if config.get("time") == "fourier" else torch.int64)
    with torch.no_grad():
        return theirs(sample, t, labels_of(config, ours)[1]).sample.numpy().transpose(0, 2, 3, 1)


def error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == np.float64
    return float(np.abs(a - b).max() / np.abs(b).max())


def errors(config: dict) -> dict[str, float]:
    """The relative error at small times, at large ones, and in float64 throughout."""
    ours, theirs, x = build(config), build_theirs(config), images(config)
    carry(ours, theirs)
    found = {}
    sinusoidal = config.get("time", "sinusoidal") == "sinusoidal"
    early, late = ((0, 1), (871, 37)) if config.get("time") != "fourier" else ((1, 2), (871, 37))
    with tg.no_grad():
        found["early"] = error(run(ours, config, x, early), run_theirs(theirs, config, ours, x, early))
        found["late"] = error(run(ours, config, x, late), run_theirs(theirs, config, ours, x, late))
        if sinusoidal:
            exact_sinusoids(theirs)
        found["exact"] = max(error(run(ours, config, x, t), run_theirs(theirs, config, ours, x, t))
                             for t in (early, late))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_network_is_that_of_diffusers(name):
    found = errors(CONFIGS[name])
    assert found["early"] <= EARLY and found["late"] <= LATE and found["exact"] <= EXACT, found


def test_the_gradient_of_every_parameter_is_that_of_diffusers():
    config = {**DEFAULTS, "scale_shift": True, "attention": (False, True, False), "head_dim": 4, "classes": 5,
              "mid_scale": 1.5, "mid_groups": 4}
    ours, theirs, x, t = build(config), build_theirs(config), images(config), (3, 500)
    names = carry(ours, theirs)
    exact_sinusoids(theirs)
    weights = np.random.default_rng(5).standard_normal(x.shape)
    mine, other = labels_of(config, ours)
    y = ours(tg.Tensor(x), np.array(t), mine)
    grads = tg.grad(ops.sum(y * tg.Tensor(weights)), ours.parameters())
    z = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), other).sample
    (z * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()
    expected = {k: across(p.grad.numpy(), k) for k, p in ((k, theirs.get_parameter(v)) for k, v in names.items())}
    assert set(expected) == set(grads)
    largest = max(np.abs(g).max() for g in expected.values())
    for k, g in grads.items():
        difference = np.abs(g.numpy() - expected[k]).max()
        # to_k's bias drops out of the softmax: its gradient is rounding and nothing else
        assert difference <= 1e-11 * max(np.abs(expected[k]).max(), 1e-3 * largest), (k, difference)


# ---- the tester is tested: what is wrong by little must be seen


def _swap_outputs(f):
    return lambda a, b, axis: f(b, a, axis=axis)


@contextlib.contextmanager
def replaced(place, name: str, value):
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


class _Ops:
    """The operations, some of them replaced, for the U-Net's file alone."""

    def __init__(self, **others):
        self.others = others

    def __getattr__(self, name):
        return self.others.get(name) or getattr(ops, name)


def _unbiased(x, axes, eps):
    count = math.prod(x.shape[a] for a in axes)
    mean = ops.mean(x, axis=axes, keepdims=True)
    var = ops.sum(ops.square(x - mean), axis=axes, keepdims=True) / (count - 1)
    return (x - mean) * ops.rsqrt(var + eps), mean, var


# name -> (configuration, what we do wrong: other arguments, or a replacement (place, name, value), or a change of the
# network)
GELU = CONFIGS["gelu"]
MUTATIONS = {
    "eps 1e-5 for 1e-6": (DDPM, {"eps": 1e-5}),
    "eps 1e-6 for 1e-5": (DEFAULTS, {"eps": 1e-6}),
    "symmetric padding": (DDPM, {"asymmetric": False}),
    "asymmetric padding": (DEFAULTS, {"asymmetric": True}),
    "groups halved": (DDPM, {"groups": 2}),
    "sine and cosine exchanged": (DDPM, {"flip": True}),
    "frequency shift": (DDPM, {"shift": 0.0}),
    "heads for head size": ({**SMALL, "head_dim": 4}, {"head_dim": 2}),
    "one head for many": (DEFAULTS, {"head_dim": None}),
    "middle not scaled": ({**SMALL, "mid_scale": 1.4}, {"mid_scale": 1.0}),
    "input not centred": ({**SMALL, "centre_input": True}, {"centre_input": False}),
    "tanh formula of GELU": (
        GELU, (unet_file, "ACTIVATIONS", {"gelu": lambda x: ops.gelu(x, approximate="tanh")})),
    "unbiased variance": (DDPM, (sys.modules["tinygen.ops.norm"], "_normalise", _unbiased)),
    "skip before input": (DDPM, (unet_file, "ops", _Ops(concat=_swap_outputs(ops.concat)))),
    "no SiLU in the time embedding": (DDPM, (unet_file, "ops", _Ops(silu=lambda x: x))),
    "no SiLU on the time embedding": (DDPM, (unet_file, "ACTIVATIONS", {"silu": lambda x: x})),
    "SiLU on the time embedding where the blocks have GELU": (
        GELU, lambda network: setattr(network, "_activation", ops.silu)),
    "scale without its 1": (
        {**SMALL, "scale_shift": True}, (unet_file.Linear, "forward", None)),
}  # fmt: skip


def _without_one(linear):
    forward = linear.forward

    def wrong(self, x):
        y = forward(self, x)
        n = y.shape[-1] // 2
        return y if y.ndim != 2 or self.w.shape[1] not in (16, 32) else ops.concat(y[:, :n] - 1.0, y[:, n:], axis=1)

    return wrong


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_network_is_noticed(name):
    config, wrong = MUTATIONS[name]
    theirs = build_theirs(config)
    context = contextlib.nullcontext()
    if isinstance(wrong, tuple):
        place, attribute, value = wrong
        context = replaced(place, attribute, value or _without_one(place))
    with context, tg.no_grad():
        ours = build({**config, **(wrong if isinstance(wrong, dict) else {})})
        carry(ours, theirs)
        if callable(wrong):
            wrong(ours)
        x = images(config)
        found = error(run(ours, config, x, (0, 1)), run_theirs(theirs, config, ours, x, (0, 1)))
    assert found > 10 * EARLY, f"{name}: an error of {found:.1e} passes for rounding"


def test_weights_that_are_exchanged_are_noticed():
    """Norm weights and biases are not 1 and 0, so that no exchange of two of them goes unseen."""
    ours, theirs, x = build(DDPM), build_theirs(DDPM), images(DDPM)
    carry(ours, theirs)
    expected = run_theirs(theirs, DDPM, ours, x, (0, 1))
    params = ours.parameters()
    pairs = [("down.0.blocks.0.norm1.w", "down.0.blocks.0.norm1.b"),
             ("down.0.blocks.0.norm1.w", "down.0.blocks.0.norm2.w"),
             ("middle.1.attention.q.w", "middle.1.attention.v.w"),
             ("middle.1.attention.q.b", "middle.1.attention.v.b"),
             ("up.0.blocks.0.conv1.b", "up.0.blocks.0.time.b"),
             ("down.0.blocks.0.conv2.b", "down.0.blocks.1.conv2.b")]
    with tg.no_grad():
        for a, b in pairs:
            params[a].data, params[b].data = params[b].data, params[a].data
            found = error(run(ours, DDPM, x, (0, 1)), expected)
            if {a, b} == {"up.0.blocks.0.conv1.b", "up.0.blocks.0.time.b"}:
                assert found < EARLY  # the one pair that is added, so that the order cannot matter
            else:
                assert found > 10 * EARLY, (a, b, found)
            params[a].data, params[b].data = params[b].data, params[a].data


# ---- ours alone


def test_the_paper_preset_has_the_published_number_of_parameters():
    from tinygen.models import ddpm

    p = ddpm.PRESETS["paper"]
    network = UNet(3, p["widths"], layers=p["layers"], attention=tuple(map(bool, p["attention"])), groups=p["groups"],
                   law="zeros")
    assert network.count() == 35_746_307


def test_what_the_network_refuses():
    def message(call):
        with pytest.raises(ValueError) as found:
            call()
        return str(found.value)

    small = dict(widths=(8, 16), attention=(False, True), groups=4, layers=1)
    assert message(lambda: UNet(3, **{**small, "attention": (True,)})) == (
        "UNet: 1 attention switches for 2 widths; give one for each.")
    assert message(lambda: UNet(3, **small, time="cosine")) == (
        "UNet: time is one of sinusoidal, fourier, learned, not 'cosine'.")
    assert message(lambda: UNet(3, **small, activation="swish")) == (
        "UNet: activation is one of silu, relu, gelu, mish, not 'swish'.")
    assert message(lambda: UNet(3, **small, head_dim=6)) == "UNet: 16 channels do not split into heads of 6."
    assert message(lambda: UNet(3, **small, head_dim=32)) == "UNet: 16 channels do not split into heads of 32."
    assert message(lambda: UNet(3, **small, time="learned")).startswith("UNet: time='learned' needs timesteps")
    network = UNet(3, **small)
    x = np.zeros((1, 4, 6, 3), np.float32)
    assert message(lambda: network(tg.Tensor(x[:, :, :5]), 1)) == (
        "UNet: 2 resolutions need sides divisible by 2, not 4×5.")
    text = "UNet: labels are passed if, and only if, the network has classes."
    assert message(lambda: network(tg.Tensor(x), 1, np.array([1]))) == text
    for extra in ({"classes": 3}, {"class_embedding": "timestep"}, {"class_embedding": "identity"}):
        assert message(lambda extra=extra: UNet(3, **small, **extra)(tg.Tensor(x), 1)) == text
    y = network(tg.Tensor(x), 1)
    assert y.shape == x.shape and (y.numpy() == 0).all()  # the last convolution starts at zero
