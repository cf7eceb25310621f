"""Dropout, with its noise drawn from a named stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ShapeError
from ..tensor import Tensor
from .elementwise import mul

if TYPE_CHECKING:
    from ..rng import Rng


def dropout(x: Tensor, p: float, rng: Rng, name: str, step: int) -> Tensor:
    """y = x · keep / (1 − p), keep 0 with probability p and else 1, so that E y = x (Srivastava et al. 2014,
    §10; Hinton et al. 2012).

    x any shape, float. The stream (rng, name, step) decides keep: the same three give the same y, on a second
    run of `recompute` too. Raises ShapeError unless 0 ≤ p < 1.
    """
    if not 0 <= p < 1:
        raise ShapeError(f"dropout needs 0 ≤ p < 1; got {p!r}.")
    if p == 0:
        return x
    keep = rng.uniform(name, step, x.shape, device=x.device).data >= p
    return mul(x, Tensor(keep.astype(x.dtype) * x.dtype.type(1 / (1 - p))))


__all__ = ["dropout"]
