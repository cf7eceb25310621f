"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1). Derivation: README.md.

The seam: the functions here look at what kind of array came and hand it to the code for that device.
"""
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.kernels.cuda import is_device

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@cache
def _backend(kind: type) -> ModuleType:
    if issubclass(kind, np.ndarray):
        # Here, so that Numba is loaded by the first call and not by import.
        from tinygen.kernels.attention import cpu

        return cpu
    if is_device(kind):
        from tinygen.kernels.attention import cuda

        return cuda
    raise TypeError(
        f"the attention kernel runs on numpy arrays and was given a {kind.__module__}."
        f"{kind.__qualname__}; move the data to the cpu or the GPU in use, or use the law (impl='law')."
    )


def _module(x: Any) -> ModuleType:
    kind: Any = type(x)
    module = _backend(kind)
    if x.dtype not in _FLOATS:
        raise TypeError(f"the attention kernel takes float32 or float64, not {x.dtype}: cast the input.")
    return module


def forward(q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float,
            precision: str = "float32") -> tuple[Any, Any]:
    """y = softmax(q kᵀ · scale, over the keys that may be seen) v.

    q N,heads,Tq,d; k N,heads,Tk,d; v N,heads,Tk,dv, all float32 or all float64; mask None or bool,
    broadcastable to N,heads,Tq,Tk (True: query may attend to key). causal: query i sees key j iff j <= i +
    (Tk - Tq). A query that sees no key gives 0. Returns y N,heads,Tq,dv and the saved log-sum-exp, opaque,
    for `backward`. precision: of the products; on the CPU there is "float32" alone. Raises TypeError for other dtypes
    and kinds of array.
    """
    more = {} if precision == "float32" else {"precision": precision}
    return _module(q).forward(q, k, v, mask, causal=causal, scale=scale, **more)


def backward(
    g: Any, q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float, hint: Any,
    precision: str = "float32",
) -> tuple[Any, Any, Any]:
    """Gradients (gq, gk, gv) of sum(g·y) for q, k, v; g N,heads,Tq,dv; hint is what `forward` returned."""
    more = {} if precision == "float32" else {"precision": precision}
    return _module(q).backward(g, q, k, v, mask, causal=causal, scale=scale, hint=hint, **more)
