"""The inner loops of the attention kernel as instructions on whole vectors, to call from jitted code.

    multiply    a block of a matrix product that stays in registers, as in kernels/conv2d/simd.py: the one of Goto &
                van de Geijn, *Anatomy of high-performance matrix multiplication* (2008), §5–6; here it can also add
    turn        a square of one vector each way, turned over
    largest, exponentials, probabilities, gradients
                the passes of the softmax, made by `_columns`: each goes down two vectors of neighbouring columns

All take flat arrays of one float type and offsets into them in elements; nothing is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

from tinygen.kernels import mathfast
from tinygen.kernels.conv2d.simd import ROWS, VECTOR

_LANE = ir.IntType(32)
intrinsic: Any = extending.intrinsic  # Numba's stubs would have callers pass `typing`


class _Vector:
    """A vector in the code being built, or what it is set to be at each step. A product and the sum it enters become
    one instruction."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def like(self, number: float) -> _Vector:
        kind = self.value.type
        return _Vector(self.builder, ir.Constant(kind, [float(number)] * kind.count))

    def _with(self, name: str, other: _Vector) -> _Vector:
        return _Vector(self.builder, getattr(self.builder, name)(self.value, other.value, flags=("contract",)))

    def __add__(self, other: _Vector) -> _Vector:
        return self._with("fadd", other)

    def __sub__(self, other: _Vector) -> _Vector:
        return self._with("fsub", other)

    def __mul__(self, other: _Vector) -> _Vector:
        return self._with("fmul", other)

    def or_larger(self, other: _Vector) -> _Vector:
        """The other where it is larger than this; this where either is NaN."""
        larger = self.builder.fcmp_ordered(">", other.value, self.value)
        return _Vector(self.builder, self.builder.select(larger, other.value, self.value))


# As in mathfast.py, exp(r) = 1 + r + r²·p(r): p's coefficients, highest first; ln 2 in two parts; 1.5·2^(bits of the
# mantissa) + the bias of the exponent; that number of bits; bits in all; the least x that gives no 0.
_M: Any = mathfast
_EXP: dict[type, tuple] = {
    ir.FloatType: ((_M._P0, _M._P1, _M._P2, _M._P3, _M._P4, _M._P5), (_M._LN2_HI, _M._LN2_LO), 12582912.0 + 127, 23, 32,
                   _M._SMALLEST),
    ir.DoubleType: ([1 / math.factorial(n) for n in range(13, 1, -1)], (6.93147180369123816490e-01,
                    1.90821492927058770002e-10), 6755399441055744.0 + 1023, 52, 64, -708.0),
}


def _exp(x: _Vector) -> _Vector:
    """e to the x, for x <= 88 (or 709 in float64). NaN stays NaN."""
    build, kind = x.builder, x.value.type
    polynomial, (high, low), rounding, bits, size, least = _EXP[type(kind.element)]
    integer = ir.VectorType(ir.IntType(size), kind.count)
    t = x * x.like(math.log2(math.e)) + x.like(rounding)
    k = t - x.like(rounding)
    r = x - k * x.like(high) - k * x.like(low)
    p = x.like(polynomial[0])
    for coefficient in polynomial[1:]:
        p = p * r + x.like(coefficient)
    p = p * (r * r) + r + x.like(1)
    power = build.shl(build.bitcast(t.value, integer), ir.Constant(integer, [bits] * kind.count))
    y = p * _Vector(build, build.bitcast(power, kind))
    small = build.fcmp_ordered("<", x.value, x.like(least).value)
    return _Vector(build, build.select(small, x.like(0).value, y.value))


def _columns(step: Callable, walked: int, fixed: int) -> Any:
    """A function f(at, row, n, column, arrays) for jitted code, which does for each of n rows j

        step([vectors at at + j·row of the `walked` arrays], [at column of the `fixed` ones], the vector at column of a
        last array)  →  what the last of the walked becomes, or None, and what the last of all becomes

    for two vectors side by side. The last array is stored once, at the end."""

    @intrinsic
    def f(typing, at, row, n, column, arrays):
        def generate(context, builder, signature, args):
            at, row, n, column, arrays = args
            array = signature.args[4].dtype
            values = cgutils.unpack_tuple(builder, arrays)
            kind = context.get_value_type(array.dtype)
            size = context.get_abi_sizeof(kind)
            width = VECTOR // size
            vector = ir.VectorType(kind, width)

            def place(k, offset, half):
                data = context.make_helper(builder, array, values[k]).data
                data = builder.gep(builder.gep(data, [offset]), [offset.type(half * width)])
                return builder.bitcast(data, vector.as_pointer())

            def load(k, offset, half):
                return _Vector(builder, builder.load(place(k, offset, half), align=size))

            constants = [[load(k, column, half) for k in range(walked, walked + fixed)] for half in range(2)]
            sums = [cgutils.alloca_once_value(builder, load(walked + fixed, column, half).value) for half in range(2)]
            with cgutils.for_range(builder, n) as loop:
                offset = builder.add(at, builder.mul(loop.index, row))
                for half in range(2):
                    moving = [load(k, offset, half) for k in range(walked)]
                    out, total = step(moving, constants[half], _Vector(builder, builder.load(sums[half])))
                    if out is not None:
                        builder.store(out.value, place(walked - 1, offset, half), align=size)
                    builder.store(total.value, sums[half])
            for half in range(2):
                builder.store(builder.load(sums[half]), place(walked + fixed, column, half), align=size)
            return context.get_dummy_value()

        i = types.intp
        return types.void(i, i, i, i, arrays), generate

    return f


def _exponential(moving, fixed, total):
    (s,), (top,) = moving, fixed
    e = _exp(s - top)
    return e, total + e


def _probability(moving, fixed, total):
    (gp, s), (high, factor) = moving, fixed
    p = _exp(s - high) * factor
    return p, total + p * gp


def _gradient(moving, fixed, delta):
    (p, gp), (scale,) = moving, fixed
    return p * (gp - delta) * scale, delta


# f(at, row, n, column, …): top = max(s, top)
largest = _columns(lambda moving, fixed, top: (None, top.or_larger(moving[0])), 1, 0)
# …, s, top, total: s = e^(s − top), total += s
exponentials = _columns(_exponential, 1, 1)
# …, gp, s, high, factor, delta: s = e^(s − high)·factor, delta += s·gp
probabilities = _columns(_probability, 2, 2)
# …, p, gp, scale, delta: gp = p·(gp − delta)·scale
gradients = _columns(_gradient, 2, 1)


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
            scaled = _Vector(builder, row) * _Vector(builder, _spread(builder, args[-1], vector))
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
