"""What the networks are made of: convolutions with ReLU, pools, and their weights as the engine wants them.

Each layer is a few operations of the engine, which can be recorded, differentiated and traced. Where nothing is
recorded and nobody watches, as in a metric, bias, ReLU and pooling run as one compiled pass each, and bias and ReLU
overwrite the product that they belong to: that is a third of the time of the plain operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinygen import ops, tape
from tinygen.errors import DataError
from tinygen.modes import mode
from tinygen.tensor import Tensor

Conv = tuple[Tensor, Tensor]  # w (kh, kw, C, F), b (F,)
Arrays = Mapping[str, np.ndarray]


def alone(x: Tensor) -> bool:
    """May results be overwritten? Nothing is recorded, nobody watches, and the loops take the array."""
    return not mode.recording and tape._observer is None and isinstance(x.data, np.ndarray) and x.dtype == np.float32


def conv_relu(x: Tensor, conv: Conv, stride: int = 1, padding=0) -> Tensor:
    """max(conv(x, w) + b, 0)"""
    w, b = conv
    if not alone(x):
        return ops.relu(ops.conv2d(x, w, b, stride=stride, padding=padding))
    return bias_relu(ops.conv2d(x, w, stride=stride, padding=padding), b)


def bias_relu(y: Tensor, b: Tensor) -> Tensor:
    """max(y + b, 0); y is not to be used any more."""
    if not alone(y):
        return ops.relu(y + b)
    from . import loops

    loops.bias_relu(y.data, b.data)
    return y


def pool(x: Tensor, kind: str, size: int, stride: int, padding: int = 0, ceil: bool = False) -> Tensor:
    """kind "max", or "mean" of the pixels inside the image. ceil: a last window that begins inside the image counts
    even where it reaches beyond (PyTorch's ceil_mode)."""
    before, sides, out = (padding, padding), [], []
    for n in x.shape[1:3]:
        room = n + 2 * padding - size
        count = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (count - 1) * stride >= n + padding:
            count -= 1
        out.append(count)
        sides.append((padding, max((count - 1) * stride + size - n - padding, 0)))
    if alone(x) and min(out) > 0:
        from . import loops

        return Tensor(loops.pool(x.data, (out[0], out[1]), size, stride, before, kind == "mean"))
    if kind == "mean":
        return ops.avg_pool2d(x, size, stride, tuple(sides), count_include_pad=False)
    return ops.max_pool2d(x, size=size, stride=stride, padding=tuple(sides))


def join(parts: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Side by side along the channels: max(y + b, 0) of each (y, b), and y itself where b is None."""
    if not alone(parts[0][0]):
        return ops.concat([y if b is None else ops.relu(y + b) for y, b in parts], axis=3)
    from . import loops

    return Tensor(loops.join([(y.data, None if b is None else b.data) for y, b in parts]))


# ---- weights at the door


def take(arrays: Arrays, name: str, shape: tuple[int | None, ...], path: Path | str) -> np.ndarray:
    """arrays[name] as float64, if it is there, of that shape (None: any length) and finite. Raises DataError."""
    a = arrays.get(name)
    if a is None:
        raise DataError(f"{path} lacks {name!r}; it holds the weights of another network.")
    if a.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, a.shape)) or a.dtype.kind != "f":
        wanted = "×".join("?" if n is None else str(n) for n in shape)
        raise DataError(f"{path} has {name!r} as {a.dtype} {'×'.join(map(str, a.shape)) or 'number'} where the network "
                        f"needs floats {wanted}; it holds the weights of another network.")
    a = a.astype(np.float64)
    if not np.isfinite(a).all():
        raise DataError(f"{path} has {name!r} with values that are not finite; download or copy it again.")
    return a


def conv_weights(w: np.ndarray, b: np.ndarray) -> Conv:
    """PyTorch's (F, C, kh, kw) and (F,) as the engine's float32 (kh, kw, C, F) and (F,)."""
    return tuple(Tensor(np.ascontiguousarray(a, np.float32)) for a in (w.transpose(2, 3, 1, 0), b))  # type: ignore


def fold(arrays: Arrays, name: str, shape: tuple[int, int, int, int], eps: float, path: Path | str) -> Conv:
    """A convolution and the batch normalisation after it as one convolution, folded in float64:

        γ·(w∗x − mean)/√(var + eps) + β = (γ/√(var + eps) · w)∗x + (β − γ·mean/√(var + eps))

    shape (F, C, kh, kw) is the weight's. Raises DataError."""
    F = shape[:1]
    w = take(arrays, f"{name}.conv.weight", shape, path)
    beta, mean, var = (take(arrays, f"{name}.bn.{k}", F, path) for k in ("bias", "running_mean", "running_var"))
    gamma = take(arrays, f"{name}.bn.weight", F, path)
    if var.min() < 0:
        raise DataError(f"{path} has a negative variance in {name!r}; download or copy it again.")
    scale = gamma / np.sqrt(var + eps)
    return conv_weights(w * scale[:, None, None, None], beta - mean * scale)


