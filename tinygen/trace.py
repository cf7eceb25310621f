"""Where an operation was called, and what to say when it fails.

`call_site` runs at every recorded operation and therefore only notes a code object and an offset; file, line and
source text are looked up when somebody asks. `bind`, `constant` and `explain` are the slow paths of a call: other
spellings of the arguments, and the error message, built only on failure.
"""

from __future__ import annotations

import inspect
import linecache
import os
import sys
from itertools import islice
from types import FrameType
from typing import Any

import numpy as np

from . import backend
from .errors import DtypeError, ShapeError, TinygenError
from .tensor import Tensor

_ENGINE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MODELS = _ENGINE + "models" + os.sep
inside: dict[str, bool] = {}  # file name -> is it the engine's (and so not what a reader wants to see)?


def _is_inside(filename: str) -> bool:
    path = os.path.abspath(filename)
    answer = inside[filename] = path.startswith(_ENGINE) and not path.startswith(_MODELS)
    return answer


def call_site(frame: FrameType | None = None) -> tuple[Any, int] | None:
    """(code, offset) of the innermost caller outside the engine, from `frame` outwards; models count as outside."""
    frame = frame or sys._getframe(3)
    while frame is not None:
        code = frame.f_code
        name = code.co_filename
        if not (inside[name] if name in inside else _is_inside(name)):
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def location(site: tuple[Any, int] | None) -> tuple[str, int, str] | None:
    """(file as a reader would name it, line number, source text) of a call site."""
    if site is None:
        return None
    code, offset = site
    line = next(islice(code.co_positions(), offset // 2, None))[0] or code.co_firstlineno
    text = linecache.getline(code.co_filename, line).strip()
    path = os.path.abspath(code.co_filename)
    path = path[len(_ENGINE) :] if path.startswith(_MODELS) else os.path.relpath(path)
    return (os.path.basename(path) if path.startswith("..") else path), line, text


def where(node) -> str:
    """ "tanh at models/ddpm.py:118" for a recorded node."""
    found = location(node.site)
    name = node.op.name if node.op else node.name or "a leaf"
    return f"{name} at {found[0]}:{found[1]}" if found else name


def origin(t: Any) -> str:
    """Where an input came from, in a few words."""
    node = t.node if isinstance(t, Tensor) else None
    if node is None:
        return "a constant"
    if node.op is None:
        return f"parameter {node.name}" if node.name else "a leaf"
    found = location(node.site)
    return f"from {node.op.name}, {found[0]}:{found[1]}" if found else f"from {node.op.name}"


def explain(error: Exception, op, inputs, arrays, attrs) -> None:
    """Raise `error` again, saying which operation, where, what arrived and from where, and the broken rule."""
    if getattr(error, "explained", False):
        raise error
    found = location(call_site())
    here = f" at {found[0]}:{found[1]}   {found[2]}" if found else ""
    lines = [f"{op.name}{here}"]
    names = [f"{op.inputs[0]}[{i}]" for i in range(len(arrays))] if op.variadic else op.inputs
    for name, t, a in zip(names, inputs, arrays):
        if a is None:
            continue
        what = f"{tuple(a.shape)} {a.dtype}" if hasattr(a, "shape") else repr(a)
        lines.append(f"  {name} {what}   {origin(t) if hasattr(a, 'shape') else 'a number'}")
    usual = ("precision", None), ("precision", "float32")
    shown = {k: v for k, v in attrs.items() if not hasattr(v, "shape") and k != "hint" and (k, v) not in usual}
    if shown:
        lines.append("  " + ", ".join(f"{k}={v!r}" for k, v in shown.items()))
    lines.append(f"  {error}")
    if isinstance(error, TinygenError):
        kind = type(error)
    elif isinstance(error, IndexError):
        kind = type("IndexError", (TinygenError, IndexError), {"__module__": "tinygen.errors"})
    else:
        kind = DtypeError if isinstance(error, TypeError) else ShapeError
    new = kind("\n".join(lines))
    new.explained = True  # type: ignore[attr-defined]
    raise new from (None if isinstance(error, TinygenError) else error)


def constant(op, t: Any) -> Any:
    """An input that is neither a Tensor nor a plain number: a NumPy scalar or array, made a Tensor."""
    if isinstance(t, Tensor) or t is None or type(t) in (int, float, bool):
        return t
    if backend.is_array(t) or isinstance(t, np.generic):
        return Tensor(t)
    raise DtypeError(f"{op.name} takes tensors, arrays and numbers, not {type(t).__name__}.")


def check_dtypes(op, inputs, arrays, y) -> None:
    """Mixed float types raise, and so does a float that NumPy would widen because it met an integer array."""
    dtypes = {a.dtype for a in arrays if hasattr(a, "dtype")}
    if len(dtypes) < 2:
        return
    floats = {d for d in dtypes if d.kind == "f"}
    if len(floats) > 1:
        rule = f"float types are not mixed: {' and '.join(sorted(map(str, floats)))} meet; cast one with .astype()."
    elif type(y) is not tuple and y.dtype.kind == "f" and y.dtype not in floats:
        others = " and ".join(sorted(str(d) for d in dtypes - floats))
        rule = (
            f"{others} with {next(iter(floats), 'float')} would widen to {y.dtype}; cast the integers with .astype()."
        )
    else:
        return
    explain(DtypeError(rule), op, inputs, arrays, {})


def bind(op, inputs: tuple, attrs: dict) -> tuple[tuple, dict]:
    """Sort out a call with inputs by keyword, attributes by position, or optional inputs left out."""
    extra = () if op.variadic else inputs[len(op.inputs) :]
    unknown = [k for k in attrs if k not in op.attrs and (op.variadic or k not in op.inputs)]
    if unknown or len(extra) > len(op.attrs):
        raise TypeError(f"{op.name}({signature(op)}) got {unknown or 'too many arguments'}.")
    attrs = attrs | dict(zip(op.attrs, extra))
    if op.variadic:
        return inputs, attrs
    bound = list(inputs[: len(op.inputs)])
    for name in op.inputs[len(bound) :]:
        if name not in attrs and name not in op.optional:
            raise TypeError(f"{op.name}({signature(op)}) needs {name}.")
        bound.append(attrs.pop(name, op.optional.get(name)))
    return tuple(bound), attrs


def signature(op) -> str:
    """The call signature of an operation, without xp."""
    parameters = list(inspect.signature(op.forward).parameters.values())[1:]
    return ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)
