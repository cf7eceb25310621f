"""Which array library computes: NumPy unless a CUDA device was asked for, CuPy from then on.

CuPy is imported the first time a device named "cuda:i" is asked for, and never otherwise; a machine without a
GPU gets one sentence. Every operation picks its library from the arrays it is given (`array_module`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import DeviceError

cupy: Any = None  # the CuPy module once a CUDA device is in use; the tape looks only at this


def array_module(arrays) -> Any:
    """numpy or cupy, by the arrays' type; mixing the two raises DeviceError. Python scalars belong to either."""
    if cupy is None:
        return np
    kinds = {isinstance(a, cupy.ndarray) for a in arrays if hasattr(a, "dtype")}
    if len(kinds) > 1:
        raise DeviceError("arrays on the CPU and on the GPU meet in one operation; move one with .to(device).")
    return cupy if kinds == {True} else np


def is_array(x: Any) -> bool:
    """True for a NumPy array or, where CuPy is in use, a CuPy array."""
    return isinstance(x, np.ndarray) or (cupy is not None and isinstance(x, cupy.ndarray))


def device_of(array: Any) -> str:
    """"cpu" or "cuda:i"."""
    return "cpu" if isinstance(array, np.ndarray) else f"cuda:{array.device.id}"


def device(name: str) -> str:
    """Check a device name, "cpu" or "cuda:i" (i defaults to 0), start CuPy if it is needed, return the full name.

    Raises DeviceError, with what to do about it, where the device does not exist.
    """
    global cupy
    if name == "cpu":
        return name
    kind, _, index = str(name).partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise DeviceError(f"unknown device {name!r}; devices are 'cpu' and 'cuda:0', 'cuda:1', ….")
    number = int(index or 0)
    try:
        import cupy as module
    except ImportError:
        raise DeviceError(
            f"device {name!r} needs CuPy, which is not installed; pip install 'tinygen[cuda12]' or "
            "'tinygen[cuda13]', to match the driver, or use --device cpu."
        ) from None
    if not module.cuda.is_available():
        raise DeviceError(f"device {name!r}: CuPy finds no CUDA device on this machine; use --device cpu.")
    count = module.cuda.runtime.getDeviceCount()
    if number >= count:
        raise DeviceError(f"device {name!r} does not exist: this machine has {count} CUDA device(s), from cuda:0.")
    cupy = module
    return f"cuda:{number}"


def move(array: Any, name: str) -> Any:
    """Copy an array to the device `name`; an array that is there already is returned as it is."""
    name = device(name)
    if device_of(array) == name:
        return array
    if name == "cpu":
        return cupy.asnumpy(array)
    with cupy.cuda.Device(int(name.split(":")[1])):
        return cupy.asarray(array)


def to_numpy(array: Any) -> np.ndarray:
    """The array's values as a NumPy array (a copy only if they are on a GPU)."""
    return array if isinstance(array, np.ndarray) else np.asarray(array) if cupy is None else cupy.asnumpy(array)


def devices() -> list[str]:
    """The devices of this machine, "cpu" first. Never raises."""
    try:
        import cupy as module

        count = module.cuda.runtime.getDeviceCount() if module.cuda.is_available() else 0
    except Exception:  # a broken driver must not break `tinygen list`
        count = 0
    return ["cpu", *(f"cuda:{i}" for i in range(count))]
