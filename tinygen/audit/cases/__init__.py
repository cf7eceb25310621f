"""A case for every operation: inputs of odd shapes inside its domain, away from its kinks.

`CASES[name]` lists the cases of the operation `name`; `tinygen check` and the tests differentiate each of them in
float64 to its order. An operation without a case fails `tests/test_registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CASES: dict[str, list[Case]] = {}


@dataclass(frozen=True)
class Case:
    """One call of an operation. make(rng) draws its inputs: float64 arrays are differentiated, integer and boolean
    arrays, None and numbers are passed as they are."""

    op: str
    make: Callable[[np.random.Generator], tuple]
    attrs: dict[str, Any] = field(default_factory=dict)
    order: int = 2

    def inputs(self, seed: int = 0) -> tuple:
        return self.make(np.random.default_rng(seed))


def case(name: str, *shapes, low: float | None = None, high: float | None = None, make: Callable | None = None,
         order: int = 2, **attrs: Any) -> None:
    """Register a case. Inputs are standard normal, or uniform in [low, high), of the shapes given; or make(rng)."""

    def draw(rng: np.random.Generator) -> tuple:
        if low is not None and high is not None:
            return tuple(rng.uniform(low, high, s) for s in shapes)
        return tuple(rng.standard_normal(s) for s in shapes)

    CASES.setdefault(name, []).append(Case(name, make or draw, attrs, order))


from . import (  # noqa: E402, F401  (each file registers its cases when imported)
    activations,
    attention,
    conv,
    elementwise,
    index,
    linalg,
    norm,
    pool,
    reduce,
    resample,
    shape,
)
