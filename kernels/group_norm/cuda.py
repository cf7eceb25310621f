"""Group norm (+ SiLU) on a GPU: the launches of cuda.cu. A slab, all positions of a few whole groups of a sample, stays
in one block's registers where it fits, and is cut along its positions where it does not. Tiling: README.md."""

from typing import Any, NamedTuple

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready, zeros

PATH = "group_norm/cuda.cu"
BUILDS: tuple[dict, ...] = tuple({"WIDE": v, "SILU": s} for v in (1, 4) for s in (0, 1))

_MOST = 256  # channels of a tile, as in cuda.cu
_HELD = 8  # positions a thread holds at most, as in cuda.cu
_LINE = 32  # channels of a 128-byte line
_SECTOR = 8  # channels of a 32-byte sector, the least that memory moves
_BLOCKS = 264  # blocks that fill the GPU: two for each SM of an H200
_ONE, _TWO = 4096, 2048  # vectors of a tile: forward holds x; backward x and g, of which three blocks fit an SM
_SPLIT = 256  # threads of a block where slabs are cut


class _Shape(NamedTuple):
    """A block's tile: its channels, threads, positions a thread, channels a thread."""

    channels: int
    threads: int
    held: int
    wide: int

    def shared(self, tiles: int) -> int:
        """Bytes of shared memory for so many tiles, and for sums of two numbers per thread and channel."""
        return 4 * self.threads * (tiles * self.held * self.wide + 2 * (self.wide + 1))

    def defines(self, silu: bool) -> dict:
        return {"WIDE": self.wide, "SILU": int(silu)}


def _threads(P: int, channels: int, wide: int, most: int) -> _Shape | None:
    """The threads that hold P positions, at most `most` each, with the fewest places to spare."""
    lanes, found = ceildiv(channels, wide), []
    for threads in (128, 192, 256, 384, 512):
        held = ceildiv(P, threads // lanes) if threads >= lanes else _HELD + 1
        if held <= most:
            found.append((threads * held, threads, held))
    return _Shape(channels, *min(found)[1:], wide) if found else None


def _slab(N: int, P: int, C: int, width: int, vectors: int, most: int = _HELD) -> _Shape | None:
    """The tile of all positions and as many whole groups as fill a line, with blocks enough and at most `vectors`; None
    where no block holds a group."""
    wide = 4 if C % 4 == 0 else 1
    found = []
    for k in range(1, C // width + 1):
        channels = k * width
        if channels > _MOST or (C // width) % k or channels % wide:
            continue
        shape = _threads(P, channels, wide, most) or _threads(P, channels, wide, _HELD)
        if shape is not None:
            found.append(shape)
    if not found:
        return None
    small = [s for s in found if ceildiv(s.channels, wide) * P <= vectors] or found[:1]
    good = [s for s in small if s.channels <= _LINE and N * C // s.channels >= _BLOCKS]
    if good:
        return good[-1]
    return next((s for s in small if s.channels >= _SECTOR), small[-1])


class _Cut(NamedTuple):
    """Slabs cut along their positions: the tile, its positions, and how many there are."""

    shape: _Shape
    rows: int
    splits: int
    blocks: int


def _cut(N: int, P: int, C: int) -> _Cut:
    wide = 4 if C % 4 == 0 else 1
    channels = min(C, _LINE)
    rows = _SPLIT // ceildiv(channels, wide) * _HELD
    splits = ceildiv(P, rows)
    return _Cut(_Shape(channels, _SPLIT, _HELD, wide), rows, splits, N * splits * ceildiv(C, channels))


def forward(x: Any, w: Any, b: Any, *, groups: int, eps: float, silu: bool) -> tuple[Any, Any]:
    """x N,…,C; w, b (C,). Returns y like x, and the hint (mean, rstd), float64 N,groups each."""
    N, C = x.shape[0], x.shape[-1]
    width = C // groups
    y = empty(x.shape, np.float32)
    if not x.size:
        return y, (zeros((N, groups), np.float64), zeros((N, groups), np.float64))
    mean, rstd = empty((N, groups), np.float64), empty((N, groups), np.float64)
    x, w, b = ready(x), ready(w), ready(b)
    P = x.size // (N * C)
    shape = _slab(N, P, C, width, _ONE)
    if shape is not None:
        K = shape.channels
        args = (x, w, b, y, mean, rstd, P, C, K, width, shape.held, 1 / (P * width), eps)
        launch(PATH, "forward", (N * (C // K),), shape.threads, args, shared=shape.shared(1), **shape.defines(silu))
    else:
        part, rows, splits, blocks = _cut(N, P, C)
        how = part.defines(silu)
        one, two = empty((N, splits, C), np.float64), empty((N, splits, C), np.float64)
        tile = (P, C, part.channels, splits, rows)
        launch(PATH, "moments", (blocks,), _SPLIT, (x, one, two, *tile), **how)
        launch(PATH, "merge", (N * groups,), 256, (one, two, mean, rstd, P, C, splits, rows, width, eps), **how)
        launch(PATH, "apply", (blocks,), _SPLIT, (x, w, b, mean, rstd, y, *tile, width), **how)
    return y, (mean, rstd)


def backward(g: Any, x: Any, w: Any, b: Any, *, groups: int, eps: float, silu: bool,
             hint: Any) -> tuple[Any, Any, Any]:
    """g like x N,…,C; hint from forward. Returns gx like x, gw, gb (C,)."""
    N, C = x.shape[0], x.shape[-1]
    width = C // groups
    gx, total = empty(x.shape, np.float32), zeros((2, C), np.float32)
    if not x.size:
        return gx, total[0], total[1]
    g, x, w, b, (mean, rstd) = ready(g), ready(x), ready(w), ready(b), hint
    parts = empty((2, N, C), np.float64)
    P = x.size // (N * C)
    shape = _slab(N, P, C, width, _TWO, _HELD // 2)
    if shape is not None:
        K, how = shape.channels, shape.defines(silu)
        args = (g, x, w, b, mean, rstd, gx, parts[0], parts[1], P, C, K, width, shape.held, 1 / (P * width))
        launch(PATH, "backward", (N * (C // K),), shape.threads, args, shared=shape.shared(2), **how)
    else:
        part, rows, splits, blocks = _cut(N, P, C)
        how = part.defines(silu)
        one, two = empty((N, splits, C), np.float64), empty((N, splits, C), np.float64)
        slope, constant = empty((N, groups), np.float32), empty((N, groups), np.float32)
        tile = (P, C, part.channels, splits, rows)
        launch(PATH, "pulls", (blocks,), _SPLIT, (g, x, w, b, mean, rstd, one, two, *tile, width), **how)
        sums = (one, two, w, mean, rstd, parts[0], parts[1], slope, constant, P, C, splits, width)
        launch(PATH, "merge_pulls", (N * groups,), 256, sums, **how)
        launch(PATH, "spread", (blocks,), _SPLIT, (g, x, w, b, mean, rstd, slope, constant, gx, *tile, width), **how)
    launch(PATH, "totals", (ceildiv(C, 32), 2), (32, 8), (parts, total, N, C), **how)
    return gx, total[0], total[1]
