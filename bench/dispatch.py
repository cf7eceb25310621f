"""What the tape costs: one operation on four numbers, over bare NumPy.

    python bench/dispatch.py                 once, to look at
    python -m bench --only dispatch          several times, into bench/results/dispatch.json

Chains of fifty, so that the cost of `grad` itself is shared as it is in a network; and a single operation with a grad
of its own. Each number is the smallest of 40 rounds, in microseconds an operation: what the code costs, not what else
the machine was doing. "bare" is NumPy's own call; "backward" is forward and backward, less forward.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinygen as tg  # noqa: E402
from tinygen import ops  # noqa: E402

CHAIN, ROUNDS = 50, 40
a = np.full(4, 0.5, np.float32)
c = tg.Tensor(np.full(4, 1.001, np.float32))
one = tg.Tensor(np.ones(4, np.float32))
OPERATIONS: dict[str, tuple[Callable, Callable]] = {
    "tanh": (lambda x: np.tanh(x), lambda x: ops.tanh(x)),
    "sin": (lambda x: np.sin(x), lambda x: ops.sin(x)),
    "add": (lambda x: np.add(x, c.data), lambda x: ops.add(x, c)),
    "mul": (lambda x: np.multiply(x, c.data), lambda x: ops.mul(x, c)),
    "x * c": (lambda x: x * c.data, lambda x: x * c),
    "x * 1.001": (lambda x: x * 1.001, lambda x: x * 1.001),
}


def best(run: Callable[[], object], operations: int) -> float:
    """Microseconds an operation, the smallest of the rounds."""
    smallest = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        run()
        smallest = min(smallest, time.perf_counter() - begin)
    return 1e6 * smallest / operations


def chained(f: Callable, x, n: int = CHAIN):
    for _ in range(n):
        x = f(x)
    return x


def measure_one(bare: Callable, ours: Callable) -> dict[str, float]:
    x = tg.Tensor(a, requires_grad=True)
    numpy = best(lambda: chained(bare, a), CHAIN)
    constant = best(lambda: chained(ours, tg.Tensor(a)), CHAIN)
    forward = best(lambda: chained(ours, x), CHAIN)
    both = best(lambda: tg.grad(chained(ours, x), x, one), CHAIN)
    single = best(lambda: [tg.grad(ours(x), x, one) for _ in range(CHAIN)], CHAIN)
    row = {"bare": numpy, "not recorded, over bare": constant - numpy, "forward, over bare": forward - numpy,
           "backward": both - forward, "single with its own grad": single}
    return {what: round(v, 2) for what, v in row.items()}


def measure() -> dict[str, dict[str, float]]:
    return {name: measure_one(bare, ours) for name, (bare, ours) in OPERATIONS.items()}


def main() -> None:
    table = measure()
    columns = list(next(iter(table.values())))
    print(f"{'µs':12}" + "".join(f"{c:>26}" for c in columns))
    for name, row in table.items():
        print(f"{name:12}" + "".join(f"{row[c]:>26.2f}" for c in columns))


if __name__ == "__main__":
    main()
