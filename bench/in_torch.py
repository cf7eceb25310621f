"""How PyTorch does each kind of work: KINDS[kind](variant, **args) gives a function that does it once.

VARIANTS names the forms in which it can be done; the fastest on the machine at hand counts. Images are N,C,H,W in
shape, and lie in memory so ("N,C,H,W") or as N,H,W,C ("channels_last"). Adam is the multi-tensor one, or the fused one.
With COMPILED set, functions and networks go through torch.compile. bench/gpu_torch.py sets DEVICE to a GPU, and in bf16
DTYPE, that of a kernel's tensors, and AUTOCAST, that of networks inside torch.autocast.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bench import torch_models as twins
from bench.cases import Run, runs

COMPILED = False
DEVICE = "cpu"
DTYPE = torch.float32
AUTOCAST: torch.dtype | None = None
IMAGES = ("channels_last", "N,C,H,W")
NETWORK = ("channels_last, fused Adam", "N,C,H,W, fused Adam", "N,C,H,W, foreach Adam")
VARIANTS = {
    **dict.fromkeys(("conv2d", "conv_transpose2d", "group_norm_silu", "batch_norm", "resize", "concat"), IMAGES),
    **dict.fromkeys(("blocks", "ddim", "conv_forward", "conv_input_grad", "conv_weight_grad"), IMAGES),
    **dict.fromkeys(("ddpm_step", "dcgan_step", "conv_vae_step"), NETWORK),
    "inception": ("channels_last", "N,C,H,W", "channels_last, folded", "N,C,H,W, folded"),
    "adam": ("fused", "foreach"), "gan_step": ("fused Adam", "foreach Adam"),
}  # fmt: skip
torch.manual_seed(0)


def _tensor(*shape: int, scale: float = 1.0, variant: str = ""):
    x = torch.randn(shape, dtype=DTYPE) * scale
    return _laid(x, variant).requires_grad_()


def _laid(x, variant: str):
    return x.contiguous(memory_format=torch.channels_last) if "channels_last" in variant and x.ndim == 4 else x


def _both(f, *xs) -> Run:
    """Forward, and backward to every x from a fixed cotangent that lies as the result does."""
    if COMPILED:
        f = torch.compile(f)
    with torch.no_grad():
        y = f(*xs)
        g = torch.randn_like(y)
    return lambda: torch.autograd.grad(f(*xs), xs, g)


def conv2d(variant, *, n, side, cin, cout, k, stride=1, padding=0, groups=1) -> Run:
    return _both(lambda x, w: F.conv2d(x, w, None, stride, padding, 1, groups),
                 _tensor(n, cin, side, side, variant=variant),
                 _tensor(cout, cin // groups, k, k, scale=0.05, variant=variant))


def conv_transpose2d(variant, *, n, side, cin, cout, k, stride=1, padding=0) -> Run:
    return _both(lambda x, w: F.conv_transpose2d(x, w, None, stride, padding),
                 _tensor(n, cin, side, side, variant=variant), _tensor(cin, cout, k, k, scale=0.05, variant=variant))


def _images(n, side, cin, cout, k, variant) -> tuple:
    """(x, w, g): the input, the weights and the output's gradient of a k×k convolution that keeps the size."""
    shapes = (n, cin, side, side), (cout, cin, k, k), (n, cout, side, side)
    return tuple(_tensor(*shape, variant=variant).detach() for shape in shapes)


def conv_forward(variant, *, n, side, cin, cout, k) -> Run:
    x, w, _ = _images(n, side, cin, cout, k, variant)
    return lambda: F.conv2d(x, w, None, padding=k // 2)


def _conv_grad(which: int):
    def make(variant, *, n, side, cin, cout, k) -> Run:
        x, w, g = _images(n, side, cin, cout, k, variant)
        pad, wanted = [k // 2] * 2, [i == which for i in range(3)]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(g, x, w, None, [1, 1], pad, [1, 1], False, [0, 0], 1, wanted)[which]

    return make


def matmul(variant, *, m, n, k) -> Run:
    a, b = _tensor(m, k).detach(), _tensor(k, n).detach()
    return lambda: torch.matmul(a, b)


def embedding(variant, *, rows, columns, ids) -> Run:
    chosen = torch.randint(0, rows, (ids,))
    return _both(lambda w: F.embedding(chosen, w), _tensor(rows, columns))


def group_norm_silu(variant, *, n, side, c, groups) -> Run:
    return _both(lambda x, w, b: F.silu(F.group_norm(x, groups, w, b)), _tensor(n, c, side, side, variant=variant),
                 _tensor(c), _tensor(c))


def attention(variant, *, n, heads, T, d, causal) -> Run:
    return _both(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
                 *(_tensor(n, heads, T, d) for _ in range(3)))


def softmax(variant, *, rows, columns) -> Run:
    return _both(lambda x: F.softmax(x, -1), _tensor(rows, columns))


def layer_norm(variant, *, rows, columns) -> Run:
    return _both(lambda x, w, b: F.layer_norm(x, (columns,), w, b), _tensor(rows, columns), _tensor(columns),
                 _tensor(columns))


def batch_norm(variant, *, n, side, c) -> Run:
    return _both(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
                 _tensor(n, c, side, side, variant=variant), _tensor(c), _tensor(c))


def bias_gelu(variant, *, rows, columns) -> Run:
    return _both(lambda x, b: F.gelu(x + b), _tensor(rows, columns), _tensor(columns))


def resize(variant, *, n, side, c) -> Run:
    return _both(lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), _tensor(n, c, side, side, variant=variant))


def concat(variant, *, n, side, c) -> Run:
    return _both(lambda a, b: torch.cat([a, b], 1), *(_tensor(n, c, side, side, variant=variant) for _ in range(2)))


def _adam(net: nn.Module, variant: str, lr: float = 2e-4, betas=(0.9, 0.999)):
    fused = "foreach" not in variant
    return torch.optim.Adam(net.parameters(), lr, betas=betas, fused=fused, foreach=not fused)


class Average:
    """The moving average of a network, parameters and floating buffers, in one multi-tensor call."""

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay, self.updates = copy.deepcopy(net).eval().requires_grad_(False), decay, 0
        self.own, self.mean = self._floats(net), self._floats(self.net)

    @staticmethod
    def _floats(net: nn.Module) -> list:
        return [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.mean, self.own, 1 - decay)


def adam(variant, *, widths) -> Run:
    s = {"widths": widths, "layers": 2, "groups": 32, "channels": 3, "dropout": 0.1, "attention": [0, 1, 0, 0]}
    net = twins.UNet(s)
    optimizer, average = _adam(net, variant), Average(net, 0.9999)
    for p in net.parameters():
        p.grad = torch.randn_like(p) * 1e-3

    def run():
        optimizer.step()
        average.update()

    return run


# ---- whole steps


def _batches(s: dict[str, Any], variant: str) -> list:
    shape = (s["batch_size"], s["channels"], s["image_size"], s["image_size"])
    return [_laid(torch.rand(shape) * 2 - 1, variant) for _ in range(8)]


def _net(net: nn.Module, variant: str) -> tuple[nn.Module, Any]:
    """(the network in its layout, what to call)."""
    if "channels_last" in variant:
        net = net.to(memory_format=torch.channels_last)
    return net, _called(net)


def _called(f):
    """What to call in place of a network or a part of one; what comes out is float32."""
    if AUTOCAST is not None:

        def cast(*xs):
            with torch.autocast(DEVICE.split(":")[0], AUTOCAST):
                y = f(*xs)
            return tuple(a.float() for a in y) if isinstance(y, tuple) else y.float()

        return cast
    return torch.compile(f) if COMPILED else f


def _report(**values) -> dict[str, Any]:
    """What a step has to say: numbers; on a GPU where they lie, since to read them is to wait for all before."""
    return {k: v.item() if DEVICE == "cpu" else v.detach() for k, v in values.items()}


def ddpm_step(variant, **s) -> Run:
    net, call = _net(twins.UNet(s), variant)
    optimizer, average, batches = _adam(net, variant, s["lr"]), Average(net, s["ema"]), _batches(s, variant)
    abar = twins.abar(s)
    a, b = abar.sqrt().float(), (1 - abar).sqrt().float()
    done = 0

    def run():
        nonlocal done
        x0 = batches[done % 8]
        t, eps = torch.randint(0, s["T"], (len(x0),), device=x0.device), torch.randn_like(x0)
        x = a[t][:, None, None, None] * x0 + b[t][:, None, None, None] * eps
        loss = F.mse_loss(call(x, t), eps)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), s["clip_norm"])
        done += 1
        for group in optimizer.param_groups:
            group["lr"] = s["lr"] * min(1.0, done / s["warm_up"])
        optimizer.step()
        average.update()
        return _report(loss=loss, grad_norm=norm)

    net.train()
    return run


def ddim(variant, *, images, count, **s) -> Run:
    net, call = _net(twins.UNet(s).eval(), variant)
    abar, there = twins.abar(s).tolist(), DEVICE
    shape = (images, s["channels"], s["image_size"], s["image_size"])
    visited = [round(s["T"] - k * s["T"] / count) - 1 for k in range(count)]

    @torch.no_grad()
    def run():
        x = _laid(torch.randn(shape, device=there), variant)
        for k, i in enumerate(visited):
            a, before = abar[i], abar[visited[k + 1]] if k + 1 < count else 1.0
            eps = call(x, torch.full((images,), i, device=there))
            x0 = ((x - math.sqrt(1 - a) * eps) / math.sqrt(a)).clamp(-1, 1)
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            x = math.sqrt(before) * x0 + math.sqrt(1 - before) * eps
        return x.clamp(-1, 1)

    return run


def _adversarial(G, D, call_g, call_d, together: bool, noise, s, variant, betas, r1: float = 0.0) -> Run:
    """A step of D, then one of G, non-saturating. together: real images and fakes pass D in one batch."""
    d_optimizer, g_optimizer = _adam(D, variant, s["lr"], betas), _adam(G, variant, s["lr"], betas)
    average, batches, done = Average(G, s["ema"]), _batches(s, variant), 0

    def run():
        nonlocal done
        x = batches[done % 8]
        done += 1
        with torch.no_grad():
            fake = call_g(noise(len(x)))
        on_real, on_fake = call_d(torch.cat([x, fake])).split(len(x)) if together else (call_d(x), call_d(fake))
        d_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        objective = d_loss
        if r1:
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(call_d(leaf).sum(), leaf, create_graph=True)
            objective = objective + r1 / 2 * slope.square().sum((1, 2, 3)).mean()
        d_optimizer.zero_grad()
        objective.backward()
        d_optimizer.step()
        D.requires_grad_(False)
        g_loss = F.softplus(-call_d(call_g(noise(len(x))))).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        D.requires_grad_(True)
        average.update()
        return _report(d_loss=d_loss, g_loss=g_loss, d_real=on_real.sigmoid().mean(), d_fake=on_fake.sigmoid().mean())

    return run


def gan_step(variant, **s) -> Run:
    (G, call_g), (D, call_d) = (_net(net, variant) for net in twins.gan_nets(s))
    there = DEVICE
    return _adversarial(G, D, call_g, call_d, True, lambda n: torch.randn(n, s["latent"], device=there), s, variant,
                        (s["beta1"], s["beta2"]), s["r1"])


def dcgan_step(variant, **s) -> Run:
    G, call_g = _net(twins.DCGANGenerator(s), variant)
    D, call_d = _net(twins.DCGANDiscriminator(s), variant)
    there = DEVICE
    return _adversarial(G, D, call_g, call_d, False, lambda n: torch.rand(n, s["latent"], device=there) * 2 - 1, s,
                        variant, (s["beta1"], 0.999))


def conv_vae_step(variant, **s) -> Run:
    net = twins.ConvVAE(s)
    if "channels_last" in variant:
        net = net.to(memory_format=torch.channels_last)
    encode, decode = _called(net.encode), _called(net.decode)
    optimizer, batches, done = _adam(net, variant, s["lr"]), _batches(s, variant), 0

    def run():
        nonlocal done
        x = batches[done % 8]
        done += 1
        mean, logvar = encode(x)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        if s["dequantise"]:
            x = x + (torch.rand_like(x) - 0.5) * (2 / (s["dequantise"] - 1))
        nll = net.nll(decode(z), x)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(x)
        loss = nll + s["beta"] * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return _report(loss=loss, elbo=-nll - kl, nll=nll, kl=kl)

    return run


class Block(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, c) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(2))

    def forward(self, x):
        h = self.convs[0](F.silu(self.norms[0](x)))
        return x + self.convs[1](F.silu(self.norms[1](h)))


def blocks(variant, *, n, side, c, depth, recompute) -> Run:
    net, _ = _net(nn.Sequential(*[Block(c) for _ in range(depth)]), variant)
    x, size = _tensor(n, c, side, side, variant=variant), runs(depth, recompute)
    # the image's gradient too: without it, group norm's backward in channels_last ends the process (PyTorch 2.13)
    wanted = [x, *net.parameters()]

    def run():
        h = x
        for start in range(0, depth, size or depth):
            part = net[start : start + (size or depth)]
            h = checkpoint(part, h, use_reentrant=False) if size else part(h)
        return torch.autograd.grad(h.square().mean(), wanted)

    return run


def inception(variant, *, n) -> Run:
    """Features of n images."""
    from bench.torch_inception import Inception, folded

    net = Inception().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    net = folded(net) if "folded" in variant else net
    if "channels_last" in variant:
        net = net.to(memory_format=torch.channels_last)
    x = _laid(torch.randn(n, 3, 299, 299), variant)

    def run():
        with torch.inference_mode():
            return net(x)["2048"]

    return run


KINDS = {
    "inception": inception,
    "conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "group_norm_silu": group_norm_silu, "attention": attention,
    "softmax": softmax, "layer_norm": layer_norm, "batch_norm": batch_norm, "bias_gelu": bias_gelu, "resize": resize,
    "concat": concat, "adam": adam, "ddim": ddim, "blocks": blocks, "ddpm_step": ddpm_step, "dcgan_step": dcgan_step,
    "conv_vae_step": conv_vae_step, "gan_step": gan_step, "matmul": matmul, "embedding": embedding,
    "conv_forward": conv_forward, "conv_input_grad": _conv_grad(0), "conv_weight_grad": _conv_grad(1),
}  # fmt: skip


def ceilings() -> dict[str, float]:
    """GFLOP/s of the matrix product, the best of a few."""
    import time

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    out, took = torch.empty_like(a), []
    for _ in range(6):
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        took.append(time.perf_counter() - begin)
    return {"gflops": 2 * 2048**3 / min(took) / 1e9}
