"""Gradient checks: what the tape derives, against differences of the function's own values, in float64.

`check_grads` is for anybody's function; `check_ops` runs it over the cases of every operation (`tinygen check`).

The function's outputs are contracted with fixed random weights to one number f. Order 1 compares grad f with central
differences of f; order n compares the gradient of (a random contraction of the gradient of order n − 1) with central
differences of that. The difference quotient is the five-point one, f' ≈ (8Δ₁ − Δ₂)/12h with Δₖ = f(x+kh) − f(x−kh),
whose error is O(h⁴): near 1e-11 of f's scale at h = 1e-3, so that an error of one part in a million stands out.

Near a kink (relu at 0) no difference quotient means anything. The slopes from the left and from the right tell: where
they differ by more than the curvature explains, the error says "kink", with both slopes, instead of blaming the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops, tape
from ..errors import GradientError, TinygenError
from ..tensor import Tensor

STEP = 1e-3  # of the difference quotient, relative to max(1, |x|)
FULL = 64  # up to this many numbers in an input, each is checked; beyond it, a random direction is


def check_grads(fn: Callable, inputs: Any, order: int = 2, *, mode: str = "auto", rtol: float = 1e-6,
                atol: float = 1e-8, seed: int = 0) -> None:
    """Compare the gradients of fn, of all orders up to `order`, with central differences in float64.

    fn(*inputs) -> Tensor or tuple of Tensors, of any shapes. inputs: a list of arrays or Tensors, or a dict of them
    (then fn is called with keywords), or one of them; floats are converted to float64 and differentiated, everything
    else is passed as it is. mode: "full" checks every number of every input, "direction" one random direction an input
    (and finds the worst index by bisection when that fails), "auto" the first for inputs of up to 64 numbers.

    Raises GradientError naming the order, the input, the index and both values; or saying that fn is not
    deterministic, or has a kink there. Returns None if all agree within atol·scale + rtol·|value|, where scale is the
    size of the largest gradient of that input (at least 1).
    """
    if mode not in ("auto", "full", "direction"):
        raise ValueError(f"check_grads: mode is 'auto', 'full' or 'direction', not {mode!r}.")
    names, values, call = _named(fn, inputs)
    rng = np.random.default_rng(seed)
    _check_order(call, names, values, 1, order, mode, rtol, atol, rng)


def _named(fn: Callable, inputs: Any) -> tuple[list, list, Callable]:
    """(names, values with floats as float64 arrays, fn of a list of values)."""
    if isinstance(inputs, dict):
        keys = list(inputs)
        return keys, [_value(inputs[k]) for k in keys], lambda xs: fn(**dict(zip(keys, xs)))
    listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    return list(range(len(listed))), [_value(x) for x in listed], lambda xs: fn(*xs)


def _value(x: Any) -> Any:
    if isinstance(x, Tensor):
        x = x.numpy()
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return np.array(x, dtype=np.float64)
    return x


def _differentiable(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _contract(outputs: Any, weights: list[np.ndarray] | None, rng: np.random.Generator) -> tuple[Tensor, list]:
    """Σ weights·outputs, and the weights, drawn once."""
    outputs = [y for y in (outputs if isinstance(outputs, (tuple, list)) else [outputs]) if y.dtype.kind == "f"]
    for y in outputs:
        if y.dtype != np.float64:
            raise GradientError(f"check_grads works in float64, but fn gave {y.dtype}; convert its parameters with "
                                ".astype(np.float64) and its constants too.")
    if weights is None:
        weights = [rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape) for y in outputs]
        if len(outputs) == 1 and outputs[0].size == 1:
            weights = [np.ones(outputs[0].shape)]  # a single number is differentiated as it is
    total = Tensor(np.zeros(()))
    for y, w in zip(outputs, weights):
        total = total + ops.sum(y * Tensor(w))
    return total, weights


def _check_order(call, names, values, order, last, mode, rtol, atol, rng) -> None:
    which = [i for i, v in enumerate(values) if _differentiable(v)]
    if not which:
        return
    _, weights = _contract(call([_tensor(v) for v in values]), None, rng)

    def f(arrays: list) -> float:
        return float(_contract(call([_tensor(v, order > 1) for v in arrays]), weights, rng)[0].data)

    if f(values) != f(values):
        if np.isnan(f(values)):
            raise GradientError(f"fn gives NaN at these inputs (order {order}).")
        raise GradientError("fn is not deterministic: two calls with the same inputs gave different values; draw its "
                            "randomness from a named stream at a fixed step.")
    tensors = [_tensor(v, True) for v in values]
    y, _ = _contract(call(tensors), weights, rng)
    grads = _grads(y, [tensors[i] for i in which], create_graph=False)
    for i, g in zip(which, grads):
        _compare(f, values, i, names[i], g, order, mode, rtol, atol, rng)
    if order == last:
        return

    def gradient(xs: list) -> tuple:
        """fn of the next order: the gradients of this one, as tensors."""
        with tape.recording(True):
            again = [x if not isinstance(x, Tensor) or x.node is not None else _leaf(x) for x in xs]
            y, _ = _contract(call(again), weights, rng)
            return tuple(_grads(y, [again[i] for i in which], create_graph=True))

    _check_order(gradient, names, values, order + 1, last, mode, rtol, atol, rng)


def _tensor(v: Any, requires_grad: bool = False) -> Any:
    return Tensor(v, requires_grad=requires_grad) if _differentiable(v) else v


def _leaf(x: Tensor) -> Tensor:
    return Tensor(x.data, requires_grad=True) if x.dtype.kind == "f" else x


def _grads(y: Tensor, xs: list[Tensor], create_graph: bool) -> list[Tensor]:
    """grad, with zeros where y does not depend on x."""
    if y.node is None:
        return [Tensor(np.zeros(x.shape)) for x in xs]
    found = tape.grad(y, xs, create_graph=create_graph, allow_unused=True)
    return [Tensor(np.zeros(x.shape)) if g is None else g for x, g in zip(xs, found)]


def _compare(f, values, i, name, g: Tensor, order, mode, rtol, atol, rng) -> None:
    x, analytic = values[i], g.numpy()
    if x.size == 0:
        return
    scale = max(1.0, float(np.abs(analytic).max()))

    def along(direction: np.ndarray) -> tuple[float, Callable[[float], float]]:
        def line(s: float) -> float:
            return f([*values[:i], np.asarray(x + s * direction), *values[i + 1 :]])

        return float((analytic * direction).sum()), line

    def disagree(direction: np.ndarray) -> tuple[float, float, float, Callable]:
        """(excess over the tolerance, value of the tape, value of the differences, the line)."""
        mine, line = along(direction)
        h = STEP * max(1.0, float(np.abs(x[direction != 0]).max()))
        theirs = _five_point(line, h)
        norm = float(np.abs(direction).sum())
        return abs(mine - theirs) - atol * scale * norm - rtol * max(abs(mine), abs(theirs)), mine, theirs, line

    if mode == "full" or mode == "auto" and x.size <= FULL:
        for index in np.ndindex(x.shape):
            direction = np.zeros(x.shape)
            direction[index] = 1.0
            excess, mine, theirs, line = disagree(direction)
            if not excess <= 0:
                _blame(name, index, order, mine, theirs, line, x[index])
    else:
        direction = rng.standard_normal(x.shape)
        direction /= np.abs(direction).max()
        excess, mine, theirs, line = disagree(direction)
        if not excess <= 0:
            index = _bisect(lambda d: disagree(d), direction)
            one = np.zeros(x.shape)
            one[index] = 1.0
            excess, mine, theirs, line = disagree(one)
            _blame(name, index, order, mine, theirs, line, x[index])


def _five_point(line: Callable[[float], float], h: float) -> float:
    return (8 * (line(h) - line(-h)) - (line(2 * h) - line(-2 * h))) / (12 * h)


def _bisect(disagree: Callable, direction: np.ndarray) -> tuple:
    """The index at which the disagreement along a direction is found: halve its support, follow the worse half."""
    support = np.flatnonzero(direction)
    while len(support) > 1:
        halves = np.array_split(support, 2)
        size = []
        for half in halves:
            part = np.zeros(direction.size)
            part[half] = direction.reshape(-1)[half]
            _, mine, theirs, _ = disagree(part.reshape(direction.shape))
            size.append(abs(mine - theirs) if np.isfinite(mine - theirs) else np.inf)
        support = halves[int(size[1] > size[0])]
    return np.unravel_index(int(support[0]), direction.shape)


def _blame(name, index, order, mine, theirs, line, x) -> None:
    """Raise GradientError, as a kink if the one-sided slopes say so, as a wrong gradient otherwise."""
    index = tuple(int(k) for k in index)
    where = f"input {name!r} at index {index} (value {float(x):.6g})"
    middle = line(0.0)
    slopes = {}
    for h in (1e-4, 5e-5):  # O(h²) one-sided slopes, twice: at a kink their gap stays, at a curve it vanishes
        right = (4 * line(h) - line(2 * h) - 3 * middle) / (2 * h)
        left = -(4 * line(-h) - line(-2 * h) - 3 * middle) / (2 * h)
        slopes[h] = right - left
    gap = abs(slopes[5e-5])
    if gap > 1e-3 * max(1.0, abs(right), abs(left)) and gap > 0.5 * abs(slopes[1e-4]):
        raise GradientError(f"{where}: order {order} cannot be checked at a kink; the slope is {left:.6g} from the "
                            f"left and {right:.6g} from the right, the tape says {mine:.6g}. Move the input away.")
    near = _five_point(line, STEP / 10)  # was it the step that strode over a kink or a pole?
    if abs(near - mine) <= 1e-5 * max(1.0, abs(mine)) and abs(near - theirs) > 1e-5 * max(1.0, abs(theirs)):
        raise GradientError(f"{where}: order {order} cannot be checked, a kink lies within {2 * STEP:g} of it: "
                            f"differences with a smaller step give {near:.9g}, the tape says {mine:.9g}. Move the "
                            "input away.")
    relative = abs(mine - theirs) / max(abs(theirs), 1e-300)
    raise GradientError(f"{where}: the gradient of order {order} is {mine:.9g} by the tape but {theirs:.9g} by central "
                        f"differences (relative difference {relative:.2g}).")


# ---- every operation


@dataclass(frozen=True)
class Result:
    """The outcome of one case: op, which case, the order reached, ok, and the message if not."""

    op: str
    case: str
    order: int
    ok: bool
    message: str


def check_ops(names: Iterable[str] | None = None, *, order: int | None = None,
              report: Callable[[Result], None] | None = None) -> list[Result]:
    """Check the cases of the named operations (all by default) to the order each case states, or to `order`.

    Fused operations are checked three times: their law; their kernel's first and second gradients (impl="kernel");
    and the kernel's value against the law's. Raises GradientError for a name without a case.
    """
    results = []
    for result in _results(list(names) if names is not None else None, order):
        results.append(result)
        if report is not None:
            report(result)
    return results


def _results(names: list[str] | None, order: int | None) -> Iterator[Result]:
    from .cases import CASES

    for name in names if names is not None else sorted(CASES):
        if name not in CASES:
            raise GradientError(f"there is no case for an operation {name!r}; see tinygen/audit/cases.")
        for k, case in enumerate(CASES[name]):
            highest = case.order if order is None else min(order, case.order)
            made = tape.registry[name]
            label = f"case {k} " + " ".join(_shape(a) for a in case.inputs(k))
            label += f" {case.attrs}" if case.attrs else ""
            yield _run(name, label, highest, _check_case, case, made, k, highest)
            if made.law is not None and hasattr(made, "takes"):
                yield _run(name, label + " kernel", min(2, highest), _check_kernel, case, made, k)


def _check_case(case, made, k: int, order: int) -> None:
    check_grads(lambda *xs: made(*xs, **case.attrs), case.inputs(k), order)


def _check_kernel(case, made, k: int) -> None:
    inputs = case.inputs(k)
    check_grads(lambda *xs: made(*xs, impl="kernel", **case.attrs), inputs, min(2, case.order))
    tensors = [_tensor(_value(x)) for x in inputs]
    with tape.no_grad():
        ours, law = (made(*tensors, impl=impl, **case.attrs) for impl in ("kernel", "law"))
    for a, b in zip(*(y if isinstance(y, tuple) else (y,) for y in (ours, law))):
        error = np.abs(a.numpy() - b.numpy()).max(initial=0.0)
        if not error <= 1e-9 * max(1.0, np.abs(b.numpy()).max(initial=0.0)):
            raise GradientError(f"the kernel's value differs from the law's by {error:.3g}.")


def _run(name: str, label: str, order: int, check: Callable, *args) -> Result:
    try:
        check(*args)
    except TinygenError as error:
        return Result(name, label, order, False, str(error))
    return Result(name, label, order, True, "")


def _shape(a: Any) -> str:
    return "×".join(map(str, a.shape)) or "()" if isinstance(a, np.ndarray) else str(a)
