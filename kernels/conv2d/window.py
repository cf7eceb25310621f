"""Vector code for a 3×3 depthwise convolution at stride 1: a window of 3 × 3 pixels slides along three lines of the
image, in registers, so that each pixel of a line is loaded once for the three results it enters."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import _Block


@intrinsic
def slide(typing, lines, numbers, height, zeros, pitch, start, columns, count, w, w0, step, out, adjoint):
    """For one vector of channels, with ⊙ number by number and r, t < 3,

        out[p] = Σ_rt lines[r][start + p + t] ⊙ w[w0 + (3·r + t)·step]      for p < count, or, if adjoint,
        w[w0 + (3·r + t)·step] += Σ_p lines[r][start + p + t] ⊙ out[p].

    lines: three addresses, of column 0; columns are `pitch` bytes apart, as the vectors at the address `out` are. What
    is outside of 0 … columns − 1, or in a line whose number is outside of 0 … height − 1, is the vector at `zeros`.
    """
    i = types.intp

    def generate(context, builder, signature, args):
        lines, numbers, height, zeros, pitch, start, columns, count, _, w0, step, out, adjoint = args
        block = _Block(context, builder, signature.args[8], args[8], rows=0)
        word, addresses = block.word, cgutils.unpack_tuple(builder, lines)
        widths = [builder.select(builder.icmp_unsigned("<", number, height), columns, word(0))
                  for number in cgutils.unpack_tuple(builder, numbers)]

        def vector(address):
            return builder.load(block.at(block.memory(address), 0), align=block.size)

        def column(j):
            """The three vectors of column `start` + j."""
            j = builder.add(start, j)
            offset = builder.mul(j, pitch)
            return [vector(builder.select(builder.icmp_unsigned("<", j, width), builder.add(line, offset), zeros))
                    for line, width in zip(addresses, widths)]

        def product(a, b, total):
            return builder.fadd(total, builder.fmul(a, b, flags=("contract",)), flags=("contract",))

        places = [block.at(builder.gep(block.data, [builder.add(w0, builder.mul(word(k), step))]), 0) for k in range(9)]
        weights = [builder.load(place, align=block.size) for place in places]
        before = [[cgutils.alloca_once_value(builder, value) for value in column(word(t))] for t in range(2)]

        def each(step_of):
            with cgutils.for_range(builder, count) as loop:
                window = [[builder.load(slot) for slot in slots] for slots in before]
                window.append(column(builder.add(loop.index, word(2))))
                for slots, values in zip(before, window[1:]):
                    for slot, value in zip(slots, values):
                        builder.store(value, slot)
                step_of(builder.add(out, builder.mul(loop.index, pitch)), window)

        def gather(place, window):
            total = ir.Constant(block.vector, None)
            for k in range(9):
                total = product(window[k % 3][k // 3], weights[k], total)
            builder.store(total, block.at(block.memory(place), 0), align=block.size)

        sums = [cgutils.alloca_once_value(builder, weight) for weight in weights]

        def collect(place, window):
            given = vector(place)
            for k in range(9):
                builder.store(product(window[k % 3][k // 3], given, builder.load(sums[k])), sums[k])

        with builder.if_else(builder.icmp_signed("!=", adjoint, word(0))) as (then, otherwise):
            with then:
                each(collect)
                for place, total in zip(places, sums):
                    builder.store(builder.load(total), place, align=block.size)
            with otherwise:
                each(gather)
        return context.get_dummy_value()

    three = types.UniTuple(i, 3)
    return types.void(three, three, i, i, i, i, i, i, w, i, i, i, i), generate
