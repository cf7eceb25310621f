"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1). Derivation: README.md.

The functions here hand an array to the code for its device.
"""
from typing import Any

from tinygen.kernels.seam import Seam

_module = Seam("attention")


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
