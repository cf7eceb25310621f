"""The exponential moving average of a module, in the optimiser's own pass or by itself."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from . import backend
from .errors import CheckpointError
from .kernels import cuda
from .modes import mode
from .nn.module import Module
from .tensor import Tensor


class EMA:
    """Exponential moving average of a module's parameters and floating buffers; integer buffers are copied.

    shadow ← d·shadow + (1 − d)·value with d = min(decay, (1 + n)/(10 + n)) after n updates, so that a short run does
    not average in its initial values (warm_up=False: d = decay from the start). Pass it to an optimiser to update it
    in the optimiser's own pass, or call update(). `with ema.applied():` runs the module with the averages.
    """

    def __init__(self, module: Module, decay: float = 0.999, warm_up: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay is in [0, 1), not {decay}.")
        self._module, self.decay, self.warm_up, self.updates = module, decay, warm_up, 0
        self.shadow = {k: t.data.copy() for k, t in self.tensors().items()}
        self.board: Any = None  # on a device: of what no optimiser averages

    def tensors(self) -> dict[str, Tensor]:
        """What is averaged, by name: the module's parameters and buffers."""
        return {**self._module.parameters(), **self._module.buffers()}

    def next_decay(self) -> float:
        """The d of the coming update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay

    def advance(self) -> float:
        """Count an update, whose decay this is. On a device it is written where the kernels read it, which a recorded
        update needs before every launch; an optimiser that carries the average does it."""
        decay = self.next_decay()
        self.updates += 1
        if self.board is not None:
            self.board.advance(0.0, 0.0, 1.0 - decay)
        return decay

    def follow(self, decay: float, done=(), report: Any = None) -> None:
        """Average what is not in `done`: those an optimiser has averaged already. On a device the decay is the one that
        was written last, and nothing happens where an optimiser's report says that its step was refused."""
        if all(k in done for k in self.shadow):
            return
        rest = [(self.shadow[k], t.data) for k, t in self.tensors().items() if k not in done]
        there = [(shadow, value) for shadow, value in rest if type(shadow) is not np.ndarray]
        if there:
            self._follow_there(decay, [pair for pair in there if pair[0].dtype.kind == "f"], report)
        for shadow, value in rest:
            if shadow.dtype.kind != "f":
                shadow[...] = value if report is None else backend.cupy.where(report[2] == 0, value, shadow)
            elif type(shadow) is np.ndarray:
                shadow += shadow.dtype.type(1 - decay) * (value - shadow)

    def _follow_there(self, decay: float, pairs: list, report: Any) -> None:
        if not pairs:
            return
        if self.board is None:
            from .kernels.cuda.multi import Board

            self.board = Board("EMA", [[shadow for shadow, _ in pairs]])
            self.board.advance(0.0, 0.0, 1.0 - decay)
        self.board.follow([[shadow for shadow, _ in pairs]])
        values = [cuda.ready(value) for _, value in pairs]
        self.board.run("cuda/multi.cu", "average", self.board.place(values), self.board.numbers, report)

    def update(self) -> None:
        """Average in the module's present values."""
        if mode.watch is not None:
            mode.watch.update(self)
        self.follow(0.0 if cuda.capturing() else self.advance())

    @contextlib.contextmanager
    def applied(self):
        """Context manager: the module holds its averages inside, and its own values again afterwards."""
        tensors = self.tensors()
        own = {k: t.data for k, t in tensors.items()}
        for k, t in tensors.items():
            t.data = self.shadow[k]
        try:
            yield self._module
        finally:
            for k, t in self.tensors().items():
                t.data = own[k]

    def to(self, device: str) -> EMA:
        """Move the averages, in place, to where the module is: Module.to does it for those that it holds."""
        self.shadow, self.board = {k: backend.move(a, device) for k, a in self.shadow.items()}, None
        return self

    def state(self) -> dict[str, np.ndarray]:
        shadow = {f"shadow.{k}": backend.to_numpy(a) for k, a in self.shadow.items()}
        return {"updates": np.asarray(self.updates), **shadow}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state. Raises CheckpointError if it does not fit."""
        expected = {"updates", *(f"shadow.{k}" for k in self.shadow)}
        if expected ^ set(state):
            raise CheckpointError(f"the moving average does not fit: {sorted(expected ^ set(state))[:4]}.")
        for k, a in self.shadow.items():
            shape = state[f"shadow.{k}"].shape
            if shape != a.shape:
                raise CheckpointError(f"the moving average of {k} has shape {shape}, not {a.shape}.")
        for k, a in self.shadow.items():
            a[...] = backend.move(np.array(state[f"shadow.{k}"], dtype=a.dtype), backend.device_of(a))
        self.updates = int(np.asarray(state["updates"]).item())
