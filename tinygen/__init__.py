"""tinygen: a small deep-learning engine whose every operation can be read, checked and traced, and the generative
image models on top of it. Start reading at tape.py."""

import importlib
import os

# Numba's libgomp would wait by spinning, should anything start it; see kernels/threads.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import backend, errors, ops  # noqa: E402
from .backend import device, devices  # noqa: E402
from .errors import (  # noqa: E402
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    DtypeError,
    GradientError,
    NonFiniteError,
    ShapeError,
    StaleGraphError,
    TinygenError,
    UnusedParameterError,
    UserError,
)
from .fused import recompute  # noqa: E402
from .kernels.memory import keep_freed  # noqa: E402
from .kernels.threads import get_threads, set_threads, single_threaded_blas  # noqa: E402
from .modes import precision  # noqa: E402
from .tape import grad, no_grad  # noqa: E402
from .tensor import Tensor  # noqa: E402

__version__ = "0.1.0"

single_threaded_blas()  # the threads are kernels/threads.py's to hand out
keep_freed()

# Imported when first used, so that `import tinygen` stays quick: they bring Numba, SciPy or Pillow with them.
_LATER = {
    "Rng": ".rng:Rng", "audit": ".audit", "capture": ".cudagraph:capture", "check": ".audit.check",
    "checkpoint": ".checkpoint", "config": ".config", "data": ".data", "kernels": ".kernels", "losses": ".losses",
    "metrics": ".metrics", "models": ".models", "nn": ".nn", "optim": ".optim", "train": ".train",
}  # fmt: skip


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module 'tinygen' has no attribute {name!r}")
    path, _, attribute = _LATER[name].partition(":")
    value = importlib.import_module(path, __name__)
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_LATER})


__all__ = [
    "CheckpointError", "ConfigError", "DataError", "DeviceError", "DtypeError", "GradientError", "NonFiniteError",
    "Rng", "ShapeError", "StaleGraphError", "Tensor", "TinygenError", "UnusedParameterError", "UserError", "audit",
    "backend", "capture", "check", "checkpoint", "config", "data", "device", "devices", "errors", "get_threads", "grad",
    "kernels", "losses", "metrics", "models", "nn", "no_grad", "ops", "optim", "precision", "recompute", "set_threads",
    "train",
]  # fmt: skip
