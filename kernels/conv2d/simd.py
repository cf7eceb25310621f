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
# Steps of a product over pixels by which its operands are asked for before they are needed.
AHEAD = 16


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


@intrinsic
def multiply_rows(typing, table, ti, step, taps, depth, b, bi, out, oi, width):
    """out[m][n] = Σ_{t < taps} Σ_{k < depth} row[t, m][k] · b[bi + (t·depth + k)·2·lanes + n] for m < ROWS, n < width.

    row[t, m] is the memory at the address table[ti + t·step + m], out[m] that at out[oi + m]. width ≤ 2·lanes.
    """
    i = types.intp

    def generate(context, builder, signature, args):
        block = _Block(context, builder, signature.args[5], args[5])
        addresses = _pointers(context, builder, signature.args[0], args[0], (*args[1:3], args[1].type(1)), 1)
        targets = _pointers(context, builder, signature.args[7], args[7], (args[8],) + (args[8].type(1),) * 2, 1)
        outs = [block.memory(builder.load(targets(m, 0)[0])) for m in range(ROWS)]
        block.prefetch(outs)
        with cgutils.for_range(builder, args[3]) as tap:
            rows = [block.memory(builder.load(addresses(tap.index, m)[0])) for m in range(ROWS)]
            start = builder.add(args[6], builder.mul(builder.mul(tap.index, args[4]), block.word(2 * block.width)))
            with cgutils.for_range(builder, args[4]) as loop:
                numbers = [builder.load(builder.gep(row, [loop.index])) for row in rows]
                block.step(numbers, builder.add(start, builder.mul(loop.index, block.word(2 * block.width))))
        block.finish(outs, args[9], add=False)
        return context.get_dummy_value()

    return types.void(table, i, i, i, i, b, i, out, i, i), generate


@intrinsic
def multiply_columns(typing, table, ti, count, first, b, bi, out, oi, line, width):
    """out[oi + m·line + n] += Σ_{p < count} row[p][first + m] · b[bi + p·2·lanes + n] for m < ROWS, n < width.

    row[p] is the memory at the address table[ti + p]. width ≤ 2·lanes.
    """
    i = types.intp

    def generate(context, builder, signature, args):
        block = _Block(context, builder, signature.args[4], args[4])
        addresses = _pointers(context, builder, signature.args[0], args[0], (args[1],) + (args[1].type(1),) * 2, 1)
        targets = _pointers(context, builder, signature.args[6], args[6], (args[7], args[8], args[7].type(1)), 1)
        outs = [targets(m, 0)[0] for m in range(ROWS)]
        block.prefetch(outs)
        with cgutils.for_range(builder, args[2]) as loop:
            later = builder.gep(block.memory(builder.load(addresses(loop.index, AHEAD)[0])), [args[3]])
            _ask(builder, later, write=0, locality=3)
            row = builder.gep(block.memory(builder.load(addresses(loop.index, 0)[0])), [args[3]])
            numbers = [builder.load(builder.gep(row, [block.word(m)])) for m in range(ROWS)]
            block.step(numbers, builder.add(args[5], builder.mul(loop.index, block.word(2 * block.width))))
        block.finish(outs, args[9], add=True)
        return context.get_dummy_value()

    return types.void(table, i, i, i, b, i, out, i, i, i), generate


@intrinsic
def multiply_each(typing, table, ti, step, taps, count, first, w, oi, adjoint):
    """For the `lanes` channels from `first` on, with ⊙ number by number,

        out[m] = Σ_{t < count} row[t, m] ⊙ w[taps[t, 0]]           for m < ROWS, or, if adjoint,
        w[taps[t, 0]] += Σ_{m < ROWS} row[t, m] ⊙ out[m]          for t < count.

    row[t, m] is the memory at the address table[ti + t·step + m], out[m] that at table[oi + m].
    """
    i = types.intp

    def generate(context, builder, signature, args):
        block = _Block(context, builder, signature.args[6], args[6], rows=ROWS, vectors=1)
        one = args[1].type(1)
        rows = _pointers(context, builder, signature.args[0], args[0], (*args[1:3], one), 1)
        outs = _pointers(context, builder, signature.args[0], args[0], (args[7], one, one), 1)
        offsets = _pointers(context, builder, signature.args[3], args[3], (args[1].type(0), args[1].type(3), one), 1)

        def number(places, i, j):
            """The vector from the first channel on, where the table says."""
            memory = block.memory(builder.load(places(i, j)[0]))
            return block.at(builder.gep(memory, [args[5]]), 0)

        def product(a, b, total):
            return builder.fadd(total, builder.fmul(a, b, flags=("contract",)), flags=("contract",))

        def weight(t):
            return block.at(builder.gep(block.data, [builder.add(builder.load(offsets(t, 0)[0]), args[5])]), 0)

        targets = [number(outs, m, 0) for m in range(ROWS)]
        with builder.if_else(builder.icmp_signed("!=", args[8], args[8].type(0))) as (then, otherwise):
            with then:
                given = [builder.load(target, align=block.size) for target in targets]
                with cgutils.for_range(builder, args[4]) as loop:
                    place = weight(loop.index)
                    total = builder.load(place, align=block.size)
                    for m in range(ROWS):
                        total = product(builder.load(number(rows, loop.index, m), align=block.size), given[m], total)
                    builder.store(total, place, align=block.size)
            with otherwise:
                with cgutils.for_range(builder, args[4]) as loop:
                    factor = builder.load(weight(loop.index), align=block.size)
                    for m, (total,) in enumerate(block.sums):
                        run = builder.load(number(rows, loop.index, m), align=block.size)
                        builder.store(product(run, factor, builder.load(total)), total)
                for target, (total,) in zip(targets, block.sums):
                    builder.store(builder.load(total), target, align=block.size)
        return context.get_dummy_value()

    return types.void(table, i, i, taps, i, i, w, i, i), generate


@intrinsic
def prefetch(typing, address):
    """Ask for the line of memory at an address, into the core's second cache."""

    def generate(context, builder, signature, args):
        _ask(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), write=0, locality=2)
        return context.get_dummy_value()

    return types.void(types.intp), generate


def _ask(builder, pointer, write: int, locality: int) -> None:
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
    builder.call(ask, [builder.bitcast(pointer, byte), word(write), word(locality), word(1)])


@intrinsic
def transpose(typing, src, s, line, dst, d, step):
    """dst[d + i·step + j] = src[s + j·line + i] for i, j < lanes."""
    i = types.intp

    def generate(context, builder, signature, args):
        x = _pointers(context, builder, signature.args[0], args[0], (args[1], args[2], args[1].type(1)))
        y = _pointers(context, builder, signature.args[3], args[3], (args[4], args[5], args[4].type(1)))
        width = VECTOR // x(0, 0)[1]
        rows = [builder.load(x(j, 0)[0], align=x(j, 0)[1]) for j in range(width)]
        half = width // 2
        while half:  # exchange the off-diagonal quarters of every square of 2·half
            lower = [j if not j & half else width + j - half for j in range(width)]
            upper = [j + half if not j & half else width + j for j in range(width)]
            for j in (j for j in range(width) if not j & half):
                pair = rows[j], rows[j + half]
                rows[j], rows[j + half] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(ir.IntType(32), width), order))
                    for order in (lower, upper))
            half //= 2
        for j, row in enumerate(rows):
            builder.store(row, y(j, 0)[0], align=y(j, 0)[1])
        return context.get_dummy_value()

    return types.void(src, i, i, dst, i, i), generate


class _Block:
    """ROWS × 2 running sums in registers, and the code that adds a step of products to them."""

    def __init__(self, context, builder, kind, array, rows=ROWS, vectors=2):
        self.builder, self.number = builder, context.get_value_type(kind.dtype)
        self.data = context.make_helper(builder, kind, array).data
        self.size = context.get_abi_sizeof(self.number)
        self.width = VECTOR // self.size
        self.vector = ir.VectorType(self.number, self.width)
        self.word = ir.IntType(64)
        zero = ir.Constant(self.vector, None)
        self.sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]

    def memory(self, address):
        return self.builder.inttoptr(address, self.number.as_pointer())

    def at(self, pointer, n: int):
        """The n-th vector from a pointer to numbers on."""
        return self.builder.bitcast(self.builder.gep(pointer, [self.word(n * self.width)]), self.vector.as_pointer())

    def prefetch(self, rows: list) -> None:
        """Ask for the memory of the rows, to be written when the sums are done."""
        for row in rows:
            for n in range(2):
                _ask(self.builder, self.at(row, n), write=1, locality=3)

    def step(self, numbers: list, offset) -> None:
        """sums[m] += numbers[m] · the pair of vectors of b at the offset."""
        builder, start = self.builder, self.builder.gep(self.data, [offset])
        pair = [builder.load(self.at(start, n), align=self.size) for n in range(2)]
        for number, sums in zip(numbers, self.sums):
            spread = builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), self.width), None)
            spread = builder.shuffle_vector(spread, spread, mask)
            for n in range(2):
                product = builder.fmul(spread, pair[n], flags=("contract",))
                builder.store(builder.fadd(builder.load(sums[n]), product, flags=("contract",)), sums[n])

    def finish(self, rows: list, width, add: bool) -> None:
        """Store (or add) the sums to the memory of each row, its first `width` numbers."""
        builder = self.builder
        whole = builder.icmp_signed(">=", width, self.word(2 * self.width))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for row, sums in zip(rows, self.sums):
                    for n in range(2):
                        value = builder.load(sums[n])
                        if add:
                            value = builder.fadd(builder.load(self.at(row, n), align=self.size), value)
                        builder.store(value, self.at(row, n), align=self.size)
            with otherwise:
                spare = cgutils.alloca_once(builder, ir.ArrayType(self.number, 2 * self.width))
                line = builder.bitcast(spare, self.number.as_pointer())
                for row, sums in zip(rows, self.sums):
                    for n in range(2):
                        builder.store(builder.load(sums[n]), self.at(line, n), align=self.size)
                    with cgutils.for_range(builder, width) as loop:
                        value, place = builder.load(builder.gep(line, [loop.index])), builder.gep(row, [loop.index])
                        builder.store(builder.fadd(builder.load(place), value) if add else value, place)


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
