"""The launcher of gemm/cuda.cu, and what it shares with the convolutions': which build, how many tiles (tile.cuh)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygen.kernels.cuda import ceildiv, empty, launch, ready

PATH = "gemm/cuda.cu"
PRECISIONS = {"float32": 0, "tf32": 1, "bf16": 2}

# Tiles are chosen for a GPU of about this many multiprocessors, each with two blocks at a time. A constant, for the
# order of sums, and with it every bit of a result, must not depend on the GPU.
PROCESSORS = 132
# Fewest numbers of k that are worth a slice of their own, whose result is written and read once more; most slices.
WORTH_A_SLICE, MOST_SLICES = 512, 64


def plan(M: int, N: int, K: int, products: int, dtype: Any) -> tuple[int, int]:
    """(tile, slices) for so many products of (M, K) by (K, N): the larger tile where it fills the GPU, with k in slices
    where the tiles alone do not."""
    for tile in (128, 64):
        tiles = products * ceildiv(M, tile) * ceildiv(N, tile)
        slices = 1
        if tiles < PROCESSORS:
            slices = max(1, min(2 * PROCESSORS // max(tiles, 1), K // WORTH_A_SLICE, MOST_SLICES))
        if dtype == np.float32 and min(M, N) > 64 and tiles * slices >= PROCESSORS:
            break
    return tile, slices


def build(tile: int, precision: str, dtype: Any, a_fours: bool, b_fours: bool) -> dict[str, Any]:
    """The defines of tile.cuh. a_fours, b_fours: memory is contiguous by fours. Raises ValueError for an unknown
    precision; float64 is always exact."""
    if precision not in PRECISIONS:
        raise ValueError(f'precision is "float32", "tf32" or "bf16", not {precision!r}.')
    if dtype == np.float64:
        return {"REAL": "double", "TILE": 64}
    return {"TILE": tile, "PRECISION": PRECISIONS[precision], "VA": 4 if a_fours else 1, "VB": 4 if b_fours else 1}


def threads(how: dict[str, Any]) -> int:
    """A block's threads, THREADS of tile.cuh."""
    return 128 if how.get("PRECISION") else 256


def shared(how: dict[str, Any]) -> int:
    """Bytes of a block's shared memory: 4 stages, each a step of both operands."""
    tensor, tile, size = how.get("PRECISION", 0) > 0, how["TILE"], 8 if how.get("REAL") == "double" else 4
    step, pad = (16 if tensor or tile == 64 else 8), (0 if tensor else 4)
    return 4 * 2 * step * (tile + pad) * size


def matmul(a: Any, b: Any, precision: str = "float32", bias: Any = None) -> Any:
    """np.matmul(a, b) + bias of device arrays, both float32 or both float64; bias (N,) or None. A matrix, or a batch of
    them, is read in place if its rows or its columns are contiguous."""
    check(a, b, "matmul")
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul needs a (…, M, K) and b (…, K, N); got {a.shape} and {b.shape}.")
    if a.ndim == 1 or b.ndim == 1:
        y = matmul(a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b, precision, bias)
        return y.reshape(y.shape[:-2] + y.shape[-2:][a.ndim == 1 : 2 - (b.ndim == 1)])
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (M, K), N, products = a.shape[-2:], b.shape[-1], math.prod(batch)
    if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous:  # one matrix of all rows
        return matmul(a.reshape(products * M, K), b, precision, bias).reshape(*batch, M, N)
    a, a_along, a_apart = _matrices(a, batch)
    b, b_along, b_apart = _matrices(b.swapaxes(-1, -2), batch)
    tile, slices = plan(M, N, K, products, a.dtype)
    how = build(tile, precision, a.dtype, (K if a_along else M) % 4 == 0, (K if b_along else N) % 4 == 0)
    how |= {"A_ALONG": a_along, "B_ALONG": b_along}
    y = empty((*batch, M, N), a.dtype)
    if not y.size:
        return y
    tile = how["TILE"]
    tiles = products * ceildiv(M, tile) * ceildiv(N, tile)
    parts = y if slices == 1 else empty((slices, *y.shape), y.dtype)
    bias = None if bias is None else ready(bias)
    launch(PATH, "gemm", (tiles, slices), threads(how),
           (a, b, bias if slices == 1 else None, parts, M, N, K, a_apart, b_apart, y.size), shared=shared(how), **how)
    if slices > 1:
        add_slices(PATH, parts, y, how, bias)
    return y


def add_slices(path: str, parts: Any, y: Any, how: dict[str, Any], bias: Any = None, residual: Any = None) -> None:
    """y = the sum of parts (slices, *y.shape) over the slices, in order, + bias + residual."""
    launch(path, "sum_slices", (ceildiv(y.size, 256),), 256,
           (parts, bias, residual, y, y.size, y.shape[-1], parts.shape[0]), **how)


def _matrices(a: Any, batch: tuple[int, ...]) -> tuple[Any, int, int]:
    """Matrices (…, lines, k) as the kernel reads them: an array that is contiguous as it is, or with its last two axes
    exchanged; whether k is contiguous; how far apart the matrices of the batch are."""
    apart = math.prod(a.shape[-2:])
    if math.prod(a.shape[:-2]) == 1:
        a, apart = a.reshape(a.shape[-2:]), 0
    elif a.shape[:-2] != batch and math.prod(a.shape[:-2]) != math.prod(batch):
        a = _repeat(a, batch)
    turned = a.swapaxes(-1, -2)
    if not a.flags.c_contiguous and turned.flags.c_contiguous:
        return ready(turned), 0, apart
    return ready(a), 1, apart


def _repeat(a: Any, batch: tuple[int, ...]) -> Any:
    """a copied for every matrix of a batch that repeats some of them."""
    from tinygen.kernels import cuda

    return cuda.library.broadcast_to(a, (*batch, *a.shape[-2:])).copy()


def check(a: Any, b: Any, name: str) -> None:
    """Refuse what no kernel here multiplies."""
    kinds = [getattr(t, "dtype", type(t).__name__) for t in (a, b)]
    if type(a) is not type(b) or kinds[0] != kinds[1] or kinds[0] not in (np.float32, np.float64):
        raise TypeError(f"{name} on the GPU got arrays of {kinds[0]} and {kinds[1]}; it needs both float32 or both "
                        "float64, and both there.")


BUILDS: tuple[dict, ...] = (
    *({"TILE": tile, "PRECISION": p, "VA": v, "VB": v, "A_ALONG": 1, "B_ALONG": 0}
      for tile in (128, 64) for p in (0, 1, 2) for v in (4, 1)),
    *({"TILE": 128, "PRECISION": p, "VA": 4, "VB": 4, "A_ALONG": a, "B_ALONG": b}
      for p in (0, 1, 2) for a, b in ((0, 0), (0, 1), (1, 1))),
    {"REAL": "double", "TILE": 64, "A_ALONG": 1, "B_ALONG": 0},
)
