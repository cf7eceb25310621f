"""Matrix products and the algebra of small matrices. Leading axes are batches and broadcast.

The rules of the factorisations and solvers follow Giles, "An extended collection of matrix derivative results for
forward and reverse mode algorithmic differentiation" (2008), and for the Cholesky factor Murray, "Differentiation of
the Cholesky decomposition" (2016). All are written in operations that have rules themselves.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ShapeError, TinygenError
from ..tape import op
from ..tensor import Tensor
from .elementwise import neg, unbroadcast
from .shape import reshape, tril

# ---- the product


def _no_product(a, b) -> ShapeError:
    """What is wrong with the shapes of a product that NumPy refused."""
    if not np.ndim(a) or not np.ndim(b):
        return ShapeError("matmul needs vectors or matrices; multiply by a number with *.")
    k = -2 if b.ndim > 1 else -1
    if a.shape[-1] != b.shape[k]:
        return ShapeError(f"matmul needs a.shape[-1] == b.shape[{k}]; {a.shape[-1]} != {b.shape[k]}.")
    return ShapeError(f"matmul needs batch axes that broadcast; {a.shape[:-2]} and {b.shape[:-2]} do not.")


def _matmul_flops(a, b, ta, tb):
    batch = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    return 2 * batch * math.prod(a.shape[-2:]) * (b.shape[-2 if tb else -1] if b.ndim > 1 else 1)


@op(flops=_matmul_flops)
def matmul(xp, a, b, *, ta=False, tb=False):
    """y = a b, a (…, M, K), b (…, K, N); aᵀ for a with `ta`, bᵀ for b with `tb`. A vector counts as a row on the
    left and as a column on the right, and its axis is dropped from the result, as in NumPy. A batch times a single
    matrix is one product of two matrices."""
    try:
        if ta:
            a = a.swapaxes(-1, -2)
        if tb:
            b = b.swapaxes(-1, -2)
        if b.ndim == 2 and a.ndim > 2:
            *batch, k = a.shape
            return xp.matmul(a.reshape(math.prod(batch), k), b).reshape(*batch, b.shape[1])
        return xp.matmul(a, b)
    except (ValueError, AttributeError):
        raise _no_product(a, b) from None


def _as_matrices(g: Tensor, a_shape, b_shape) -> tuple[Tensor, tuple, tuple]:
    """The product with its vectors written as one-row and one-column matrices."""
    if len(b_shape) == 1:
        g, b_shape = reshape(g, shape=(*g.shape, 1)), (*b_shape, 1)
    if len(a_shape) == 1:
        g, a_shape = reshape(g, shape=(*g.shape[:-1], 1, g.shape[-1])), (1, *a_shape)
    return g, a_shape, b_shape


def _shaped(x: Tensor, shape) -> Tensor:
    return x if x.shape == shape else reshape(x, shape=shape)


def _matmul_a(g, b, a_shape, b_shape, ta, tb):
    g, a_matrix, b_matrix = _as_matrices(g, a_shape, b_shape)
    b = _shaped(b, b_matrix)
    ga = matmul(b, g, ta=tb, tb=True) if ta else matmul(g, b, ta=False, tb=not tb)  # (g bᵀ)ᵀ = b gᵀ
    return _shaped(unbroadcast(ga, a_matrix), a_shape)


def _matmul_b(g, a, a_shape, b_shape, ta, tb):
    g, a_matrix, b_matrix = _as_matrices(g, a_shape, b_shape)
    a = _shaped(a, a_matrix)
    if len(b_matrix) == 2 and len(a_matrix) > 2 and not ta:  # one b served the whole batch: sum inside one product
        rows = math.prod(a_matrix[:-1])
        a, g = reshape(a, shape=(rows, a_matrix[-1])), reshape(g, shape=(rows, g.shape[-1]))
    gb = matmul(g, a, ta=True, tb=ta) if tb else matmul(a, g, ta=not ta, tb=False)
    return _shaped(unbroadcast(gb, b_matrix), b_shape)


matmul.vjp(a=_matmul_a, b=_matmul_b)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """y[i, j] = a[i] b[j] of two vectors; arrays of more axes are flattened."""
    return reshape(a, shape=(a.size, 1)) * reshape(b, shape=(1, b.size))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b over the last axis, which must be equally long; the other axes broadcast."""
    if a.shape[-1:] != b.shape[-1:]:
        raise ShapeError(f"dot needs last axes of one length; {a.shape} and {b.shape} have not.")
    y = matmul(reshape(a, shape=(*a.shape[:-1], 1, a.shape[-1])), reshape(b, shape=(*b.shape, 1)))
    return reshape(y, shape=y.shape[:-2])
