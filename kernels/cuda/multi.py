"""Many arrays on a device in one launch, and all that changes from step to step in device memory: for the optimisers.

A Board belongs to arrays that stay (parameters, moments, averages) and holds, on the device, where their pieces are,
the numbers of the coming step (`advance` writes them), and what was found of its gradients (`judge`). No kernel takes
an address or a number that changes by value, so a step that a CUDA graph has recorded can be launched again:

    host     board.advance(lr, …)          before every step, recorded or not; never while one is recorded
    device   board.judge(limit)            Σg² of every piece → norm, clip scale, verdict
             adam, sgd, rmsprop            read numbers, report and addresses; do nothing where the verdict is bad

Addresses are the one thing that the host must send: a step outside a recording copies the gradients' over if they have
moved. A recording may not copy from the host, so its kernels read a spare table, laid ready by an earlier `advance`,
and the next `advance`, which comes before the graph's first launch, fills it in. (The arrays that a graph uses stay
where they are: their memory is the graph's own.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import capturing, empty, launch, ready, zeros

FILE, PIECE, THREADS = "cuda/multi.cu", 4096, 256
REALS = {"f": "float", "d": "double"}

BUILDS: tuple[dict, ...] = ({"REAL": "float"}, {"REAL": "double"})


class Board:
    """columns: lists [p, *state] of device arrays of one length, None in the state where there is none. Arrays of one
    place have one shape and dtype, float32 or float64, and are C-contiguous. Raises ValueError or TypeError."""

    def __init__(self, kernel: str, columns: list[list]):
        from . import library as xp

        if capturing():
            raise RuntimeError(f"{kernel}: the first step of all cannot be recorded; take one before.")
        own = columns[0]
        for row in zip(*columns, strict=True):
            q = row[0]
            if q.dtype.char not in REALS:
                raise TypeError(f"{kernel} updates float32 or float64 parameters, not {q.dtype}.")
            for a in row:
                if a is not None and (a.shape != q.shape or a.dtype != q.dtype or not a.flags.c_contiguous):
                    raise ValueError(
                        f"{kernel} updates in place: parameter and state must be C-contiguous arrays of one shape and "
                        f"dtype, but the parameter is {q.shape} {q.dtype} and one is {a.shape} {a.dtype}, "
                        f"contiguous={a.flags.c_contiguous}.")
        self.kernel, self.arrays = kernel, columns
        # those of one dtype lie together: one launch for each
        self.order = sorted(range(len(own)), key=lambda k: own[k].dtype.char)
        sizes = np.array([own[k].size for k in self.order], np.int64)
        pieces = -(-sizes // PIECE)
        starts = np.zeros(len(own) + 1, np.int32)
        np.cumsum(pieces, out=starts[1:])
        owner = np.repeat(np.arange(len(own), dtype=np.int32), pieces)
        self.groups: list[tuple[str, int, int]] = []  # dtype, first piece, pieces
        for char in sorted({a.dtype.char for a in own}):
            members = [i for i, k in enumerate(self.order) if own[k].dtype.char == char]
            first, last = int(starts[members[0]]), int(starts[members[-1] + 1])
            self.groups.append((REALS[char], first, last - first))
        self.sizes, self.starts = xp.asarray(sizes), xp.asarray(starts)
        self.map = xp.asarray(np.stack([owner, np.arange(starts[-1], dtype=np.int32) - starts[owner]], axis=1))
        self.numbers, self.report = zeros((8,), np.float64), zeros((3,), np.float64)
        self.norm = self.report[0:1].reshape(())
        self.bad, self.partial = zeros((len(own),), np.uint8), empty((int(starts[-1]),), np.float64)
        self._fixed = self._addresses(columns)
        self._host: np.ndarray | None = None  # the table as it is on the device
        self._table: Any = None
        self._spare: Any = None
        self._pending: list[tuple[Any, np.ndarray]] = []
        self._recorded: list[Any] = []  # tables that graphs read

    def of(self, columns: list[list]) -> bool:
        """Is it these arrays'?"""
        return len(columns) == len(self.arrays) and all(
            len(new) == len(old) and all(a is b for a, b in zip(new, old)) for new, old in zip(columns, self.arrays))

    def follow(self, columns: list[list]) -> None:
        """The same arrays, some of them elsewhere (a parameter was assigned)."""
        if not self.of(columns):
            self.arrays, self._fixed = columns, self._addresses(columns)

    def _addresses(self, columns: list[list]) -> np.ndarray:
        return np.array([[0 if c[k] is None else c[k].data.ptr for k in self.order] for c in columns], np.uint64)

    def advance(self, *numbers: float) -> None:
        """Before each step, and each launch of a recorded one: put its numbers, lr, t, 1 − decay and the kernel's own,
        where the kernels read them; and whatever else a recorded step waits for."""
        from . import library as xp

        if capturing():
            raise RuntimeError(f"{self.kernel}: a step's numbers would be constants of the graph that is recorded.")
        eight = [float(x) for x in (*numbers, *[0.0] * 8)[:8]]
        launch(FILE, "put_numbers", (1,), 32, (self.numbers, *eight), REAL="float")
        for table, addresses in self._pending:
            table[...] = xp.asarray(addresses)
        self._pending.clear()
        if self._spare is None:
            self._spare = zeros((len(self.arrays) + 1, len(self.order)), np.uint64)

    def place(self, grads: list) -> Any:
        """The table of addresses on the device, the gradients' as row 1. They are contiguous, see `ready`."""
        from . import library as xp

        row = np.array([[grads[k].data.ptr for k in self.order]], np.uint64)
        addresses = np.concatenate([self._fixed[:1], row, self._fixed[1:]])
        if capturing():
            if self._spare is None:
                raise RuntimeError(f"{self.kernel}: the first step of all cannot be recorded; take one before.")
            table, self._spare = self._spare, None
            self._recorded.append(table)
            self._pending.append((table, addresses))
            return table
        if self._host is None or not np.array_equal(addresses, self._host):
            self._host, self._table = addresses, xp.asarray(addresses)
        return self._table

    def run(self, path: str, name: str, table: Any, *args: Any) -> None:
        """Launch a kernel over all pieces: (table, arrays, map, sizes, first, *args)."""
        for real, first, pieces in self.groups:
            where = (table, len(self.order), self.map, self.sizes, first)
            launch(path, name, (pieces,), THREADS, (*where, *args), REAL=real)

    def judge(self, table: Any, limit: float) -> None:
        """Find the gradients' norm, its scale down to `limit`, and whether all are finite: `report`, and `bad`, a flag
        for each array in `order`."""
        self.run(FILE, "squares", table, self.partial)
        launch(FILE, "verdict", (1,), 1024, (self.partial, self.starts, len(self.order), limit, self.bad, self.report),
               REAL="float")

    def verdict(self) -> tuple[float, list[int]]:
        """‖g‖ and which arrays are not finite, in the order they were given. Waits for the device."""
        norm, _, wrong = self.report.get().tolist()
        if not wrong:
            return norm, []
        bad = self.bad.get()
        return norm, sorted(k for k, odd in zip(self.order, bad) if odd) or list(self.order)


def table_of(kernel: str, memo: dict | None, p: Any, g: Any, *state: Any, numbers: tuple[float, ...]) -> tuple:
    """What a launcher of an update needs: (board, table, report, kept). An argument is an array, a list of them, or
    None. memo["board"], where there is one, is its owner's, who has judged the gradients and written the numbers;
    otherwise `numbers` are written here, and report is None."""
    columns = [[p], [g], *([a] for a in state)]
    if isinstance(p, list):
        columns = [[None] * len(p) if a is None else list(a) for a in (p, g, *state)]
    grads = []
    for q, slope in zip(columns[0], columns[1], strict=True):
        if slope.shape != q.shape or slope.dtype != q.dtype:
            found = f"{slope.shape} {slope.dtype}"
            raise ValueError(f"{kernel} got a gradient {found} for a parameter {q.shape} {q.dtype}.")
        grads.append(ready(slope))
    fixed = [columns[0], *columns[2:]]
    memo = {} if memo is None else memo
    board = memo.get("board")
    if board is not None:
        return board, memo["table"], board.report, grads
    board = memo.get("own")
    if board is None or not board.of(fixed):
        board = memo["own"] = Board(kernel, fixed)
    board.advance(*numbers)
    return board, board.place(grads), None, grads
