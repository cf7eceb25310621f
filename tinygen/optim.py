"""Optimisers, learning-rate schedules, gradient clipping and the moving average of weights.

    params = net.parameters()
    opt = Adam(params, lr=cosine(2e-4, steps=10_000, warm_up=500), clip_norm=1.0, ema=EMA(net, 0.999))
    opt.step(tg.grad(loss, params))

A step checks that every gradient is there and finite before it changes anything, then updates each parameter in one
pass over memory (kernels/adam, sgd, rmsprop), moving average included. Parameters are changed in place and marked as
changed: a graph that was recorded before the step cannot be differentiated after it.

On a device a step reads everything that changes from one to the next out of device memory (kernels/cuda/multi.py), so
that a CUDA graph may hold it. First comes `advance()`, on the host: count the step, ask the schedule, write its numbers
to the device; then kernels alone: Σg², the verdict (the clip scale, and whether all is finite), and the update, which
does nothing where it is not. At last `step` waits for the verdict, and raises as on the CPU. While a graph is recorded
(`kernels.cuda.capturing()`) `step` launches the kernels and leaves out the rest: whoever launches the graph calls
`advance()` before each launch, and `check()` after it where a bad gradient must not go unseen; `norm` is then a device
array, to be read by float(). An optimiser that is to be recorded must have taken a step before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import backend
from .ema import EMA
from .errors import CheckpointError, GradientError, NonFiniteError
from .kernels import adam, cuda, rmsprop, sgd
from .modes import mode
from .tensor import Tensor, wrap

Schedule = Callable[[int], float]


# ---- schedules: functions of the number of steps taken before, 0, 1, 2, …


def constant(lr: float, warm_up: int = 0) -> Schedule:
    """lr, after a linear rise over the first `warm_up` steps (step k of them has lr·(k+1)/warm_up)."""
    return lambda step: lr * _rise(step, warm_up)


def linear(lr: float, steps: int, warm_up: int = 0, end: float = 0.0) -> Schedule:
    """From lr down to `end` on a straight line over steps − warm_up steps, after the rise."""
    return lambda step: _rise(step, warm_up) * (lr + (end - lr) * _progress(step, warm_up, steps))


def cosine(lr: float, steps: int, warm_up: int = 0, end: float = 0.0) -> Schedule:
    """From lr down to `end` on half a cosine (Loshchilov & Hutter 2017, eq. 5 without restarts), after the rise."""
    return lambda step: _rise(step, warm_up) * (
        end + (lr - end) * (1 + math.cos(math.pi * _progress(step, warm_up, steps))) / 2
    )


def step_decay(lr: float, every: int, factor: float = 0.5, warm_up: int = 0) -> Schedule:
    """lr · factor^⌊step/every⌋, after the rise."""
    return lambda step: _rise(step, warm_up) * lr * factor ** (step // every)


def _rise(step: int, warm_up: int) -> float:
    return min(1.0, (step + 1) / warm_up) if warm_up else 1.0


def _progress(step: int, warm_up: int, steps: int) -> float:
    return min(1.0, max(0.0, (step - warm_up) / max(1, steps - warm_up)))


# ---- clipping


def global_norm(grads: dict[str, Tensor]) -> float:
    """√(Σ‖g‖²) over all gradients, summed in float64."""
    return math.sqrt(_squares([g.data for g in grads.values()]).sum()) if grads else 0.0


def clip_by_norm(grads: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
    """The gradients scaled by min(1, limit/‖g‖), ‖g‖ their global norm (Pascanu et al. 2013)."""
    if backend.array_module([g.data for g in grads.values()]) is np:
        scale = min(1.0, limit / max(global_norm(grads), 1e-12))
        return {k: wrap(g.data * g.dtype.type(scale), None) for k, g in grads.items()}
    xp, total = backend.cupy, _squares_there([g.data for g in grads.values()]).sum()
    there = xp.minimum(limit / xp.maximum(xp.sqrt(total), 1e-12), 1.0)  # never on the host: a graph may hold it
    return {k: wrap(g.data * there.astype(g.dtype), None) for k, g in grads.items()}


def clip_by_value(grads: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
    """The gradients with every number clipped to [−limit, limit]."""
    return {k: wrap(g.data.clip(-limit, limit), None) for k, g in grads.items()}


def _squares(arrays: list) -> np.ndarray:
    """‖a‖² of each array, summed in float64."""
    if isinstance(arrays[0], np.ndarray):
        from .kernels.table import squares  # compiles with Numba: not before it is needed

        return squares(arrays)
    return backend.to_numpy(_squares_there(arrays))


def _squares_there(arrays: list) -> Any:
    """The same on a device."""
    return backend.cupy.stack([backend.cupy.square(a.astype(np.float64)).sum() for a in arrays])


# ---- optimisers


class Optimizer:
    """What the optimisers share: parameters by name, the schedule, clipping, the checks, and the state.

    params: {name: Tensor}, as Module.parameters() gives them. lr: a number or a schedule. clip_norm: scale the
    gradients down to this global norm. ema: an EMA to carry along in the same pass.
    Attributes: steps (taken so far), norm (global gradient norm of the last step, if clip_norm; of a recorded step a
    device array).
    """

    slots: tuple[str, ...] = ()
    _rows: tuple[str, ...] = ()  # of the kernel on a device: its state, in order

    def __init__(self, params: dict[str, Tensor], lr: float | Schedule, *, clip_norm: float | None = None,
                 ema: EMA | None = None):
        if not isinstance(params, dict) or not params:
            raise GradientError("an optimiser needs parameters by name: pass module.parameters().")
        for name, p in params.items():
            if p.node is None or p.node.op is not None:
                raise GradientError(f"parameter {name!r} is not a leaf made with requires_grad=True.")
        self.params, self.lr, self.clip_norm, self.ema = dict(params), lr, clip_norm, ema
        self.steps = 0
        self.norm: Any = None
        self.board: Any = None  # on a device: kernels/cuda/multi.py
        tracked = {} if ema is None else ema.tensors()
        self._averaged = {k for k, p in self.params.items() if tracked.get(k) is p}  # by the update's own pass
        xp = backend.array_module([p.data for p in params.values()])
        self._memo: dict = {}  # the kernels', of the arrays of the last step
        self.moments = {slot: {k: xp.zeros(p.shape, p.dtype) for k, p in self.params.items()} for slot in self.slots}

    def step(self, grads: dict[str, Tensor]) -> None:
        """Update every parameter from {name: gradient}, in place. Raises GradientError for a missing or foreign
        gradient and NonFiniteError for a NaN or infinity in one, both before anything is changed."""
        odd = set(self.params) ^ {k for k, g in grads.items() if g is not None}
        if odd:
            raise GradientError(f"step() needs one gradient for each parameter; these do not match: {sorted(odd)[:4]}.")
        for k, p in self.params.items():
            g = grads[k]
            if g.shape != p.shape or g.dtype != p.dtype:
                raise GradientError(f"step() got a gradient {g.shape} {g.dtype} for {k}, which is {p.shape} {p.dtype}.")
        names = list(self.params)
        for p in self.params.values():
            if not p.data.flags.c_contiguous or not getattr(p.data.flags, "writeable", True):
                p.data = p.data.copy(order="C")
        if cuda.library is not None and cuda.is_device(type(self.params[names[0]].data)):
            self._step_there(names, grads)
            return
        squares = _squares([grads[k].data for k in names])
        if not math.isfinite(squares.sum()):
            self._refuse([k for k, s in zip(names, squares) if not math.isfinite(s)])
        scale = 1.0
        if self.clip_norm is not None:
            norm = self.norm = math.sqrt(squares.sum())
            scale = min(1.0, self.clip_norm / max(norm, 1e-12))
        lr, decay = self.advance()
        self._change([grads[k].data for k in names], lr=lr, scale=scale, decay=decay, memo=self._memo)
        if self.ema is not None:
            self.ema.follow(decay, done=self._averaged)

    def advance(self) -> tuple[float, float]:
        """Count a step, and its moving average's: (its learning rate, the average's decay). On a device these and the
        bias corrections are written where the kernels read them, which a recorded step needs before every launch."""
        lr = self.lr(self.steps) if callable(self.lr) else self.lr
        self.steps += 1
        decay = 0.0 if self.ema is None else self.ema.advance()
        if self.board is not None:
            self.board.advance(*self._numbers(float(lr), decay))
            self.norm = None if self.clip_norm is None else self.board.norm  # as it will be after the launch
        return lr, decay

    def check(self) -> float:
        """After a recorded step on a device was launched: wait for it -> the gradients' norm. Raises NonFiniteError if
        the step was refused (it has been counted, but nothing was updated)."""
        norm, bad = self.board.verdict()
        if bad:
            names = list(self.params)
            self._refuse([names[k] for k in bad])
        return norm

    def _refuse(self, bad: list[str]) -> None:
        raise NonFiniteError(f"the gradient of {bad[0]} is not finite ({len(bad)} of {len(self.params)} parameters); "
                             "nothing was updated.")

    def _step_there(self, names: list[str], grads: dict[str, Tensor]) -> None:
        """A step on a device: what is launched is the same whether it is recorded or not."""
        recorded = cuda.capturing()
        if mode.watch is not None:
            mode.watch.update(self)
        moments = (list(self.moments[slot].values()) if slot in self.moments else [None] * len(names)
                   for slot in self._rows)
        columns = [[p.data for p in self.params.values()], *moments, self._average() or [None] * len(names)]
        if self.board is None:
            from .kernels.cuda.multi import Board

            self.board = Board(type(self).__name__, columns)
        board, before = self.board, (self.steps, self.norm, 0 if self.ema is None else self.ema.updates)
        board.follow(columns)
        _, decay = (0.0, 0.0) if recorded else self.advance()
        arrays = [cuda.ready(grads[k].data) for k in names]
        table = board.place(arrays)
        board.judge(table, math.inf if self.clip_norm is None else self.clip_norm)
        # the seams check t and lr: those of the step are on the board
        self._change(arrays, lr=0.0, scale=1.0, decay=0.0, memo={"board": board, "table": table})
        if recorded:
            self.norm = None if self.clip_norm is None else board.norm
        else:
            try:
                norm = self.check()
            except NonFiniteError:
                self.steps, self.norm = before[:2]
                if self.ema is not None:
                    self.ema.updates = before[2]
                raise
            self.norm = None if self.clip_norm is None else norm
        if self.ema is not None:
            self.ema.follow(decay, done=self._averaged, report=board.report)

    def _change(self, grads: list, *, lr: float, scale: float, decay: float, memo: dict) -> None:
        """Update the parameters in place, and their averages with them."""
        self._update([p.data for p in self.params.values()], grads,
                     {slot: list(group.values()) for slot, group in self.moments.items()},
                     lr=lr, scale=scale, ema=self._average(), ema_decay=decay, memo=memo)
        for p in self.params.values():
            p.touch()

    def _average(self) -> list | None:
        """The averages that the update's own pass carries along, None for a parameter without."""
        if self.ema is None:
            return None
        return [self.ema.shadow[k] if k in self._averaged else None for k in self.params]

    def _numbers(self, lr: float, decay: float) -> tuple[float, ...]:
        """What changes from step to step, as the kernel on a device reads it."""
        return lr, self.steps, 1.0 - decay

    def _update(self, p: list, g: list, moments: dict[str, list], *, lr: float, scale: float, ema: list | None,
                ema_decay: float, memo: dict) -> None:
        """Update the arrays p in place, in the order of `params`."""
        raise NotImplementedError

    def to(self, device: str) -> Optimizer:
        """Move the state, in place, to where the parameters are: Module.to does it for the optimisers that it holds."""
        self.moments = {slot: {k: backend.move(a, device) for k, a in group.items()}
                        for slot, group in self.moments.items()}
        self.board, self._memo = None, {}
        return self

    def state(self) -> dict[str, np.ndarray]:
        """Steps taken and moments, as arrays; the EMA is saved by its owner."""
        arrays = {f"{slot}.{k}": backend.to_numpy(a) for slot, group in self.moments.items() for k, a in group.items()}
        return {"steps": np.asarray(self.steps), **arrays}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state. Raises CheckpointError if it does not fit."""
        expected = {"steps", *(f"{slot}.{k}" for slot, group in self.moments.items() for k in group)}
        if expected ^ set(state):
            raise CheckpointError(f"the optimiser's state does not fit: {sorted(expected ^ set(state))[:4]}.")
        moments = [(f"{slot}.{k}", a) for slot, group in self.moments.items() for k, a in group.items()]
        for key, a in moments:
            if state[key].shape != a.shape:
                raise CheckpointError(f"the optimiser's {key} has shape {state[key].shape}, not {a.shape}.")
        for key, a in moments:
            a[...] = backend.move(np.array(state[key], dtype=a.dtype), backend.device_of(a))
        self.steps = int(np.asarray(state["steps"]).item())


class SGD(Optimizer):
    """Gradient descent with momentum and, optionally, Nesterov's look-ahead; PyTorch's form (the velocity starts as the
    first gradient; no dampening). weight_decay is an L2 penalty."""

    slots: tuple[str, ...] = ("velocity",)
    _rows = ("velocity",)

    def __init__(self, params, lr: float | Schedule = 1e-2, momentum: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0, **shared):
        if nesterov and not momentum:
            raise ValueError("SGD: Nesterov's look-ahead needs momentum > 0.")
        self.slots = ("velocity",) if momentum else ()
        super().__init__(params, lr, **shared)
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay

    def _update(self, p, g, moments, **shared) -> None:
        sgd.step(p, g, moments.get("velocity"), momentum=self.momentum, nesterov=self.nesterov,
                 weight_decay=self.weight_decay, t=self.steps, **shared)


class RMSProp(Optimizer):
    """RMSprop (Tieleman & Hinton 2012): gradients divided by √ of their running mean square, eps outside the root."""

    slots: tuple[str, ...] = ("square", "velocity")
    _rows = ("square", "velocity", "mean")

    def __init__(self, params, lr: float | Schedule = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
                 momentum: float = 0.0, weight_decay: float = 0.0, **shared):
        self.slots = ("square", "velocity") if momentum else ("square",)
        super().__init__(params, lr, **shared)
        self.alpha, self.eps, self.momentum, self.weight_decay = alpha, eps, momentum, weight_decay

    def _update(self, p, g, moments, **shared) -> None:
        rmsprop.step(p, g, moments["square"], moments.get("velocity"), alpha=self.alpha, eps=self.eps,
                     momentum=self.momentum, weight_decay=self.weight_decay, **shared)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, Algorithm 1). weight_decay is an L2 penalty added to the gradient; see AdamW."""

    slots = ("m", "v")
    _rows = slots
    decoupled = False

    def __init__(self, params, lr: float | Schedule = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, **shared):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adam: betas are in [0, 1), not {betas}.")
        super().__init__(params, lr, **shared)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def _update(self, p, g, moments, **shared) -> None:
        adam.step(p, g, moments["m"], moments["v"], beta1=self.betas[0], beta2=self.betas[1],
                  eps=self.eps, weight_decay=self.weight_decay, decoupled=self.decoupled, t=self.steps, **shared)

    def _numbers(self, lr: float, decay: float) -> tuple[float, ...]:
        from .kernels.adam.cuda import numbers

        return numbers(lr, *self.betas, self.weight_decay, self.decoupled, self.steps, decay)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p shrinks by lr·weight_decay of itself, apart from
    the moments."""

    decoupled = True

    def __init__(self, params, lr: float | Schedule = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 1e-2, **shared):
        super().__init__(params, lr, betas, eps, weight_decay, **shared)
