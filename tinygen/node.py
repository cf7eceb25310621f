"""Node: one entry of the tape. tape.py says how nodes are made and walked."""

from __future__ import annotations

import itertools
from typing import Any

numbers = itertools.count(1)
FREED: Any = object()  # stands in a node for what was kept and has been let go


class Node:
    """One recorded operation: what it was, what it came from, and what its rules asked to keep.

    op; id, larger than its parents'; parents, the nodes of the inputs (None for a constant); attrs; inputs, those that
    rules ask for; output, if a rule asks for it, as a bare array; shapes of the inputs, if asked for; hint of a kernel;
    shape and dtype of the output (a list of shapes where there are several); site of the call.
    """

    __slots__ = ("op", "id", "parents", "attrs", "inputs", "output", "shapes", "hint", "shape", "dtype", "site")
    op: Any
    id: int
    parents: Any
    attrs: dict[str, Any]
    inputs: Any
    output: Any
    shapes: Any
    hint: Any
    shape: Any
    dtype: Any
    site: tuple[Any, int] | None
    name: str | None = None

    def free(self) -> None:
        """Let go of what was kept for the rules. A node that had kept something cannot be walked again."""
        if self.inputs is not None or self.output is not None:
            self.inputs, self.output, self.hint = FREED, None, None

    def __repr__(self) -> str:
        return f"Node({self.id}: {self.op.name if self.op else 'leaf ' + (self.name or '')} {self.shape})"


class Leaf(Node):
    """The node of a tensor that gradients end at; a parameter gets its name from its module."""

    __slots__ = ("name", "born")
    name: str | None
    born: int  # its first number: nothing older depends on it, whatever `renew` has made of its number since


def leaf(shape, dtype, kind: type[Node] = Leaf) -> Any:
    """A node without an operation."""
    node = kind()
    node.op, node.id, node.parents, node.attrs = None, next(numbers), (), {}
    node.inputs = node.output = node.shapes = node.hint = node.site = None
    if isinstance(node, Leaf):
        node.name, node.born = None, node.id
    node.shape, node.dtype = shape, dtype
    return node


def renew(node: Node) -> None:
    """Mark a leaf as changed in place: graphs recorded before now are stale."""
    node.id = next(numbers)


class _Output:
    """Stands as the operation of a node that is one output of an operation with several."""

    name = "output"


OUTPUT: Any = _Output()
