"""How a rule's parameter names are read: what to keep, and a call compiled once.

A rule of an operation may ask for
    g                   the cotangent of the output (a tuple of them where there are several outputs)
    y                   the output
    an input's name     that input
    an attribute        its value
    <input>_shape       metadata, for which nothing is kept
    <input>_dtype       the same, in the rule of that input
    hint                what the forward of a kernel left for its own backward (see fused.py)
    i                   the position, in an operation over any number of inputs
and for nothing else: an unknown name is an error where the rule is defined.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .tensor import wrap


class Rules:
    """The signature of a forward function and the rules attached to it; the base of Op."""

    name: str
    hint: bool

    def __init__(self, forward: Callable):
        parameters = list(inspect.signature(forward).parameters.values())[1:]  # without xp
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.attrs = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.optional = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.defaults = {k: v for k, v in self.optional.items() if k in self.attrs}
        self.rules: dict[Any, Callable | None] = {}
        self._arity = -1 if self.variadic else len(self.inputs)
        self._attr_names = set(self.attrs)
        self._pulls: list[tuple[tuple[int, ...], Callable]] = []
        self._linked = [False] * len(self.inputs)  # which inputs have a rule
        self._asked: list[set[str]] = [set() for _ in self.inputs]  # what the rule of each input asks for
        self._constant_mask = (1 << len(self.inputs)) - 1  # inputs without a rule, as bits
        self._plans: dict[int, tuple] = {}

    def vjp(self, joint: tuple[str, ...] | None = None, rule: Callable | None = None, **rules: Callable | None):
        """Attach the vector-Jacobian rules: one per input by keyword, or one `rule` that serves the inputs named in
        the tuple `joint` together and returns as many gradients. None says that the gradient is zero everywhere."""
        if joint is not None:
            assert rule is not None
            self._attach(tuple(joint), rule)
        for name, each in rules.items():
            if each is None:
                self.rules[name] = None
            else:
                self._attach((name,), each)
        return self

    def _attach(self, names: tuple[str, ...], rule: Callable) -> None:
        for name in names:
            if name not in self.inputs:
                raise TypeError(f"{self.name}.vjp: there is no input {name!r}; inputs are {self.inputs}.")
        wants = list(inspect.signature(rule).parameters)
        sources = [self._source(want, names) for want in wants]
        # One closure a rule, compiled once, so that the backward pass looks nothing up by name.
        call = eval(f"lambda n, g, i: rule({', '.join(sources)})", {"rule": rule, "wrap": wrap})
        where = tuple(self.inputs.index(name) for name in names)
        for i in where:
            self._linked[i] = True
            self._asked[i] |= {want for want, source in zip(wants, sources) if not source.endswith("].shape")}
            self._constant_mask &= ~(1 << i)
        if self.variadic:
            self._constant_mask = 0
        self.rules[names if len(names) > 1 else names[0]] = rule
        self._pulls.append((where, call))
        self._plans.clear()

    def _source(self, want: str, of: tuple[str, ...]) -> str:
        """The expression that fetches one parameter of a rule from a node `n` and its cotangent `g`."""
        base, _, kind = want.rpartition("_")
        if want == "g":
            return "g"
        if want == "y":
            return "wrap(n.output, n)"  # kept bare and wrapped again here: a node never refers to itself
        if want == "hint" and self.hint:
            return "n.hint"
        if want == "i" and self.variadic:
            return "i"
        if want in self.inputs:
            return "n.inputs" if self.variadic else f"n.inputs[{self.inputs.index(want)}]"
        if want in self.attrs:
            return f"n.attrs[{want!r}]"
        if base in self.inputs and kind == "shape":
            if (base,) == of and not self.variadic:
                return f"n.parents[{self.inputs.index(base)}].shape"
            return "n.shapes" if self.variadic else f"n.shapes[{self.inputs.index(base)}]"
        if (base,) == of and kind == "dtype" and not self.variadic:
            return f"n.parents[{self.inputs.index(base)}].dtype"
        raise TypeError(
            f"{self.name}.vjp: the rule of {', '.join(of)} asks for {want!r}; it may ask for g, y, inputs "
            f"{self.inputs}, attributes {self.attrs}, <input>_shape, <input>_dtype."
        )

    def plan(self, mask: int) -> tuple:
        """What to keep when the inputs in the bit mask need a gradient: (inputs -> those kept, or None; y?; shapes?).

        Another input's shape is kept; an input's own shape and dtype are on its node already.
        """
        if mask not in self._plans:
            asked: set[str] = set()
            for i, wants in enumerate(self._asked):
                if self.variadic or mask >> i & 1:
                    asked |= wants
            kept = [f"t[{i}]" if name in asked else "None" for i, name in enumerate(self.inputs)]
            keep = None
            if any(k != "None" for k in kept):
                keep = (lambda t: t) if self.variadic or "None" not in kept else eval(f"lambda t: ({', '.join(kept)},)")
            self._plans[mask] = keep, "y" in asked, any(f"{name}_shape" in asked for name in self.inputs)
        return self._plans[mask]

    def pulls(self, node) -> list[tuple[tuple[int, ...], Callable]]:
        """The rules to run for a node: (positions of the inputs served, call(node, g, position))."""
        if self.variadic:
            return [((i,), self._pulls[0][1]) for i in range(len(node.parents))]
        return self._pulls
