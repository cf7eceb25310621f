"""The guard: stops at the first operation that makes a NaN or an infinity out of finite numbers.

    from tinygen.audit.guard import guard

    with guard():
        model.step(batch, rng)          # NonFiniteError: log at models/vae.py:88 …

It watches every operation, of the forward and of the rules, through the tape's one hook.
- NaN where no input holds NaN is always an error.
- An infinity out of finite inputs is an error (an overflow, log 0, a division by 0) unless allow_inf=True. An
  infinity that was put in, such as the -inf of a mask, is not: `where(mask, x, -inf)` passes, and so does a
  softmax over it that comes out finite.
With allow_inf=True, for models that mean their infinities, the places where infinities arise are kept in
`guard.infinities` and named when they become a NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend, tape, trace
from ..errors import NonFiniteError


class NonFiniteOperation(NonFiniteError):
    """The guard's finding: which operation made the first number that is not finite."""


class guard:
    """Context manager; see the module. infinities: {(op, place): what happened there}, kept with
    allow_inf=True."""

    def __init__(self, allow_inf: bool = False):
        self.allow_inf = allow_inf
        self.infinities: dict[tuple[str, str], str] = {}

    def __enter__(self) -> guard:
        self._hook = tape.observe(self._watch)
        self._hook.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.__exit__(*error)

    def _watch(self, op, arrays, y, attrs, node) -> None:
        for part in y if type(y) is tuple else (y,):
            if part.dtype.kind == "f" and not backend.array_module([part]).isfinite(part).all():
                self._judge(op, arrays, part, node)

    def _judge(self, op, arrays, y, node) -> None:
        xp = backend.array_module([y])
        if not xp.isnan(y).any():
            if all(_all(xp.isfinite, a) for a in arrays):
                place, text = _describe(op, arrays, y, node, xp.isinf)
                if not self.allow_inf:
                    raise NonFiniteOperation(text)
                self.infinities.setdefault((op.name, place), text)
        elif not any(_any(xp.isnan, a) for a in arrays):
            text = _describe(op, arrays, y, node, xp.isnan)[1]
            if self.infinities and not all(_all(xp.isfinite, a) for a in arrays):
                text += "\nThe infinity came from here:\n" + list(self.infinities.values())[-1]
            raise NonFiniteOperation(text)


def _any(test, a: Any) -> bool:
    return a is not None and (not hasattr(a, "dtype") or a.dtype.kind == "f") and bool(test(a).any())


def _all(test, a: Any) -> bool:
    return a is None or (hasattr(a, "dtype") and a.dtype.kind != "f") or bool(test(a).all())


def _describe(op, arrays, y, node, test) -> tuple[str, str]:
    """(place, the whole story): operation, call site, first bad index, the inputs there, the rule
    it ran in."""
    site = node.site if node is not None else trace.call_site()
    pulling: Any = tape._pulling
    if pulling is not None:
        head = f"{op.name}, in the rule of {trace.where(pulling)}"
        site = pulling.site or site
    else:
        head = f"{op.name}"
    found = trace.location(site)
    place = f"{found[0]}:{found[1]}" if found else ""
    if found and pulling is None:
        head += f" at {place}"
    if found:
        head += f"   {found[2]}"
    values = backend.to_numpy(y)
    index = tuple(int(i) for i in np.argwhere(backend.to_numpy(test(y)))[0])
    count = int(test(y).sum())
    gave = f"  gave {values[index]} at {list(index)} of {values.shape} {values.dtype} ({count} in all), from"
    lines = [head, gave]
    parents = list(node.parents) if node is not None else [None] * len(arrays)
    names = [f"{op.inputs[0]}[{i}]" for i in range(len(arrays))] if op.variadic else op.inputs
    pointwise = op.forward.__module__.rpartition(".")[2] in ("elementwise", "activations")
    for name, a, parent in zip(names, arrays, parents):
        if a is not None:
            lines.append(f"    {name} {_value(a, index if pointwise else None, values.shape)}{_origin(parent)}")
    if pulling is not None:
        lines += [f"  {name} is one of its inputs" for name in _parameters(pulling)]
    return place, "\n".join(lines)


def _value(a: Any, index: tuple[int, ...] | None, shape: tuple[int, ...]) -> str:
    """An input's value at the bad index of an elementwise operation, its range for any other."""
    if not hasattr(a, "shape"):
        return f"= {a!r}"
    values = backend.to_numpy(a)
    if index is not None:
        return f"= {np.broadcast_to(values, shape)[index]} there, {values.shape}"
    return f"{values.shape} between {values.min()} and {values.max()}" if values.size else f"{values.shape}"


def _origin(parent) -> str:
    if parent is None or parent.op is None:
        return f", parameter {parent.name}" if parent is not None and parent.name else ""
    return f", from {trace.where(parent)}"


def _parameters(node) -> list[str]:
    return [f"parameter {p.name}" for p in node.parents if p is not None and p.op is None and p.name]
