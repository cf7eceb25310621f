"""Which array library computes: NumPy unless a CUDA device was asked for, CuPy from then on.

CuPy is imported the first time a device named "cuda:i" is asked for, and never otherwise; a machine without a
GPU gets one sentence. Every operation picks its library from the arrays it is given (`array_module`).

TINYGEN_CUDA=emulated in the environment makes "cuda:0" the CPU's emulation of a GPU (kernels/cuda/emulated.py): the
same CUDA sources and the same rules, for tests and for study, slowly.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np

from .errors import DeviceError
from .kernels import cuda

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
    if cupy is not None and number == 0:
        return f"cuda:{number}"
    try:
        module = _library()
    except ImportError:
        raise DeviceError(
            f"device {name!r} needs CuPy, which is not installed; pip install 'tinygen[cuda12]' or "
            "'tinygen[cuda13]', to match the driver, or use --device cpu."
        ) from None
    if not module.cuda.is_available():
        missing = "the emulated device finds no g++" if _emulated() else "CuPy finds no CUDA device"
        raise DeviceError(f"device {name!r}: {missing} on this machine; use --device cpu.")
    count = module.cuda.runtime.getDeviceCount()
    if number >= count:
        raise DeviceError(f"device {name!r} does not exist: this machine has {count} CUDA device(s), from cuda:0.")
    cupy = module
    cuda.use(module)
    return f"cuda:{number}"


def forget() -> None:
    """Be as before a device was first asked for. For tests: arrays on the device are of no use afterwards."""
    global cupy
    cupy = None
    cuda.use(None)


def _emulated() -> bool:
    return os.environ.get("TINYGEN_CUDA", "") == "emulated"


def _library() -> Any:
    """CuPy, or its stand-in. Raises ImportError."""
    if _emulated():
        from .kernels.cuda import emulated

        return emulated
    import cupy as module

    return module


def special() -> Any:
    """The device's special functions: cupyx.scipy.special, or the stand-in's."""
    if hasattr(cupy, "special"):
        return cupy.special
    from cupyx.scipy import special as module

    return module


def solvers_raise() -> Any:
    """Context manager: solvers raise LinAlgError on a device too, where CuPy by itself gives NaNs."""
    if cupy is None or hasattr(cupy, "special"):
        return contextlib.nullcontext()
    from cupyx import errstate

    return errstate(linalg="raise")


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
        module = _library()
        count = module.cuda.runtime.getDeviceCount() if module.cuda.is_available() else 0
    except Exception:  # a broken driver must not break `tinygen list`
        count = 0
    return ["cpu", *(f"cuda:{i}" for i in range(count))]
