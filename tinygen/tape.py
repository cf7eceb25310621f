"""The tape: how an operation is recorded, and how `grad` walks the record backwards. Read this file first.

An operation is a function of arrays, with one rule per input beside it:

    @op(flops=lambda x: 6 * x.size)
    def tanh(xp, x):
        "y = tanh x"
        return xp.tanh(x)
    tanh.vjp(x=lambda g, y: g * (1 - y * y))

The forward sees arrays only (`xp` is numpy or cupy). A rule sees Tensors only, so a rule is itself recorded when
`create_graph=True`, and the gradient of a gradient comes for free, to any order. The names of a rule's parameters are
all that is kept for it: `g` the cotangent, `y` the output, an input's name, an attribute, `<input>_shape`,
`<input>_dtype`. They are read once, here, when the rule is defined; an unknown name is an error at import.

Every Node carries a number, larger than its parents' numbers: descending numbers are a topological order, so the
walk needs no recursion. A leaf that is changed in place gets a new number (`renew`); meeting a parent that is
younger than its child therefore proves that a saved value is no longer the one that was used.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend, trace
from .errors import GradientError, ShapeError, StaleGraphError, TinygenError, UnusedParameterError
from .modes import mode, no_grad, recording, replaying
from .node import FREED, OUTPUT, Leaf, Node, leaf, numbers
from .rules import Rules
from .tensor import Tensor, wrap

__all__ = ["Op", "grad", "mode", "no_grad", "observe", "op", "pull", "recording", "registry", "replaying"]

registry: dict[str, Op] = {}  # name -> Op, every operation there is
_observer: Callable | None = None  # called as observer(op, arrays, y, attrs, node) after every operation
_pulling: Node | None = None  # the node whose rule is running, for observers and error messages
ndarray, new_tensor = np.ndarray, Tensor.__new__
getframe, inside = sys._getframe, trace.inside
_number = operator.attrgetter("id")
_SCALARS = frozenset({float, int, bool})


@contextlib.contextmanager
def observe(observer: Callable):
    """Context manager: call observer(op, arrays, y, attrs, node) after every operation. The one hook of `audit`."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield observer
    finally:
        _observer = before


class Op(Rules):
    """An operation: a forward over arrays and, for each input, a rule over Tensors.

    name, inputs, attrs (keyword-only parameters of the forward), rules (input or tuple of inputs -> rule),
    flops(*arrays, **attrs) -> number, law (of a fused op: the same maths in plain ops; else None).
    """

    law: Callable | None = None

    def __init__(
        self,
        forward: Callable,
        flops: Callable | None = None,
        prepare: Callable | None = None,
        name: str | None = None,
        hint: bool = False,
    ):
        self.forward, self.flops, self.prepare, self.hint = forward, flops, prepare, hint
        self.name, self.__doc__ = name or forward.__name__, forward.__doc__
        super().__init__(forward)
        registry[self.name] = self

    def __call__(self, *inputs, **attrs):
        if len(inputs) != self._arity or attrs and not attrs.keys() <= self._attr_names:
            inputs, attrs = trace.bind(self, inputs, attrs)
        if self.defaults:
            attrs = self.defaults | attrs
        arrays, parents, mask, bit, dtype, mixed = [], [], 0, 1, None, False
        for t in inputs:
            if type(t) is Tensor:
                array, node = t.data, t.node
                if array.dtype is not dtype:
                    mixed, dtype = dtype is not None, array.dtype
                if node is not None:
                    mask |= bit
                arrays.append(array)
                parents.append(node)
            elif t is None or type(t) in _SCALARS:  # Python scalars are weak: they take the arrays' dtype
                arrays.append(t)
                parents.append(None)
            else:
                return self(*[trace.constant(self, t) for t in inputs], **attrs)
            bit += bit
        xp = np if backend.cupy is None else backend.array_module(arrays)
        try:
            if self.prepare is not None:
                attrs = self.prepare(*arrays, **attrs)
            y = self.forward(xp, *arrays, **attrs) if attrs else self.forward(xp, *arrays)
        except (ValueError, TypeError, IndexError, TinygenError) as error:
            trace.explain(error, self, inputs, arrays, attrs)
        hint = None
        if self.hint:
            y, hint = y
        if type(y) is not ndarray and type(y) is not tuple and not backend.is_array(y):
            y = np.asarray(y)  # NumPy reductions return scalars
        if mixed:
            trace.check_dtypes(self, inputs, arrays, y)
        node = None
        if mask and mode.recording:
            if mask & self._constant_mask:
                parents = [p if linked else None for p, linked in zip(parents, self._linked)]
                mask &= ~self._constant_mask
            if mask:
                node = self._record(inputs, parents, attrs, mask, y, hint)
        if _observer is not None:
            _observer(self, arrays, y, attrs, node)
        if type(y) is tuple:
            return tuple([wrap(part, node and _output(node, k)) for k, part in enumerate(y)])
        out = new_tensor(Tensor)  # wrap(y, node), spelled out: this line runs at every operation
        out.data, out.node = y, node
        return out

    def _record(self, inputs, parents, attrs, mask, y, hint) -> Node:
        keep, keep_y, keep_shapes = self._plans.get(mask) or self.plan(mask)
        node = Node()
        node.op, node.id, node.parents, node.attrs, node.hint = self, next(numbers), parents, attrs, hint
        node.inputs = keep and keep(inputs)
        node.output = y if keep_y else None
        node.shapes = [np.shape(t) if type(t) in _SCALARS else t.shape for t in inputs] if keep_shapes else None
        if type(y) is tuple:
            node.shape, node.dtype = [part.shape for part in y], y[0].dtype
        else:
            node.shape, node.dtype = y.shape, y.dtype
        frame = getframe(2)  # most calls come straight from outside the engine: no need to walk
        code = frame.f_code
        outside = inside.get(code.co_filename) is False
        node.site = (code, frame.f_lasti) if outside else trace.call_site(frame)
        return node

    def __repr__(self) -> str:
        return f"<op {self.name}({', '.join(self.inputs)}{' | ' if self.attrs else ''}{', '.join(self.attrs)})>"


def op(forward: Callable | None = None, **options):
    """Make a forward function an operation: `@op` or `@op(flops=…, prepare=…)`. See Op."""
    return Op(forward, **options) if forward is not None else lambda f: Op(f, **options)


def _output(node: Node, k: int) -> Node:
    """The node of output k of an operation with several outputs: its cotangent goes to slot k of `node`."""
    part = leaf(node.shape[k], node.dtype, Node)
    part.op, part.parents, part.attrs, part.site = OUTPUT, [node], {"k": k}, node.site
    return part


# the walk back


def grad(
    y: Tensor,
    xs,
    g: Tensor | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
    retain_graph: bool = False,
):
    """The gradient of y with respect to xs: a Tensor, a list (tuple) or a dict of them; comes back in the same form.

    g: the cotangent, of y's shape; may be left out where y is a single number. create_graph: record the gradient
    too, so that it can be differentiated again. What the graph kept is freed as the walk goes by, unless
    create_graph or retain_graph. A tensor that y does not depend on raises UnusedParameterError by name, or gives
    None with allow_unused=True. Operations that lead to none of xs are not visited.
    """
    names = list(xs) if isinstance(xs, dict) else range(len(xs)) if isinstance(xs, (list, tuple)) else None
    wanted = [xs] if names is None else [xs[k] for k in names]
    for k, x in enumerate(wanted):
        if x.node is None:
            which = "" if names is None else f" {names[k]!r}"
            raise GradientError(
                f"grad: the tensor{which} {x.shape} was not made with requires_grad=True and was not "
                "computed from one that was (or was computed under no_grad, or detached)."
            )
    if g is None:
        if y.size != 1:
            raise ShapeError(
                f"grad of a result of shape {y.shape} needs its cotangent g of that shape; "
                "only a single number, such as a mean, has g = 1 by itself."
            )
        g = wrap(backend.array_module([y.data]).ones_like(y.data), None)
    elif not isinstance(g, Tensor):
        g = Tensor(g)
    if g.shape != y.shape or g.dtype != y.dtype:
        raise ShapeError(f"grad: the cotangent g is {g.shape} {g.dtype}, the result is {y.shape} {y.dtype}.")
    found = pull(y.node, g, [x.node for x in wanted], create_graph, create_graph or retain_graph)
    for k, gx in enumerate(found):
        if gx is None and not allow_unused:
            which = "" if names is None else repr(names[k])
            raise UnusedParameterError(
                f"grad: the result does not depend on {which or wanted[k].name or 'the tensor'} "
                f"{wanted[k].shape}; pass allow_unused=True to get None for it."
            )
    return found[0] if names is None else dict(zip(names, found)) if isinstance(xs, dict) else found


def pull(
    root: Node | None, g, wanted: list[Node], create_graph=False, retain=False, through=True
) -> list[Tensor | None]:
    """Pull the cotangent g of `root` back to the wanted nodes. through: go on past a wanted node to those before it."""
    global _pulling
    if root is None:
        return [None] * len(wanted)
    path, targets = _path(root, wanted, through), set(wanted)
    cotangents: dict[Node, Any] = {root: g}
    before = _pulling, mode.recording
    mode.recording = create_graph
    try:
        for node in sorted(path, key=_number, reverse=True):
            if node not in cotangents or node.op is None or not through and node in targets:
                continue
            g = cotangents[node] if node in targets else cotangents.pop(node)
            parents = node.parents
            if node.op is OUTPUT:
                cotangents.setdefault(parents[0], [None] * len(parents[0].shape))[node.attrs["k"]] = g
                continue
            if node.inputs is FREED:
                raise StaleGraphError(
                    f"grad: what {trace.where(node)} had kept was freed by an earlier grad; pass "
                    "retain_graph=True to all but the last grad through the same graph."
                )
            if type(g) is list:
                g = _fill(g, node)
            _pulling = node
            for which, rule in node.op.pulls(node):
                if len(which) == 1:
                    if parents[which[0]] in path:
                        _accumulate(cotangents, node, which[0], rule(node, g, which[0]))
                elif not path.isdisjoint([parents[i] for i in which]):
                    for i, gx in zip(which, rule(node, g, None)):
                        if parents[i] in path:
                            _accumulate(cotangents, node, i, gx)
            if not retain:
                node.free()
    finally:
        _pulling, mode.recording = before
    return [cotangents.get(node) for node in wanted]


def _accumulate(cotangents: dict, node: Node, i: int, gx: Tensor | None) -> None:
    """Add the gradient gx that `node` sends to its input i."""
    if gx is None:
        return
    parent = node.parents[i]
    if gx.data.shape != parent.shape or gx.data.dtype != parent.dtype:
        raise GradientError(
            f"the rule of {node.op.name} gave a gradient {gx.shape} {gx.dtype} for its input {i}, "
            f"which is {parent.shape} {parent.dtype}."
        )
    cotangents[parent] = cotangents[parent] + gx if parent in cotangents else gx


def _fill(g: list, node: Node) -> tuple:
    """The cotangents of an operation with several outputs; zeros for those that nothing depends on."""
    xp = backend.array_module([p.data for p in g if p is not None])
    return tuple([wrap(xp.zeros(s, node.dtype), None) if p is None else p for p, s in zip(g, node.shape)])


def _path(root: Node, wanted: list[Node], through: bool) -> set[Node]:
    """The nodes between root and the wanted ones, both included. Raises StaleGraphError if one of them had used a leaf
    that was changed since."""
    oldest = min([n.born if isinstance(n, Leaf) else n.id for n in wanted])
    stop = () if through else set(wanted)
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node in stop:
            continue
        for parent in node.parents:
            if parent is not None and parent.id >= oldest and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    path = seen.intersection(wanted)
    for node in sorted(seen, key=_number):
        if not path.isdisjoint(node.parents):
            path.add(node)
            for parent in node.parents:
                if parent is not None and parent.id > node.id:
                    raise StaleGraphError(
                        f"grad: {parent.name or 'a leaf'} {parent.shape} was changed in place after "
                        f"{trace.where(node)} had used it; take all gradients before the update."
                    )
    return path
