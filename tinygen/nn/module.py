"""Module: a plain class whose attributes are its parameters, buffers and children.

What an attribute is follows from what it holds, and names that begin with an underscore are private to the class:
- a leaf Tensor made with requires_grad=True is a parameter,
- a Tensor that nothing was recorded for is a buffer (running statistics, fixed frequencies),
- a Module, or a list, tuple or dict of them, is a child,
- anything else with state() and load() (an optimiser, an EMA) travels in the state,
- numbers named in the class attribute `saved` travel in the state too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import backend
from ..errors import CheckpointError
from ..node import leaf
from ..tensor import Tensor

watcher: Callable | None = None  # called as watcher("enter" | "leave", module, output) around every call


class Module:
    """Base of layers, networks and models. Subclasses set attributes in __init__ and define forward()."""

    training: bool = True
    saved: tuple[str, ...] = ()

    def forward(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} defines no forward().")

    def __call__(self, *args, **kwargs):
        if watcher is None:
            return self.forward(*args, **kwargs)
        watcher("enter", self, None)
        y = self.forward(*args, **kwargs)
        watcher("leave", self, y)
        return y

    # what it holds

    def members(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of every public attribute; lists, tuples and dicts of members are opened: "blocks.0"."""
        for name, value in vars(self).items():
            if not name.startswith("_"):
                yield from _open(name, value)

    def children(self) -> dict[str, Module]:
        """The modules directly below this one, by attribute name."""
        return {name: value for name, value in self.members() if isinstance(value, Module)}

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and all below it, each module once."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            stack.extend(reversed([(_join(path, name), child) for name, child in module.children().items()]))

    def parameters(self) -> dict[str, Tensor]:
        """The trainable tensors by path, "up.1.conv.w"; a shared tensor once, under its first path. Error messages
        call a parameter by the path it was last asked for by."""
        found = self._tensors(lambda t: t.node is not None and t.node.op is None)
        for path, t in found.items():
            t.node.name = path  # type: ignore[union-attr]
        return found

    def buffers(self) -> dict[str, Tensor]:
        """The tensors that are saved with the parameters but not trained, by path."""
        return self._tensors(lambda t: t.node is None)

    def _tensors(self, wanted: Callable[[Tensor], bool]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for path, module in self.modules():
            for name, value in module.members():
                if isinstance(value, Tensor) and wanted(value) and id(value) not in seen:
                    seen.add(id(value))
                    found[_join(path, name)] = value
        return found

    def count(self) -> int:
        """Number of trainable numbers."""
        return sum(p.size for p in self._tensors(lambda t: t.node is not None and t.node.op is None).values())

    # state

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a checkpoint must hold, as NumPy arrays by path (views where the tensor is on the CPU)."""
        state = {k: t.numpy() for k, t in {**self.parameters(), **self.buffers()}.items()}
        for path, module in self.modules():
            for name in module.saved:
                state[_join(path, name)] = np.asarray(getattr(module, name))
            for name, value in module.members():
                if _travels(value):
                    state.update({_join(path, f"{name}.{k}"): v for k, v in value.state().items()})
        return state

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state. Raises CheckpointError, before anything is changed, for a missing or unknown entry or
        for one of another shape."""
        tensors = {**self.parameters(), **self.buffers()}
        numbers = {_join(path, name): (module, name) for path, module in self.modules() for name in module.saved}
        others = {_join(path, n): v for path, m in self.modules() for n, v in m.members() if _travels(v)}
        groups: dict[str, dict] = {k: {} for k in others}
        unknown = []
        for key, value in state.items():
            owner = next((k for k in others if key.startswith(k + ".")), None)
            if owner is not None:
                groups[owner][key[len(owner) + 1 :]] = value
            elif key not in tensors and key not in numbers:
                unknown.append(key)
        missing = [k for k in (*tensors, *numbers) if k not in state]
        if missing or unknown:
            faults = [f"{word} {_some(keys)}" for word, keys in (("missing", missing), ("unknown", unknown)) if keys]
            raise CheckpointError(f"the state does not fit {type(self).__name__}: {'; '.join(faults)}.")
        for key, t in tensors.items():
            if state[key].shape != t.shape:
                raise CheckpointError(f"the state holds {key} of shape {state[key].shape}; this model needs {t.shape}.")
        kept = {key: {k: np.array(v) for k, v in others[key].state().items()} for key in groups}
        try:
            for key, group in groups.items():
                others[key].load(group)
        except CheckpointError:
            for key, group in kept.items():
                others[key].load(group)
            raise
        for key, t in tensors.items():
            t.assign(backend.move(np.array(state[key], dtype=t.dtype), t.device))
        for key, (module, name) in numbers.items():
            setattr(module, name, type(getattr(module, name))(np.asarray(state[key]).item()))

    # modes and places

    def train(self, on: bool = True) -> Module:
        """Training mode for this module and all below it: dropout drops, batch norm uses the batch."""
        for _, module in self.modules():
            module.training = on
        return self

    def eval(self) -> Module:
        """Evaluation mode: train(False)."""
        return self.train(False)

    def to(self, device: str) -> Module:
        """Move parameters and buffers, and the optimisers and averages of them, in place, to "cpu" or "cuda:i"."""
        self._replace(lambda a: backend.move(a, device))
        for _, module in self.modules():
            for _, value in module.members():
                if _travels(value) and hasattr(value, "to"):
                    value.to(device)
        return self

    def astype(self, dtype) -> Module:
        """Convert floating parameters and buffers, in place: float64 for gradient checks."""
        return self._replace(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def _replace(self, change: Callable) -> Module:
        for t in {**self.parameters(), **self.buffers()}.values():
            t.data = change(t.data)
            if t.node is not None:
                name, t.node = t.node.name, leaf(t.shape, t.dtype)
                t.node.name = name
        return self

    # how it looks

    def describe(self) -> str:
        """What a layer is, in a few characters after its class name; layers override it."""
        return ""

    def __repr__(self) -> str:
        rows = list(_tree(self, "", ""))
        width = max(len(left) for left, _ in rows)
        return "\n".join(f"{left:<{width}}  {count:>12,}" for left, count in rows)


class ModuleList(Module):
    """A list of modules that is a module: append, index, iterate."""

    def __init__(self, modules=()):
        self.items = list(modules)

    def append(self, module: Module) -> None:
        self.items.append(module)

    def __getitem__(self, i):
        return self.items[i]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def members(self):
        yield from ((str(i), m) for i, m in enumerate(self.items))
        yield from ((name, value) for name, value in super().members() if name.partition(".")[0] != "items")


class Sequential(ModuleList):
    """y = fₙ(… f₂(f₁(x))): modules, or plain functions of one tensor, applied in turn."""

    def __init__(self, *modules):
        super().__init__(modules)

    def forward(self, x):
        for f in self.items:
            x = f(x)
        return x


def _open(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _open(f"{name}.{i}", v)
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from _open(f"{name}.{k}", v)
    else:
        yield name, value


def _travels(value: Any) -> bool:
    return not isinstance(value, (Module, Tensor)) and hasattr(value, "state") and hasattr(value, "load")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _tree(module: Module, lead: str, name: str) -> Iterator[tuple[str, int]]:
    """Rows (text, number of parameters) of the tree below a module, for repr."""
    about = module.describe()
    own = [f"{k} {v.shape}" for k, v in module.members() if isinstance(v, Tensor)]
    label = type(module).__name__ + (f"({about})" if about else "") + (f"  {' '.join(own)}" if own else "")
    yield f"{lead}{name}{': ' if name else ''}{label}", module.count()
    children = list(module.children().items())
    inner = lead.replace("├─ ", "│  ").replace("└─ ", "   ")
    for i, (child_name, child) in enumerate(children):
        branch = "└─ " if i == len(children) - 1 else "├─ "
        yield from _tree(child, inner + branch, child_name)
