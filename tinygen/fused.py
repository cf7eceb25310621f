"""Kernel + law = an operation closed under differentiation.

Double backward stops being free at the first hand-written kernel: one whose saved statistics count as
constants gives a second derivative that is wrong, and raises nothing. So every kernel has a *law*: the same
maths in plain operations.

    group_norm = fused(law, forward=K.forward, vjp={("x", "w", "b"): K.backward})

- The forward kernel makes y, and may leave a hint (its statistics) for its own backward kernel.
- The backward kernel makes the gradients; it is an operation too, named `<name>_grad`, and its law is
  *derived*: the gradient of the parent's law. Differentiating it runs that law, at any order.
- Where the kernel does not apply (float64, or what `takes` refuses), and where `impl="law"` is asked for, the
  law runs.

The law is the specification, the test oracle, the float64 path, and the source of every higher derivative.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from . import tape
from .node import Node
from .tape import Op, grad, pull, recording
from .tensor import Tensor, wrap


class FusedOp(Op):
    """An Op whose forward is a kernel and whose meaning is `law`. impl="law" or impl="kernel" forces one."""

    law: Callable
    takes: Callable

    def __call__(self, *inputs, impl: str | None = None, **attrs):
        if impl not in (None, "law", "kernel"):
            raise ValueError(f"{self.name}: impl is 'law' or 'kernel', not {impl!r}.")
        if len(inputs) != self._arity or attrs and not attrs.keys() <= self._attr_names:
            inputs, attrs = tape.trace.bind(self, inputs, attrs)
        inputs = tuple([t if type(t) is Tensor else tape.trace.constant(self, t) for t in inputs])
        if impl == "law" or impl is None and not self.takes(*inputs, **attrs):
            attrs = self.defaults | attrs
            if self.prepare is not None:
                try:
                    attrs = self.prepare(*(t.data if isinstance(t, Tensor) else t for t in inputs), **attrs)
                except (ValueError, TypeError, tape.TinygenError) as error:
                    tape.trace.explain(error, self, inputs, [getattr(t, "data", t) for t in inputs], attrs)
            return self.law(*inputs, **attrs)
        return super().__call__(*inputs, **attrs)


def float32_only(*inputs, **attrs) -> bool:
    """The usual condition for a kernel: every float input is float32."""
    for t in inputs:
        if type(t) is Tensor and t.data.dtype.kind == "f" and t.data.dtype.itemsize != 4:
            return False
    return True


def fused(law: Callable, *, name: str, forward: Callable, vjp: dict[tuple[str, ...], Callable],
          flops: Callable, takes: Callable = float32_only, prepare: Callable | None = None,
          outputs: int = 1) -> FusedOp:
    """Make an operation of a law and its kernels.

    law(*tensors, **attrs) -> Tensor: the definition, in operations of the tape; its signature and docstring
    become the operation's. forward(*arrays, **attrs) -> (y, hint). vjp: {inputs: backward}, one entry, with
    backward(g, *arrays, hint=…, **attrs) -> one gradient for each of those inputs. Inputs not named there get
    none. An input whose default is None may be left out: law and kernels see None, backward returns None for
    it. takes(*tensors, **attrs): does the kernel apply? prepare(*arrays, **attrs) checks and completes attrs.
    outputs: with several, law and forward return a tuple as y, and backward's g is a tuple of as many arrays.
    """
    kernel = _with_signature(lambda xp, *arrays, **attrs: forward(*arrays, **attrs), law)
    made = FusedOp(kernel, flops=flops, prepare=prepare, name=name, hint=True)
    made.law, made.takes = law, takes
    ((names, backward),) = vjp.items()
    which = [made.inputs.index(n) for n in names]
    gradient = _gradient_op(made, which, backward, outputs)

    def rule(g, hint, inputs, attrs):
        found = iter(gradient(*(g if outputs > 1 else (g,)), *inputs, hint=hint, **attrs))
        grads = [None if inputs[i] is None else next(found) for i in which]
        return grads if len(grads) > 1 else grads[0]

    made._attach(names, _spelled_out(rule, made, ["g", "hint"]))
    return made


def _gradient_op(parent: FusedOp, which: list[int], backward: Callable, outputs: int) -> Op:
    """The operation (cotangents, inputs) -> gradients of those inputs of `which` that are there, with its law
    derived from the parent's."""
    cotangents = ["gy"] if outputs == 1 else [f"gy{k}" for k in range(outputs)]
    gy = "gy" if outputs == 1 else f"({', '.join(cotangents)})"
    inputs, attrs = ", ".join(parent.inputs), "".join(f"{a}={a}, " for a in parent.attrs)
    forward = eval(
        f"lambda xp, {', '.join(cotangents)}, {inputs}, *, {', '.join([*parent.attrs, 'hint'])}: "
        f"backward({gy}, {inputs}, {attrs}hint=hint)",
        {"backward": lambda *a, **k: tuple(gx for gx in backward(*a, **k) if gx is not None)},
    )

    def law(*tensors, hint=None, **attrs):
        """The gradient of the parent's law, as the tape derives it."""
        gs, tensors = tensors[:outputs], tensors[outputs:]
        with recording(True):
            leaves = [_own(t) for t in tensors]
            y = parent.law(*leaves, **attrs)
            there = [leaves[i] for i in which if leaves[i] is not None]
            found = _pull_all(y if outputs > 1 else (y,), gs, [t.node for t in there], create_graph=True)
        return tuple(_zeros(t) if gx is None else gx for t, gx in zip(there, found))

    forward_flops: Callable = parent.flops or (lambda *a, **k: 0)
    flops = lambda *arrays, hint=None, **attrs: 2 * forward_flops(*arrays[outputs:], **attrs)
    made = Op(forward, name=f"{parent.name}_grad", flops=flops)
    names = ", ".join(parent.inputs[i] for i in which)
    made.__doc__ = f"The gradients of {parent.name} with respect to {names}."
    made.law = law
    differentiable = [*cotangents, *(parent.inputs[i] for i in which)]

    def rule(g, inputs, attrs):
        again = tape.mode.recording  # is this gradient itself to be differentiated?
        with recording(True):
            leaves = [_own(t) for t in inputs]
            outs = law(*leaves, **attrs)
        each = [leaves[made.inputs.index(n)] for n in differentiable]
        found = iter(_pull_all(outs, g, [t.node for t in each if t is not None], create_graph=again))
        return [None if t is None else next(found) for t in each]

    made._attach(tuple(differentiable), _spelled_out(rule, made, ["g"]))
    return made


def _pull_all(ys, gs, targets: list, create_graph: bool) -> list[Tensor | None]:
    """The sum over several results of what their cotangents pull back: one walk each, through one graph."""
    total: list[Tensor | None] = [None] * len(targets)
    for y, g in zip(ys, gs):
        for k, gx in enumerate(pull(y.node, g, targets, create_graph, retain=True, through=False)):
            if gx is not None:
                before = total[k]
                total[k] = gx if before is None else before + gx
    return total


def _own(t: Any) -> Any:
    """A tensor's values under a node of their own: joined to the tensor if that is recorded, else a leaf."""
    if not isinstance(t, Tensor) or t.dtype.kind != "f":
        return t
    from .ops.elementwise import alias

    return alias(t) if t.node is not None else Tensor(t.data, requires_grad=True)


def _zeros(t: Tensor) -> Tensor:
    return wrap(tape.backend.array_module([t.data]).zeros_like(t.data), None)


def _with_signature(function: Callable, law: Callable) -> Callable:
    """`function` with xp before the parameters of `law`, so that Op reads inputs and attributes off it."""
    xp = inspect.Parameter("xp", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    function.__signature__ = inspect.Signature([xp, *inspect.signature(law).parameters.values()])  # type: ignore
    function.__doc__ = law.__doc__
    return function


def _spelled_out(rule: Callable, op: Op, first: list[str]) -> Callable:
    """A rule that asks by name for all inputs and attributes of `op`, and hands them on as two groups."""
    inputs, attrs = list(op.inputs), [a for a in op.attrs if a != "hint"]
    named = ", ".join(f"{a}={a}" for a in attrs)
    groups = f"inputs=({''.join(f'{n}, ' for n in inputs)}), attrs=dict({named})"
    code = f"lambda {', '.join([*first, *inputs, *attrs])}: rule({', '.join(first)}, {groups})"
    return eval(code, {"rule": rule})


def recompute(fn: Callable) -> Callable:
    """Activation checkpointing: run fn without keeping what its operations save, and run it again when the
    gradient passes (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Same values, same
    gradients to every order, less memory, one more forward.

    fn(*tensors, **constants) -> Tensor. Tensors that fn uses without being passed (parameters of a module)
    get their gradients too. fn must be a function of its inputs: draw its randomness from named streams.
    """

    def run(*inputs, **constants):
        if not tape.mode.recording:
            return fn(*inputs, **constants)
        with recording(True):
            mark = next(tape.numbers)
            own = [_apart(t) for t in inputs]
            y = fn(*own, **constants)
        if y.node is None or y.node.id < mark:
            return y
        outside = _outside(y.node, mark, set(_nodes(own)))
        if not outside and all(node is None for node in _nodes(inputs)):
            return y.detach()
        return wrap(y.data, _rerun_node(fn, inputs, constants, outside, y))

    return run


class _Rerun:
    """The operation of a recompute node: its one rule runs the function again and walks back through that."""

    name = "recompute"
    law = None

    def __init__(self, fn, constants, outside):
        self.fn, self.constants, self.outside = fn, constants, outside
        self.precision = tape.mode.precision

    def pulls(self, node):
        return [(tuple(range(len(node.parents))), self.rule)]

    def rule(self, node, g, i):
        again, before = tape.mode.recording, (tape.mode.replaying, tape.mode.precision)
        tape.mode.replaying, tape.mode.precision = True, self.precision
        try:
            with recording(True):
                leaves = [_apart(t) for t in node.inputs]
                y = self.fn(*leaves, **self.constants)
        finally:
            tape.mode.replaying, tape.mode.precision = before
        own = _nodes(leaves)
        targets = [n for n in own if n is not None] + self.outside
        found = iter(pull(y.node, g, targets, create_graph=again, retain=again, through=False))
        grads = [None if n is None else next(found) for n in own] + list(found)
        return tuple(grads) if len(grads) > 1 else grads[0]


def _apart(t: Any) -> Any:
    """A recorded tensor under a node of its own, to tell its use as an input from others; else t itself."""
    return _own(t) if isinstance(t, Tensor) and t.node is not None else t


def _nodes(inputs) -> list:
    return [t.node if isinstance(t, Tensor) else None for t in inputs]


def _outside(root, mark: int, own: set) -> list:
    """The nodes older than `mark` that the graph below `root` reaches, not counting ways through `own`."""
    seen, stack = {root, *own}, [root]
    found: list[Node] = []
    while stack:
        for parent in stack.pop().parents:
            if parent is None or parent in seen:
                continue
            seen.add(parent)
            (stack if parent.id > mark else found).append(parent)
    return sorted(found, key=lambda n: n.id)


def _rerun_node(fn, inputs, constants, outside, y):
    node = tape.leaf(y.shape, y.dtype)
    node.op, node.inputs = _Rerun(fn, constants, outside), list(inputs)
    node.parents = _nodes(inputs) + outside
    node.site = tape.trace.call_site()
    return node


__all__ = ["FusedOp", "float32_only", "fused", "grad", "recompute"]
