"""Vector code for Numba: what LLVM's own vectoriser does not find, written down as instructions on whole vectors.

Two makers of functions to call from jitted code, on flat arrays of float32 or float64 and offsets into them (in
elements; nothing is checked):

    sandwich(matrix)   dst = matrix · src · matrixᵀ for `lanes` neighbouring channels at once: Winograd's transforms
    multiply           c += a · b for one block of ROWS × 2·lanes numbers, which stay in registers: the heart of a GEMM

The block is the one of Goto & van de Geijn, *Anatomy of high-performance matrix multiplication* (2008), §5–6: ROWS · 2
running sums hide the latency of the multiply-adds, and every step loads ROWS + 2 operands for them.
"""

from __future__ import annotations

import operator
from functools import reduce

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
# Bytes of a vector; rows of a block. With 16 registers (AVX2) a block of 4 × 2 leaves room for the operands, with 32 of
# them (AVX-512) one of 8 × 2 does.
VECTOR = 64 if _WIDE else 32
ROWS = 8 if _WIDE else 4


def lanes(dtype: np.dtype) -> int:
    """Numbers in a vector."""
    return VECTOR // np.dtype(dtype).itemsize


class _Vector:
    """A vector value in the code being built. `contract`: a product and the sum it enters become one instruction."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def __add__(self, other: _Vector) -> _Vector:
        return _Vector(self.builder, self.builder.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: _Vector) -> _Vector:
        return _Vector(self.builder, self.builder.fsub(self.value, other.value, flags=("contract",)))

    def __rmul__(self, factor: float) -> _Vector:
        if factor == 1:
            return self
        kind = self.value.type
        constant = ir.Constant(kind, [float(factor)] * kind.count)
        return _Vector(self.builder, self.builder.fmul(constant, self.value, flags=("contract",)))


def combine(matrix: np.ndarray, v: list) -> list:
    """matrix @ v, for a list of anything that adds, subtracts and takes a factor from the left. Zeros are left out, and
    rows (or columns) of a pair of points ±p share what they have in common: see _twins."""

    def dot(factors, terms):
        products = [float(a) * b for a, b in zip(factors, terms) if a]
        return reduce(operator.add, products)

    if columns := _twins(matrix.T):  # v₊ and v₋ enter as their sum in the even rows, as their difference in the odd
        even, odd = list(v), list(v)
        for c in columns:
            even[c], odd[c] = v[c] + v[c + 1], v[c] - v[c + 1]
        keep = [c for c in range(len(v)) if c - 1 not in columns]
        return [dot(row[keep], [(odd if i % 2 else even)[c] for c in keep]) for i, row in enumerate(matrix)]
    out: list = [None] * len(matrix)
    rows = _twins(matrix)
    for r, row in enumerate(matrix):
        if r in rows:
            even, odd = dot(row[::2], v[::2]), dot(row[1::2], v[1::2])
            out[r], out[r + 1] = even + odd, even - odd
        elif out[r] is None:
            out[r] = dot(row, v)
    return out


def _twins(matrix: np.ndarray) -> list[int]:
    """The rows r of which row r + 1 differs by the sign of its odd entries: two values of one polynomial, at ±p."""
    signs = (-1.0) ** np.arange(matrix.shape[1])
    return [r for r in range(len(matrix) - 1)
            if matrix[r, 1::2].any() and matrix[r, ::2].any() and np.array_equal(matrix[r + 1], signs * matrix[r])]


def sandwich(matrix: np.ndarray, add: bool = False):
    """A function f(src, s, si, sj, dst, d, di, dj) for jitted code: with X[i, j] the vector at src[s + i·si + j·sj],
    store (or, with `add`, add) matrix · X · matrixᵀ to the vectors at dst[d + i·di + j·dj]."""
    rows, columns = matrix.shape

    @intrinsic
    def f(typing, src, s, si, sj, dst, d, di, dj):
        i = types.intp

        def generate(context, builder, signature, args):
            x = _pointers(context, builder, signature.args[0], args[0], args[1:4])
            y = _pointers(context, builder, signature.args[4], args[4], args[5:8])
            half = [combine(matrix, [_load(builder, x(k, j)) for k in range(columns)]) for j in range(columns)]
            for k in range(rows):
                for j, value in enumerate(combine(matrix, [half[c][k] for c in range(columns)])):
                    _store(builder, y(k, j), value + _load(builder, y(k, j)) if add else value)
            return context.get_dummy_value()

        return types.void(src, i, i, i, dst, i, i, i), generate

    return f


@intrinsic
def multiply(typing, a, ai, am, ak, b, bi, bk, c, ci, cm, depth):
    """c[ci + m·cm + n] = Σ_{k < depth} a[ai + m·am + k·ak] · b[bi + k·bk + n] for m < ROWS, n < 2·lanes."""
    i = types.intp

    def generate(context, builder, signature, args):
        kind = context.get_value_type(signature.args[0].dtype)
        width = VECTOR // context.get_abi_sizeof(kind)
        vector, word = ir.VectorType(kind, width), args[-1].type
        left = _pointers(context, builder, signature.args[0], args[0], args[1:4], 1)
        right = _pointers(context, builder, signature.args[4], args[4], (args[5], args[6], word(width)))
        out = _pointers(context, builder, signature.args[7], args[7], (args[8], args[9], word(width)))
        sums = [[cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(2)] for _ in range(ROWS)]
        with cgutils.for_range(builder, args[-1]) as loop:
            pair = [builder.load(right(loop.index, n)[0], align=right(0, 0)[1]) for n in range(2)]
            for m in range(ROWS):
                number = builder.load(left(m, loop.index)[0])
                spread = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
                spread = builder.shuffle_vector(spread, spread, ir.Constant(ir.VectorType(ir.IntType(32), width), None))
                for n in range(2):
                    product = builder.fmul(spread, pair[n], flags=("contract",))
                    total = builder.fadd(builder.load(sums[m][n]), product, flags=("contract",))
                    builder.store(total, sums[m][n])
        for m in range(ROWS):
            for n in range(2):
                _store(builder, out(m, n), _Vector(builder, builder.load(sums[m][n])))
        return context.get_dummy_value()

    return types.void(a, i, i, i, b, i, i, c, i, i, i), generate


def _pointers(context, builder, kind, array, offsets, count=None):
    """at(i, j) → (pointer, alignment) of the vector (or the number, if count is 1) at the offset s + i·row + j·column,
    for (s, row, column) = offsets."""
    data = context.make_helper(builder, kind, array).data
    number = context.get_value_type(kind.dtype)
    size = context.get_abi_sizeof(number)
    target = (number if count == 1 else ir.VectorType(number, VECTOR // size)).as_pointer()
    start, row, column = offsets

    def at(i, j):
        i, j = (start.type(v) if isinstance(v, int) else v for v in (i, j))
        place = builder.add(start, builder.add(builder.mul(i, row), builder.mul(j, column)))
        return builder.bitcast(builder.gep(data, [place]), target), size

    return at


def _load(builder, place) -> _Vector:
    return _Vector(builder, builder.load(place[0], align=place[1]))


def _store(builder, place, value: _Vector) -> None:
    builder.store(value.value, place[0], align=place[1])
