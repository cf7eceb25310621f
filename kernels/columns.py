"""Loops down columns as instructions on whole vectors, for passes that LLVM's vectoriser would compile into something
slower, or not vectorise at all: what belongs to a column, its constants and its sums, stays in registers the whole way.

`columns` makes a function of one step, written with `Vector` and `exp`, to call from jitted code on flat arrays of one
float type and offsets into them in elements; nothing is checked. Products and the sums they enter become one
instruction; nothing else is reordered or assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

from tinygen.kernels import mathfast
from tinygen.kernels.conv2d.simd import VECTOR

intrinsic: Any = extending.intrinsic  # Numba's stubs would have callers pass `typing`


class Vector:
    """A vector in the code being built, or what it is set to be at each step. A product and the sum it enters become
    one instruction."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def like(self, number: float) -> Vector:
        kind = self.value.type
        return Vector(self.builder, ir.Constant(kind, [float(number)] * kind.count))

    def _with(self, name: str, other: Vector) -> Vector:
        return Vector(self.builder, getattr(self.builder, name)(self.value, other.value, flags=("contract",)))

    def __add__(self, other: Vector) -> Vector:
        return self._with("fadd", other)

    def __sub__(self, other: Vector) -> Vector:
        return self._with("fsub", other)

    def __mul__(self, other: Vector) -> Vector:
        return self._with("fmul", other)

    def __truediv__(self, other: Vector) -> Vector:
        return self._with("fdiv", other)

    def or_larger(self, other: Vector) -> Vector:
        """The other where it is larger than this; this where either is NaN."""
        larger = self.builder.fcmp_ordered(">", other.value, self.value)
        return Vector(self.builder, self.builder.select(larger, other.value, self.value))


# As in mathfast.py, exp(r) = 1 + r + r²·p(r): p's coefficients, highest first; ln 2 in two parts; 1.5·2^(bits of the
# mantissa) + the bias of the exponent; that number of bits; bits in all; what lies below gives 0; above, inf.
_M: Any = mathfast
_EXP: dict[type, tuple] = {
    ir.FloatType: ((_M._P0, _M._P1, _M._P2, _M._P3, _M._P4, _M._P5), (_M._LN2_HI, _M._LN2_LO), 12582912.0 + 127, 23, 32,
                   _M._SMALLEST, 88.37),
    ir.DoubleType: ([1 / math.factorial(n) for n in range(13, 1, -1)], (6.93147180369123816490e-01,
                    1.90821492927058770002e-10), 6755399441055744.0 + 1023, 52, 64, -708.0, 709.4),
}


def exp(x: Vector) -> Vector:
    """e to the x; inf for x > 88.37, 709.4 in float64. NaN stays NaN."""
    build, kind = x.builder, x.value.type
    polynomial, (high, low), rounding, bits, size, least, most = _EXP[type(kind.element)]
    integer = ir.VectorType(ir.IntType(size), kind.count)
    t = x * x.like(math.log2(math.e)) + x.like(rounding)
    k = t - x.like(rounding)
    r = x - k * x.like(high) - k * x.like(low)
    p = x.like(polynomial[0])
    for coefficient in polynomial[1:]:
        p = p * r + x.like(coefficient)
    p = p * (r * r) + r + x.like(1)
    power = build.shl(build.bitcast(t.value, integer), ir.Constant(integer, [bits] * kind.count))
    y = p * Vector(build, build.bitcast(power, kind))
    for sign, bound, beyond in (("<", least, 0), (">", most, math.inf)):
        outside = build.fcmp_ordered(sign, x.value, x.like(bound).value)
        y = Vector(build, build.select(outside, x.like(beyond).value, y.value))
    return y


def columns(step: Callable, walked: int, fixed: int, sums: int) -> Any:
    """A function f(at, row, n, column, arrays) for jitted code, which does for each of n rows j

        step([vectors at at + j·row of the first `walked` arrays], [at column of the `fixed`], [of the `sums` ones])
            →  [what the last of the walked arrays become], [what the sums become]

    for two vectors side by side. The sums are stored once, at the end."""

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
                return Vector(builder, builder.load(place(k, offset, half), align=size))

            halves, end = range(2), walked + fixed
            constants = [[load(k, column, half) for k in range(walked, end)] for half in halves]
            slots = [[cgutils.alloca_once_value(builder, load(k, column, half).value) for k in range(end, end + sums)]
                     for half in halves]
            with cgutils.for_range(builder, n) as loop:
                offset = builder.add(at, builder.mul(loop.index, row))
                for half in halves:
                    before = [Vector(builder, builder.load(slot)) for slot in slots[half]]
                    out, after = step([load(k, offset, half) for k in range(walked)], constants[half], before)
                    for k, value in enumerate(out, walked - len(out)):
                        builder.store(value.value, place(k, offset, half), align=size)
                    for slot, value in zip(slots[half], after):
                        builder.store(value.value, slot)
            for half in halves:
                for k, slot in enumerate(slots[half], end):
                    builder.store(builder.load(slot), place(k, column, half), align=size)
            return context.get_dummy_value()

        i = types.intp
        return types.void(i, i, i, i, arrays), generate

    return f
