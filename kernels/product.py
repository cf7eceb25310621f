"""Matrix products by BLAS, called from compiled code, shared among the team's threads.

C = op(A) op(B), row by row in memory. BLAS (Fortran) reads a matrix down its columns, so to it the same memory is
Cᵀ = op(B)ᵀ op(A)ᵀ: the operands change places and nothing is transposed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.linalg import ensure_blas

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop, run
from tinygen.kernels.threads import get_threads, single_threaded_blas
from tinygen.kernels.threads import run as run_in_pieces

ensure_blas()  # Numba calls SciPy's, which is loaded now at the latest
single_threaded_blas()

# Rows or columns of a piece at least: below, BLAS spends its time on the edges.
SIDE = 128
# Multiply-adds of a matrix of a stack that are worth a piece.
SMALL = 60_000
_FLAGS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@intrinsic
def gemm(typing, a, ai, lda, ta, b, bi, ldb, tb, c, ci, ldc, m, n, k):
    """C = op(A) op(B), m×k times k×n, for flat arrays of one type, offsets into them (ai, bi, ci), and the distances
    between rows (lda, ldb, ldc), all in elements. ta, tb: A is stored k×m, B n×k. Nothing is checked."""
    i = types.intp

    def generate(context, builder, signature, args):
        def pointer(kind, array, offset):
            data = context.make_helper(builder, kind, array).data
            return builder.bitcast(builder.gep(data, [offset]), cgutils.voidptr_t)

        number = context.get_value_type(signature.args[0].dtype)
        char, word, size = ir.IntType(8), cgutils.intp_t, {4: "s", 8: "d"}[context.get_abi_sizeof(number)]
        flag = lambda t: builder.select(builder.icmp_signed("!=", t, t.type(0)), char(ord("t")), char(ord("n")))
        one, zero = (cgutils.alloca_once_value(builder, ir.Constant(number, v)) for v in (1.0, 0.0))
        kinds, (a, ai, lda, ta, b, bi, ldb, tb, c, ci, ldc, m, n, k) = signature.args, args
        form = ir.FunctionType(ir.IntType(32), [char] * 3 + [word] * 3 + [cgutils.voidptr_t] * 2 + [word]
                               + [cgutils.voidptr_t, word] + [cgutils.voidptr_t] * 2 + [word])
        function = cgutils.get_or_insert_function(builder.module, form, "numba_xxgemm")
        void = lambda p: builder.bitcast(p, cgutils.voidptr_t)
        builder.call(function, (char(ord(size)), flag(tb), flag(ta), n, m, k, void(one), pointer(kinds[4], b, bi), ldb,
                                pointer(kinds[0], a, ai), lda, void(zero), pointer(kinds[8], c, ci), ldc))
        return context.get_dummy_value()

    return types.void(a, i, i, i, b, i, i, i, c, i, i, i, i, i), generate


@njit(**_FLAGS)
def _part(a, ta, b, tb, c, m, n, k, by_rows, first, last):
    """Rows first:last of C, or columns."""
    lda, ldb = m if ta else k, k if tb else n
    if by_rows:
        gemm(a, first if ta else first * lda, lda, ta, b, 0, ldb, tb, c, first * n, n, last - first, n, k)
    else:
        gemm(a, 0, lda, ta, b, first * ldb if tb else first, ldb, tb, c, first, n, m, last - first, k)


_parts = loop(_part)


@njit(**_FLAGS)
def _whole(team, pieces, n, *args):
    run(team, pieces, n, _parts(args))


@njit(**_FLAGS)
def _sum_part(a, ta, b, tb, c, m, n, k, blocks, first, last):
    """Terms of the sum over k: block s of them to c[s]."""
    lda, ldb = m if ta else k, k if tb else n
    for s in range(first, last):
        i, j = k * s // blocks, k * (s + 1) // blocks
        gemm(a, i * lda if ta else i, lda, ta, b, i if tb else i * ldb, ldb, tb, c, s * m * n, n, m, n, j - i)


_sum_parts = loop(_sum_part)


@njit(**_FLAGS)
def _sum_whole(team, pieces, n, *args):
    run(team, pieces, n, _sum_parts(args))


@njit(**_FLAGS)
def _stack_part(a, ta, b, tb, c, m, n, k, first, last):
    for s in range(first, last):
        gemm(a, s * m * k, m if ta else k, ta, b, s * k * n, k if tb else n, tb, c, s * m * n, n, m, n, k)


_stack_parts = loop(_stack_part)


@njit(**_FLAGS)
def _stack_whole(team, pieces, n, *args):
    run(team, pieces, n, _stack_parts(args))


def _flat(a: np.ndarray) -> tuple[np.ndarray, int] | None:
    """(the memory of a matrix, or of a stack of them, in one row; 1 if each is stored transposed), or None."""
    if a.flags.c_contiguous:
        return a.reshape(-1), 0
    a = a.swapaxes(-1, -2)
    return (a.reshape(-1), 1) if a.flags.c_contiguous else None


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
    """a b for two matrices, or two stacks of them of the same shape, of one float type; None if they do not lie in
    memory as BLAS needs them. out: C-contiguous."""
    left, right = _flat(a), _flat(b)
    if left is None or right is None or a.dtype != b.dtype or a.dtype.char not in "fd":
        return None
    (*stack, m, k), n = a.shape, b.shape[-1]
    if out is None:
        out = np.empty((*stack, m, n), a.dtype)
    if stack:
        count = out.size // (m * n)
        run_in_pieces(_stack_whole, count, *left, *right, out.reshape(-1), m, n, k, least=-(-SMALL // (m * n * k)))
    elif k >= 4 * max(m, n) and (blocks := min(get_threads(), k // (2 * SIDE))) > 1:  # a small result of a long sum
        parts = np.empty((blocks, m, n), a.dtype)
        run_in_pieces(_sum_whole, blocks, *left, *right, parts.reshape(-1), m, n, k, blocks)
        parts.sum(axis=0, out=out)
    else:
        by_rows = m >= n
        run_in_pieces(_whole, max(m, n), *left, *right, out.reshape(-1), m, n, k, int(by_rows), least=SIDE)
    return out
