"""How tinygen does each kind of work: KINDS[kind](variant, **args) gives a function that does it once.

Weights count as changed before every pass, as they do in training: nothing that is derived from them may be kept.
Everything is on DEVICE; where that is a GPU, the work becomes one CUDA graph in the first calls, if CAPTURED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinygen as tg
from bench.cases import Run, runs
from tinygen import backend, config, models, nn, ops, optim
from tinygen.data import Batch

DEVICE, CAPTURED = "cpu", True
VARIANTS: dict[str, tuple[str, ...]] = {}
_rng = np.random.default_rng(0)


def _tensor(*shape: int, grad: bool = True, scale: float = 1.0) -> tg.Tensor:
    values = _rng.standard_normal(shape, np.float32)
    return tg.Tensor(backend.move(values if scale == 1.0 else values * np.float32(scale), DEVICE), requires_grad=grad)


class Held(nn.Module):
    """What a function works on that is no method of a model: the tensors, optimisers and averages given by name."""

    def __init__(self, **members: Any):
        for name, value in members.items():
            setattr(self, name, value)


def _ready(step: Callable, model: nn.Module) -> Callable:
    """The step; on a GPU a CUDA graph of it."""
    return step if DEVICE == "cpu" or not CAPTURED else tg.capture(step, model)


def _both(f, *xs: tg.Tensor) -> Run:
    """Forward, and backward to every x from a fixed cotangent."""
    xs_ = list(xs)
    with tg.no_grad():
        g = _tensor(*f(*xs).shape, grad=False)

    def run():
        for x in xs_:
            x.touch()
        return tg.grad(f(*xs), xs_, g)

    return _ready(run, Held(inputs=xs_))


def _alone(f, *xs: tg.Tensor) -> Run:
    """One operation, from which no gradient is asked."""

    def run():
        with tg.no_grad():
            return f(*xs)

    return _ready(run, Held(inputs=list(xs)))


def conv2d(variant, *, n, side, cin, cout, k, stride=1, padding=0, groups=1) -> Run:
    x, w = _tensor(n, side, side, cin), _tensor(k, k, cin // groups, cout, scale=0.05)
    return _both(lambda x, w: ops.conv2d(x, w, None, stride=stride, padding=padding, groups=groups), x, w)


def conv_transpose2d(variant, *, n, side, cin, cout, k, stride=1, padding=0) -> Run:
    x, w = _tensor(n, side, side, cin), _tensor(k, k, cin, cout, scale=0.05)
    return _both(lambda x, w: ops.conv_transpose2d(x, w, None, stride=stride, padding=padding), x, w)


def _images(n, side, cin, cout, k) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
    """(x, w, g): the input, the weights and the output's gradient of a k×k convolution that keeps the size."""
    return _tensor(n, side, side, cin), _tensor(k, k, cin, cout, scale=0.05), _tensor(n, side, side, cout)


def conv_forward(variant, *, n, side, cin, cout, k) -> Run:
    x, w, _ = _images(n, side, cin, cout, k)
    return _alone(lambda x, w: ops.conv2d(x, w, None, padding=k // 2), x, w)


def conv_input_grad(variant, *, n, side, cin, cout, k) -> Run:
    x, w, g = _images(n, side, cin, cout, k)
    return _alone(lambda g, w: ops.conv2d_input_grad(g, w, x_shape=x.shape, padding=k // 2), g, w)


def conv_weight_grad(variant, *, n, side, cin, cout, k) -> Run:
    x, w, g = _images(n, side, cin, cout, k)
    return _alone(lambda x, g: ops.conv2d_weight_grad(x, g, w_shape=w.shape, padding=k // 2), x, g)


def matmul(variant, *, m, n, k) -> Run:
    return _alone(ops.matmul, _tensor(m, k), _tensor(k, n))


def group_norm_silu(variant, *, n, side, c, groups) -> Run:
    return _both(lambda x, w, b: ops.group_norm(x, w, b, groups=groups, silu=True),
                 _tensor(n, side, side, c), _tensor(c), _tensor(c))


def attention(variant, *, n, heads, T, d, causal) -> Run:
    return _both(lambda q, k, v: ops.attention(q, k, v, causal=causal), *(_tensor(n, heads, T, d) for _ in range(3)))


def softmax(variant, *, rows, columns) -> Run:
    return _both(ops.softmax, _tensor(rows, columns))


def layer_norm(variant, *, rows, columns) -> Run:
    return _both(ops.layer_norm, _tensor(rows, columns), _tensor(columns), _tensor(columns))


def batch_norm(variant, *, n, side, c) -> Run:
    return _both(lambda x, w, b: ops.batch_norm(x, w, b)[0], _tensor(n, side, side, c), _tensor(c), _tensor(c))


def bias_gelu(variant, *, rows, columns) -> Run:
    return _both(lambda x, b: ops.gelu(x + b), _tensor(rows, columns), _tensor(columns))


def resize(variant, *, n, side, c) -> Run:
    return _both(lambda x: ops.resize_nearest(x, 2), _tensor(n, side, side, c))


def concat(variant, *, n, side, c) -> Run:
    return _both(lambda a, b: ops.concat(a, b, axis=-1), *(_tensor(n, side, side, c) for _ in range(2)))


def embedding(variant, *, rows, columns, ids) -> Run:
    chosen = tg.Tensor(backend.move(_rng.integers(0, rows, ids), DEVICE))
    return _both(lambda w: ops.embedding(w, chosen), _tensor(rows, columns))


def adam(variant, *, widths) -> Run:
    net = models.load("ddpm")(config.build(models.load("ddpm").Config, models.load("ddpm").PRESETS["paper"],
                                           {"widths": tuple(widths)}), tg.Rng(0)).net.to(DEVICE)
    params, average = net.parameters(), optim.EMA(net, 0.9999)
    optimizer = optim.Adam(params, 2e-4, ema=average)
    grads = {k: _tensor(*p.shape, grad=False, scale=1e-3) for k, p in params.items()}
    return _ready(lambda: optimizer.step(grads), Held(net=net, optimizer=optimizer, average=average))


# ---- whole steps


def model_of(name: str, settings: dict[str, Any]):
    M = models.load(name)
    return M(config.build(M.Config, None, {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}),
             tg.Rng(0)).to(DEVICE)


def _step(name: str):
    def make(variant, **settings) -> Run:
        model, rng, index = model_of(name, settings), tg.Rng(0), np.arange(settings["batch_size"])
        shape = (settings["batch_size"], settings["image_size"], settings["image_size"], settings["channels"])
        images = [_rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(8)]
        batches = [Batch(tg.Tensor(backend.move(x, DEVICE)), None, None, index) for x in images]
        step = _ready(model.step, model)
        return lambda: step(batches[model.iteration % 8], rng)

    return make


def ddim(variant, *, images, count, **settings) -> Run:
    model, rng = model_of("ddpm", settings), tg.Rng(0)
    sample = lambda: model.sample(images, rng, sampler="ddim", steps=count)
    return sample if DEVICE != "cpu" else lambda: sample().numpy()


class Block(nn.Module):
    """Group norm + SiLU, convolution 3×3, twice, added to the input."""

    def __init__(self, c: int, rng: nn.Init):
        self.norms = [nn.GroupNorm(8, c, silu=True) for _ in range(2)]
        self.convs = [nn.Conv2d(c, c, 3, padding=1, rng=rng) for _ in range(2)]

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        h = self.convs[0](self.norms[0](x))
        return x + self.convs[1](self.norms[1](h))


def blocks(variant, *, n, side, c, depth, recompute) -> Run:
    net = nn.Sequential(*[Block(c, nn.Init(tg.Rng(0), str(k))) for k in range(depth)])
    layers, x = list(net), _tensor(n, side, side, c)
    wanted = [x, *net.parameters().values()]
    size = runs(depth, recompute)

    def run():
        h = x
        for start in range(0, depth, size or depth):
            part = layers[start : start + (size or depth)]
            h = tg.recompute(lambda h, part=part: _through(part, h))(h) if size else _through(part, h)
        return tg.grad(ops.mean(ops.square(h)), wanted)

    return run


def _through(layers, h: tg.Tensor) -> tg.Tensor:
    for layer in layers:
        h = layer(h)
    return h


def inception(variant, *, n) -> Run:
    """Features of n images; its weights are those of a judge, which never change."""
    from tinygen.metrics.nets.features import BLOCK
    from tinygen.metrics.nets.inception import CONVOLUTIONS, Inception

    arrays = {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}
    for name, shape in CONVOLUTIONS.items():
        arrays[f"{name}.conv.weight"] = _rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
        for key, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            arrays[f"{name}.bn.{key}"] = np.full(shape[0], value, np.float32)
    net, x = Inception(arrays), _rng.standard_normal((n, 299, 299, 3), np.float32)

    def run():
        with tg.no_grad():
            return [net(tg.Tensor(x[i : i + BLOCK]))["2048"] for i in range(0, n, BLOCK)]

    return run


KINDS = {
    "inception": inception,
    "conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "group_norm_silu": group_norm_silu, "attention": attention,
    "softmax": softmax, "layer_norm": layer_norm, "batch_norm": batch_norm, "bias_gelu": bias_gelu, "resize": resize,
    "concat": concat, "adam": adam, "ddim": ddim, "blocks": blocks, "matmul": matmul, "embedding": embedding,
    "conv_forward": conv_forward, "conv_input_grad": conv_input_grad, "conv_weight_grad": conv_weight_grad,
    **{f"{name}_step": _step(name) for name in ("ddpm", "dcgan", "conv_vae", "gan")},
}  # fmt: skip


# ---- what only this side is asked


def ceilings() -> dict[str, float]:
    """GFLOP/s of the matrix product and bytes/s of a copy (read and written) with the threads given, the best of a few:
    what the machine can do at most."""
    import time

    from tinygen.kernels import threads

    a, b = (_rng.standard_normal((2048, 2048), np.float32) for _ in range(2))
    source, target = np.ones(1 << 25, np.float32), np.zeros(1 << 25, np.float32)
    out = np.empty_like(a)

    def copy() -> None:
        threads.share(source.size, lambda i, j: np.copyto(target[i:j], source[i:j]))

    def best(f, times: int = 6) -> float:
        took = []
        for _ in range(times):
            begin = time.perf_counter()
            f()
            took.append(time.perf_counter() - begin)
        return min(took)

    return {"gflops": 2 * 2048**3 / best(lambda: threads.matmul(a, b, out=out)) / 1e9,
            "gbytes": 2 * source.nbytes / best(copy) / 1e9}


def count(run: Run) -> dict[str, float]:
    """FLOPs and bytes of one run as the tape counts them: each operation's formula; its inputs and outputs once."""
    from tinygen import tape

    total = {"flops": 0.0, "bytes": 0.0}

    def note(op, arrays, y, attrs, node) -> None:
        total["flops"] += op.flops(*arrays, **attrs)
        total["bytes"] += moved(arrays, y)

    with tape.observe(note):
        run()
    return total


def moved(arrays, y) -> int:
    """Bytes of the inputs and outputs of an operation; 0 where the output is a view of the input."""
    outputs = y if type(y) is tuple else (y,)
    inputs = [a for a in arrays if isinstance(a, np.ndarray)]
    if len(inputs) == 1 and all(o is inputs[0] or o.base is not None and np.may_share_memory(o, inputs[0])
                                for o in outputs):
        return 0
    return sum(a.nbytes for a in inputs) + sum(o.nbytes for o in outputs)
