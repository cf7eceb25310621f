"""The inner loops of the attention kernel as instructions on whole vectors, to call from jitted code.

    multiply    a block of a matrix product that stays in registers, as in kernels/conv2d/simd.py: the one of Goto &
                van de Geijn, *Anatomy of high-performance matrix multiplication* (2008), §5–6; here it can also add
    turn        a square of one vector each way, turned over
    largest, exponentials, probabilities, gradients
                the passes of the softmax, made by columns.py

All take flat arrays of one float type and offsets into them in elements; nothing is checked.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tinygen.kernels.columns import Vector, columns, exp, intrinsic
from tinygen.kernels.conv2d.simd import ROWS, VECTOR

_LANE = ir.IntType(32)


def _exponential(moving, fixed, sums):
    (s,), (top,), (total,) = moving, fixed, sums
    e = exp(s - top)
    return [e], [total + e]


def _probability(moving, fixed, sums):
    (gp, s), (high, factor), (delta,) = moving, fixed, sums
    p = exp(s - high) * factor
    return [p], [delta + p * gp]


def _gradient(moving, fixed, sums):
    (p, gp), (delta, scale) = moving, fixed
    return [p * (gp - delta) * scale], []


# f(at, row, n, column, (s, top)): top = max(s, top)
largest = columns(lambda moving, fixed, sums: ([], [sums[0].or_larger(moving[0])]), 1, 0, 1)
# (s, top, total): s = e^(s − top), total += s
exponentials = columns(_exponential, 1, 1, 1)
# (gp, s, high, factor, delta): s = e^(s − high)·factor, delta += s·gp
probabilities = columns(_probability, 2, 2, 1)
# (p, gp, delta, scale): gp = p·(gp − delta)·scale
gradients = columns(_gradient, 2, 2, 0)


@intrinsic
def turn(typing, x, xi, xm, y, yi, ym, factor):
    """y[yi + n·ym + m] = factor · x[xi + m·xm + n], for m and n below the numbers in a vector, a power of 2."""
    i = types.intp

    def generate(context, builder, signature, args):
        kind = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(kind)
        width = VECTOR // size
        vector, lanes = ir.VectorType(kind, width), ir.VectorType(_LANE, width)

        def place(position, m):
            data = context.make_helper(builder, signature.args[position], args[position]).data
            offset = builder.add(args[position + 1], builder.mul(args[position + 2].type(m), args[position + 2]))
            return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())

        rows = [builder.load(place(0, m), align=size) for m in range(width)]
        half = width // 2
        while half:  # squares of 2·half: their upper right quarter changes places with the lower left one
            upper = ir.Constant(lanes, [n + width - half if n & half else n for n in range(width)])
            lower = ir.Constant(lanes, [n + width if n & half else n + half for n in range(width)])
            for m in range(width):
                if not m & half:
                    pair = rows[m], rows[m + half]
                    rows[m], rows[m + half] = (builder.shuffle_vector(*pair, mask) for mask in (upper, lower))
            half //= 2
        for n, row in enumerate(rows):
            scaled = Vector(builder, row) * Vector(builder, _spread(builder, args[-1], vector))
            builder.store(scaled.value, place(3, n), align=size)
        return context.get_dummy_value()

    return types.void(x, i, i, y, i, i, factor), generate


def _spread(builder: ir.IRBuilder, number: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector of nothing but `number`."""
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, _LANE(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_LANE, vector.count), None))


@intrinsic
def multiply(typing, a, ai, am, ak, b, bi, bk, c, ci, cm, depth, add):
    """c[ci + m·cm + n] = Σ_{k < depth} a[ai + m·am + k·ak] · b[bi + k·bk + n], for m < ROWS and n < 2 vectors; the sum
    is added to c if `add` is not 0."""
    i = types.intp

    def generate(context, builder, signature, args):
        a, ai, am, ak, b, bi, bk, c, ci, cm, depth, add = args
        kind = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(kind)
        width = VECTOR // size
        vector, word = ir.VectorType(kind, width), depth.type

        def pointer(position, array, target, *offsets):
            data = context.make_helper(builder, signature.args[position], array).data
            for offset in offsets:
                data = builder.gep(data, [offset])
            return builder.bitcast(data, target.as_pointer())

        sums = [[cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(2)] for _ in range(ROWS)]
        with cgutils.for_range(builder, depth) as loop:
            down, across = builder.mul(loop.index, bk), builder.mul(loop.index, ak)
            pair = [builder.load(pointer(4, b, vector, bi, down, word(n * width)), align=size) for n in range(2)]
            for m in range(ROWS):
                number = builder.load(pointer(0, a, kind, ai, builder.mul(word(m), am), across))
                factor = _spread(builder, number, vector)
                for n in range(2):
                    term = builder.fmul(factor, pair[n], flags=("contract",))
                    builder.store(builder.fadd(builder.load(sums[m][n]), term, flags=("contract",)), sums[m][n])
        out = [[pointer(7, c, vector, ci, builder.mul(word(m), cm), word(n * width)) for n in range(2)]
               for m in range(ROWS)]
        with builder.if_then(builder.icmp_signed("!=", add, word(0))):
            for m in range(ROWS):
                for n in range(2):
                    before = builder.load(out[m][n], align=size)
                    builder.store(builder.fadd(builder.load(sums[m][n]), before), sums[m][n])
        for m in range(ROWS):
            for n in range(2):
                builder.store(builder.load(sums[m][n]), out[m][n], align=size)
        return context.get_dummy_value()

    return types.void(a, i, i, i, b, i, i, c, i, i, i, i), generate
