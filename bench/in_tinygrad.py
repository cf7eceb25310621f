"""How tinygrad does the kernels, under its TinyJit: KINDS[kind](variant, **args) gives a function that does it once."""

from __future__ import annotations

import os

os.environ.setdefault("DEV", "CPU")

import numpy as np  # noqa: E402
from tinygrad import Tensor, TinyJit  # noqa: E402

from bench.cases import Run  # noqa: E402

VARIANTS: dict[str, tuple[str, ...]] = {}
_rng = np.random.default_rng(0)


def _tensor(*shape: int, scale: float = 1.0) -> Tensor:
    return Tensor(_rng.standard_normal(shape, np.float32) * np.float32(scale)).realize()


def _both(f, *xs: Tensor) -> Run:
    """Forward, and backward to every x from a fixed cotangent."""
    g = _tensor(*f(*xs).shape)

    @TinyJit
    def both(g, *xs):
        y = f(*xs)
        grads = y.gradient(*xs, gradient=g)
        Tensor.realize(y, *grads)
        return [y, *grads]

    def run():
        return [t.realize() for t in both(g, *xs)][-1].numpy()[:1]  # to the end: tinygrad works behind the call

    run()
    run()  # the second call records
    return run


def conv2d(variant, *, n, side, cin, cout, k, stride=1, padding=0, groups=1) -> Run:
    return _both(lambda x, w: x.conv2d(w, None, groups, stride, 1, padding), _tensor(n, cin, side, side),
                 _tensor(cout, cin // groups, k, k, scale=0.05))


def conv_transpose2d(variant, *, n, side, cin, cout, k, stride=1, padding=0) -> Run:
    return _both(lambda x, w: x.conv_transpose2d(w, None, stride=stride, padding=padding), _tensor(n, cin, side, side),
                 _tensor(cin, cout, k, k, scale=0.05))


def group_norm_silu(variant, *, n, side, c, groups) -> Run:
    def f(x, w, b):
        y = x.reshape(n, groups, -1).layernorm(eps=1e-5).reshape(x.shape)
        return (y * w.reshape(1, c, 1, 1) + b.reshape(1, c, 1, 1)).silu()

    return _both(f, _tensor(n, c, side, side), _tensor(c), _tensor(c))


def attention(variant, *, n, heads, T, d, causal) -> Run:
    return _both(lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=causal),
                 *(_tensor(n, heads, T, d) for _ in range(3)))


KINDS = {
    "conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "group_norm_silu": group_norm_silu, "attention": attention,
    "softmax": lambda variant, *, rows, columns: _both(lambda x: x.softmax(-1), _tensor(rows, columns)),
    "layer_norm": lambda variant, *, rows, columns: _both(lambda x, w, b: x.layernorm() * w + b, _tensor(rows, columns),
                                                          _tensor(columns), _tensor(columns)),
    "concat": lambda variant, *, n, side, c: _both(lambda a, b: a.cat(b, dim=1), _tensor(n, c, side, side),
                                                   _tensor(n, c, side, side)),
}  # fmt: skip
