"""A training step as one CUDA graph: `run = tg.capture(model.step)`, then `run(batch, rng)` in place of the step.

A small step is thousands of launches of a few microseconds each, and Python takes longer to ask for them than the GPU
to do them. A graph is asked for once: the first calls run as usual, one of them is recorded while nothing computes,
and from then on a call launches the recording.

What the host decided during the recording is decided for good, so whatever changes from call to call must lie in
device memory, where the host renews it before each launch:

- tensors among the arguments are copied into buffers of their own;
- the key of every random draw: its stream's step must move on evenly from call to call, and is then known ahead;
- the optimisers' numbers (learning rate, bias corrections, decay): `Optimizer.advance` writes them;
- integers that a module counts with (`saved`: its iteration) move on evenly, too.

State that the step replaces (running statistics) is copied back into the place it was read from, as the last part of
the graph. All memory the graph uses comes from a pool of its own, which nobody else is given memory from.

Whatever does not go into a graph, such as reading a value or an operation that depends on a number that Python changes,
is found by comparing three calls, or by CUDA: then a warning says what, and the step runs as it always did. What is the
same in those three calls and changes later cannot be found: such a number must be a Tensor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import backend, tape
from .modes import mode
from .nn.module import Module
from .optim import EMA, Optimizer
from .rng import Rng
from .tensor import Tensor

PATIENCE = 200  # calls that may differ from one another before capture gives up


class CaptureWarning(RuntimeWarning):
    """A step that does not go into a graph, and why; it runs operation by operation."""


def capture(step: Callable, model: Module | None = None) -> Capture:
    """The step as one CUDA graph, after a few calls; on the CPU just the step.

    step(*args) -> a Tensor or a dict, tuple or list of them and of numbers. args: Tensors, dataclasses, dicts, tuples
    and lists of them, Rngs, and anything that stays equal; NumPy arrays among them are not looked at, and a step that
    uses one must get a Tensor instead. model: the module whose state the step changes; where step is a method of a
    module, that module.

    The Tensors that come back are overwritten by the next call. A call with other shapes than were recorded, and every
    call of a step that cannot be recorded, runs operation by operation, and says so once (CaptureWarning).
    """
    owner = getattr(step, "__self__", None)
    return Capture(step, model if model is not None else owner if isinstance(owner, Module) else None)


class Capture:
    """What `capture` returns. graph: the CUDA graph once there is one; reason: why there will be none."""

    def __init__(self, step: Callable, model: Module | None):
        self.step, self.model = step, model
        self.graph: Any = None
        self.reason: str | None = None
        self.replays = 0
        self._last: _Watch | None = None
        self._tries = 0
        self._device = "cpu"
        self._stream: Any = None
        self._pool: Any = None

    def __call__(self, *args: Any) -> Any:
        inputs, fixed = _open(args)
        arrays = [t.data for t in inputs]
        if self._device == "cpu":  # until now
            self._device = self._found(inputs)
        if self._device == "cpu":
            return self.step(*args)
        if self.reason is not None:
            return self._plainly(args, inputs)
        shapes = [(a.shape, str(a.dtype)) for a in arrays]
        if self.graph is not None and self._moved():
            self.graph, self._device = None, "cpu"
            return self(*args)
        if self.graph is not None:
            if shapes == self._shapes and fixed == self._fixed:
                return self._replay(arrays)
            self._say(f"a call has other inputs, {_listed(shapes)}, than were recorded, {_listed(self._shapes)}", False)
            return self._plainly(args, inputs)
        watch = self._watched(args, inputs)
        last, self._last = self._last, watch
        why = None if last is None else watch.differs(last)
        if last is not None and why is None:
            self._record(args, inputs, shapes, fixed, watch, last)
        elif last is not None:
            self._tries += 1
            if self._tries >= PATIENCE:
                self._say(f"{why}")
        return watch.result

    def _found(self, inputs: list[Tensor]) -> str:
        """The device that the model, or an input, lies on."""
        parameters = [] if self.model is None else list(self.model.parameters().values())
        return next((t.device for t in [*parameters, *inputs] if t.device != "cpu"), "cpu")

    def _say(self, why: str, for_good: bool = True) -> None:
        if for_good:
            self.reason = why
        name = getattr(self.step, "__qualname__", repr(self.step))
        warnings.warn(f"{name} is not run as one CUDA graph: {why}.", CaptureWarning, stacklevel=3)

    def check(self) -> None:
        """Raise NonFiniteError if an update of the last launch found a gradient that is not finite, and so was none.
        Waits for the device; outside a graph, `Optimizer.step` raises by itself."""
        if self.graph is not None:
            for optimizer in self._optimizers:
                if isinstance(optimizer, Optimizer):
                    optimizer.check()

    # the calls before

    def _streamed(self) -> Any:
        """A context in which everything runs on the graph's stream and in the graph's memory."""
        stack = contextlib.ExitStack()
        stack.enter_context(self._stream)
        stack.enter_context(backend.cupy.cuda.using_allocator(self._pool.malloc))
        return stack

    def _plainly(self, args: tuple, inputs: list[Tensor]) -> Any:
        """A call operation by operation, its inputs on the device."""
        with _standing_in(inputs, [backend.move(t.data, self._device) for t in inputs]):
            return self.step(*args)

    def _watched(self, args: tuple, inputs: list[Tensor]) -> _Watch:
        """The same, with an eye on what it does."""
        watch = _Watch(self.model)
        with self._after_what_was_asked(), self._streamed(), watch.watching():
            watch.result = self._plainly(args, inputs)
        watch.finish()
        return watch

    @contextlib.contextmanager
    def _after_what_was_asked(self) -> Iterator[None]:
        """What the graph's stream does inside comes after what the caller's was asked for before, and before what it is
        asked for afterwards."""
        event, outside = backend.cupy.cuda.Event, backend.cupy.cuda.get_current_stream()
        if self._stream is None:
            self._stream, self._pool = backend.cupy.cuda.Stream(non_blocking=True), backend.cupy.cuda.MemoryPool()
        self._stream.wait_event(outside.record(event(disable_timing=True)))
        yield
        outside.wait_event(self._stream.record(event(disable_timing=True)))

    # the recording

    def _record(self, args, inputs, shapes, fixed, watch: _Watch, last: _Watch) -> None:
        """Record the step. Nothing computes meanwhile; what the host changed is put back as it was."""
        before, arrays = _State(self.model), {}
        self._buffers = [backend.move(np.empty(s, d), self._device) for s, d in shapes]
        self._keys = _Keys([(rng, name, step, step - was) for (rng, name, step), (_, _, was)
                            in zip(watch.draws, last.draws)], self._device)
        self._steps = {k: v - last.counts[k] for k, v in watch.counts.items()}
        self._began = watch.counts
        state = {} if self.model is None else {**self.model.parameters(), **self.model.buffers()}
        recorded = _Watch(self.model)
        recorded.keys = self._keys
        try:
            with self._streamed(), _standing_in(inputs, self._buffers):
                self._stream.synchronize()
                arrays = {k: t.data for k, t in state.items()}
                self._stream.begin_capture()
                try:
                    with recorded.watching():
                        self._result = self.step(*args)
                    for k, t in state.items():
                        if t.data is not arrays[k]:  # replaced: the next launch reads where this one did
                            arrays[k][...] = t.data
                            t.data = arrays[k]
                except Exception:
                    with contextlib.suppress(Exception):  # what CUDA refused has ended the capture by itself
                        self._stream.end_capture()
                    raise
                graph = self._stream.end_capture()
                recorded.finish()
            why = recorded.differs(watch) or recorded.uneven(watch, last)
            if why is not None:
                raise _Unlike(why)
        except Exception as error:  # whatever was refused: the step itself has just shown that it runs
            for k, t in state.items():
                t.data = arrays.get(k, t.data)
            before.restore()
            self._say(" ".join(str(error).split()).rstrip("."))
            return
        before.restore()
        self._optimizers, self._shapes, self._fixed = recorded.optimizers, shapes, fixed
        self._boards = [o.board for o in recorded.optimizers]
        self._state = [(t, arrays[k]) for k, t in state.items()]
        self.graph = graph
        self._last = None

    # the calls after

    def _moved(self) -> bool:
        """Has the model gone to another device since the recording, or come back from one?"""
        if any(t.data is not a and t.device != self._device for t, a in self._state):
            return True
        return any(o.board is not board for o, board in zip(self._optimizers, self._boards))

    def _calls(self) -> int:
        """How many calls after the last watched one this is: by a counter of the model, which may have been loaded
        since; by our own where it has none."""
        for (module, name), by in self._steps.items():
            if by:
                return (getattr(module, name) - self._began[module, name]) // by + 1
        return self.replays + 1

    def _replay(self, arrays: list) -> Any:
        for buffer, a in zip(self._buffers, arrays):
            if isinstance(a, np.ndarray):
                buffer.set(np.ascontiguousarray(a))
            else:
                buffer[...] = a
        for t, a in self._state:
            if t.data is not a:  # loaded, or assigned to, since: the graph reads the old place
                a[...] = backend.move(t.data, self._device)
                t.data = a
        self._keys.renew(self._calls())
        for optimizer in self._optimizers:
            optimizer.advance()
        with self._after_what_was_asked():
            self.graph.launch(self._stream)
        for (module, name), by in self._steps.items():
            setattr(module, name, getattr(module, name) + by)
        self.replays += 1
        return self._result


@contextlib.contextmanager
def _standing_in(tensors: list[Tensor], arrays: list) -> Iterator[None]:
    """Inside, the tensors hold these arrays."""
    own = [t.data for t in tensors]
    for t, a in zip(tensors, arrays):
        t.data = a
    try:
        yield
    finally:
        for t, a in zip(tensors, own):
            t.data = a


class _Unlike(Exception):
    """The recorded call did other things than the one before."""


class _Watch:
    """What one call did: operations, draws, updates, and how far its counters moved."""

    def __init__(self, model: Module | None):
        self.model, self.result = model, None
        self.operations: list[tuple] = []
        self.draws: list[tuple[Rng, str, int]] = []
        self.optimizers: list[Optimizer | EMA] = []
        self.keys: _Keys | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        before, mode.watch = mode.watch, self
        try:
            with tape.observe(self._operation):
                yield
        finally:
            mode.watch = before

    def draw(self, rng: Rng, name: str, step: int) -> Any:
        """Called by Rng for a draw on a device: the key as a number, or in a recording the place that will hold it."""
        self.draws.append((rng, name, step))
        return rng.key(name, step) if self.keys is None else self.keys.place(rng, name, len(self.draws) - 1)

    def update(self, optimizer: Optimizer | EMA) -> None:
        """Called by an optimiser that takes a step on a device, or an average that goes by itself."""
        self.optimizers.append(optimizer)

    def _operation(self, op, arrays, y, attrs, node) -> None:
        shapes = tuple([a if type(a) in (int, float, bool) else getattr(a, "shape", None) for a in arrays])
        self.operations.append((op, shapes, {k: v for k, v in attrs.items() if not backend.is_array(v)}))

    def finish(self) -> None:
        self.counts = {} if self.model is None else {
            (m, name): getattr(m, name) for _, m in self.model.modules() for name in getattr(m, "saved", ())
            if isinstance(getattr(m, name), int) and not isinstance(getattr(m, name), bool)}

    def differs(self, last: _Watch) -> str | None:
        """What this call did otherwise than the last; None if both can be one recording."""
        for (op, shapes, attrs), (op_, shapes_, attrs_) in zip(self.operations, last.operations):
            if op is not op_:
                return f"one call computed {op.name} where the one before computed {op_.name}"
            if shapes != shapes_:
                return (f"{op.name} took {_listed(shapes)} in one call and {_listed(shapes_)} in the one before; a "
                        "number that changes must be a Tensor on the device")
            if not _alike(attrs, attrs_):
                odd = [k for k in attrs if not _alike(attrs[k], attrs_.get(k))]
                return f"{op.name} had another {odd[0] if odd else 'attribute'} than in the call before"
        if len(self.operations) != len(last.operations):
            return "two calls computed a different number of operations"
        if [(r.seed, n) for r, n, _ in self.draws] != [(r.seed, n) for r, n, _ in last.draws]:
            return "two calls drew from different random streams"
        if [id(o) for o in self.optimizers] != [id(o) for o in last.optimizers]:
            return "two calls updated by different optimisers"
        if len({id(o) for o in self.optimizers}) < len(self.optimizers):
            return "an optimiser takes several steps in one call"
        return None


    def uneven(self, last: _Watch, before: _Watch) -> str | None:
        """What did not move on from `last` to this call by as much as from the call before that."""
        for (_, name, c), (_, _, b), (_, _, a) in zip(self.draws, last.draws, before.draws):
            if c - b != b - a:
                return f"the steps of the random stream {name!r} are uneven: {a}, {b}, {c}"
        for at, c in self.counts.items():
            if c - last.counts[at] != last.counts[at] - before.counts[at]:
                return f"{at[1]} counts unevenly: {before.counts[at]}, {last.counts[at]}, {c}"
        return None


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return type(a) is type(b) and a.shape == b.shape
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if backend.is_array(a) or backend.is_array(b):
        return getattr(a, "shape", None) == getattr(b, "shape", None)
    return a == b or a is b


class _Keys:
    """The keys of all draws of a call, in device memory: draw k's step goes on by strides[k] a call."""

    def __init__(self, draws: list[tuple[Rng, str, int, int]], device: str):
        self.draws = draws
        self.host = np.zeros(max(1, len(draws)), np.uint64)
        self.device = backend.move(self.host, device)

    def place(self, rng: Rng, name: str, k: int) -> Any:
        if k >= len(self.draws) or (self.draws[k][0].seed, self.draws[k][1]) != (rng.seed, name):
            raise _Unlike("two calls drew from different random streams")
        return self.device[k : k + 1]

    def renew(self, calls: int) -> None:
        """Write the keys of the draws that come `calls` calls after the one that was watched last."""
        for k, (rng, name, step, stride) in enumerate(self.draws):
            self.host[k] = rng.key(name, step + calls * stride)
        if self.draws:
            self.device.set(self.host)


class _State:
    """What the host counts with, to be put back after a recording in which nothing was computed."""

    def __init__(self, model: Module | None):
        self.kept: list[tuple[Any, dict[str, Any]]] = []
        for _, module in model.modules() if model is not None else ():
            self._keep(module)
            for _, value in module.members():
                if isinstance(value, Optimizer | EMA):
                    self._keep(value)

    def _keep(self, thing: Any) -> None:
        self.kept.append((thing, {k: v for k, v in vars(thing).items() if isinstance(v, int | float | str | None)}))

    def restore(self) -> None:
        for thing, values in self.kept:
            for k, v in values.items():
                if getattr(thing, k) is not v:
                    object.__setattr__(thing, k, v)


def _open(args: Any) -> tuple[list[Tensor], list]:
    """The Tensors in the arguments, in order, and everything else, to be compared."""
    tensors: list[Tensor] = []
    fixed: list = []

    def walk(a: Any) -> None:
        if isinstance(a, Tensor):
            tensors.append(a)
        elif isinstance(a, Rng):
            fixed.append(("rng", a.seed))
        elif dataclasses.is_dataclass(a) and not isinstance(a, type):
            for f in dataclasses.fields(a):
                value = getattr(a, f.name)
                if f.name not in ("index", "captions"):  # of a Batch: where its images come from
                    walk(value)
        elif isinstance(a, dict):
            for k in a:
                walk(a[k])
        elif isinstance(a, tuple | list):
            for v in a:
                walk(v)
        elif not isinstance(a, np.ndarray):
            fixed.append(a)

    walk(args)
    return tensors, fixed


def _listed(shapes: Any) -> str:
    return ", ".join(map(str, shapes))


__all__ = ["Capture", "CaptureWarning", "capture"]
