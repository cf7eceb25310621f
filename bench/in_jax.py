"""How JAX does the kernels, under jit, on the CPU: KINDS[kind](variant, **args) gives a function that does it once."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax import numpy as jnp  # noqa: E402

from bench.cases import Run  # noqa: E402

VARIANTS: dict[str, tuple[str, ...]] = {}
_rng = np.random.default_rng(0)
NHWC = ("NHWC", "HWIO", "NHWC")


def _array(*shape: int, scale: float = 1.0):
    return jnp.asarray(_rng.standard_normal(shape, np.float32) * np.float32(scale))


def _both(f, *xs) -> Run:
    """Forward, and backward to every x from a fixed cotangent, as one compiled function."""
    g = _array(*jax.eval_shape(f, *xs).shape)

    @jax.jit
    def both(g, *xs):
        y, back = jax.vjp(f, *xs)
        return y, back(g)

    return lambda: jax.block_until_ready(both(g, *xs))


def conv2d(variant, *, n, side, cin, cout, k, stride=1, padding=0, groups=1) -> Run:
    pads = [(padding, padding)] * 2
    return _both(lambda x, w: lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=NHWC,
                                                       feature_group_count=groups),
                 _array(n, side, side, cin), _array(k, k, cin // groups, cout, scale=0.05))


def conv_transpose2d(variant, *, n, side, cin, cout, k, stride=1, padding=0) -> Run:
    pads = [(k - 1 - padding, k - 1 - padding)] * 2
    return _both(lambda x, w: lax.conv_general_dilated(x, w[::-1, ::-1], (1, 1), pads, lhs_dilation=(stride, stride),
                                                       dimension_numbers=NHWC),
                 _array(n, side, side, cin), _array(k, k, cin, cout, scale=0.05))


def _normalise(x, axes, eps=1e-5):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(x.var(axes, keepdims=True) + eps)


def group_norm_silu(variant, *, n, side, c, groups) -> Run:
    def f(x, w, b):
        y = _normalise(x.reshape(n, side * side, groups, c // groups), (1, 3)).reshape(x.shape) * w + b
        return jax.nn.silu(y)

    return _both(f, _array(n, side, side, c), _array(c), _array(c))


def attention(variant, *, n, heads, T, d, causal) -> Run:
    def f(q, k, v):  # JAX takes N,T,heads,d
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal)

    return _both(f, *(_array(n, T, heads, d) for _ in range(3)))


def layer_norm(variant, *, rows, columns) -> Run:
    return _both(lambda x, w, b: _normalise(x, -1) * w + b, _array(rows, columns), _array(columns), _array(columns))


def batch_norm(variant, *, n, side, c) -> Run:
    return _both(lambda x, w, b: _normalise(x, (0, 1, 2)) * w + b, _array(n, side, side, c), _array(c), _array(c))


KINDS = {
    "conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "group_norm_silu": group_norm_silu, "attention": attention,
    "softmax": lambda variant, *, rows, columns: _both(jax.nn.softmax, _array(rows, columns)),
    "layer_norm": layer_norm, "batch_norm": batch_norm,
    "bias_gelu": lambda variant, *, rows, columns: _both(lambda x, b: jax.nn.gelu(x + b, approximate=False),
                                                         _array(rows, columns), _array(columns)),
    "resize": lambda variant, *, n, side, c: _both(lambda x: x.repeat(2, 1).repeat(2, 2), _array(n, side, side, c)),
    "concat": lambda variant, *, n, side, c: _both(lambda a, b: jnp.concatenate([a, b], -1), _array(n, side, side, c),
                                                   _array(n, side, side, c)),
}  # fmt: skip
