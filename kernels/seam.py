"""The seam of a kernel: which code computes on an array, `cpu.py` or `cuda.py` of its folder, by what kind it is."""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from .cuda import is_device

_ON_CPU = (np.dtype(np.float32), np.dtype(np.float64))
_ON_DEVICE = (np.dtype(np.float32),)


class Seam:
    """seam(x): the module of kernels/`name` for x, imported when it is first asked for, so that Numba is loaded by the
    first call and not by import. Raises TypeError for other dtypes than float32 (and on the CPU float64), and for other
    kinds of arrays."""

    def __init__(self, name: str):
        self.name = name
        self._found: dict[type, tuple[ModuleType, tuple]] = {}

    def __call__(self, x: Any) -> ModuleType:
        kind = type(x)
        if kind not in self._found:
            self.of(kind)
        module, dtypes = self._found[kind]
        if x.dtype not in dtypes:
            needs = " or ".join(map(str, dtypes))
            raise TypeError(f"{self.name} takes {needs}, not {x.dtype}: cast it, or use the law (impl='law').")
        return module

    def of(self, kind: type) -> ModuleType:
        """The module for arrays of this type, whatever is in them."""
        if kind not in self._found:
            if issubclass(kind, np.ndarray):
                self._found[kind] = import_module(f"tinygen.kernels.{self.name}.cpu"), _ON_CPU
            elif is_device(kind):
                self._found[kind] = import_module(f"tinygen.kernels.{self.name}.cuda"), _ON_DEVICE
            else:
                raise TypeError(f"{self.name} computes on NumPy's arrays and those of a device in use, and was given "
                                f"a {kind.__module__}.{kind.__qualname__}.")
        return self._found[kind][0]
