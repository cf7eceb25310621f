"""The activations on a GPU: one launch and one pass over memory each. README.md; the functions are those of cpu.py."""

from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready

PATH = "activation/cuda.cu"
BUILDS: tuple[dict, ...] = ({},)
_BLOCK = 2048  # numbers of a block


def _run(name: str, arrays: tuple, *constants: float) -> Any:
    y = empty(arrays[0].shape, np.float32)
    args = (*[ready(a) for a in arrays], y, y.size, *constants)
    launch(PATH, name, (ceildiv(y.size, _BLOCK),), 256, args)
    return y


def gated(x: Any, linear: float, cubic: float) -> Any:
    """y = x·σ(x·(linear + cubic·x²))"""
    return _run("gated", (x,), linear, cubic)


def gated_slope(g: Any, x: Any, linear: float, cubic: float) -> Any:
    """g times the derivative of that"""
    return _run("gated_slope", (g, x), linear, cubic)


def gelu(x: Any) -> Any:
    """y = x·Φ(x)"""
    return _run("gelu", (x,))


def gelu_slope(g: Any, x: Any) -> Any:
    """g·(Φ(x) + x·φ(x))"""
    return _run("gelu_slope", (g, x))


def relu(x: Any) -> Any:
    """y = max(x, 0)"""
    return _run("relu", (x,))


def gate(x: Any, by: Any, slope: float) -> Any:
    """y = x where by > 0, else slope·x; x and by of one shape"""
    return _run("gate", (x, by), slope)
