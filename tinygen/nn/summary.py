"""`summary(model, input_shape)`: what runs, in order, with output shapes, parameters and FLOPs."""

from __future__ import annotations

import numpy as np

from .. import tape
from ..tensor import Tensor
from . import module as module_file
from .module import Module


def summary(model: Module, *inputs, dtype=np.float32) -> str:
    """Run the model once, without recording, and return a table: a row for every layer that was called.

    inputs: for each argument of the model a shape, for which zeros are passed, or the tensor or array itself.
    FLOPs are the sum of the formulas of the operations a layer ran, its children's included (2 per multiply-add).
    """
    shapes = [isinstance(x, tuple) and all(isinstance(n, int) for n in x) for x in inputs]
    args = [Tensor(np.zeros(x, dtype)) if is_shape else x for x, is_shape in zip(inputs, shapes)]
    names = {id(m): path or type(m).__name__ for path, m in model.modules()}
    rows: list[list] = []
    stack: list[list] = []

    def enter_leave(event: str, module: Module, y) -> None:
        if event == "enter":
            row = [len(stack), names.get(id(module), "?"), module, None, 0]
            rows.append(row)
            stack.append(row)
        else:
            row = stack.pop()
            row[3] = getattr(y, "shape", [getattr(part, "shape", None) for part in y] if isinstance(y, tuple) else None)

    def count(op, arrays, y, attrs, node) -> None:
        flops = op.flops(*arrays, **attrs) if op.flops is not None else 0
        for row in stack:
            row[4] += int(flops)

    before, module_file.watcher = module_file.watcher, enter_leave
    was_training = {id(m): m.training for _, m in model.modules()}
    try:
        model.eval()
        with tape.no_grad(), tape.observe(count):
            model(*args)
    finally:
        module_file.watcher = before
        for _, m in model.modules():
            m.training = was_training[id(m)]
    table = [("layer", "output", "parameters", "FLOPs")]
    for depth, name, layer, shape, flops in rows:
        about = layer.describe()
        label = "  " * depth + f"{name}  {type(layer).__name__}" + (f"({about})" if about else "")
        table.append((label, str(shape), f"{layer.count():,}", f"{flops:,}"))
    widths = [max(len(r[i]) for r in table) for i in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in table]
    lines.insert(1, "─" * len(lines[0]))
    buffers = sum(b.size for b in model.buffers().values())
    lines.append(f"{model.count():,} parameters, {buffers:,} in buffers")
    return "\n".join(lines)
