"""Matrix products and the algebra of small matrices. Leading axes are batches and broadcast.

The rules of the solvers follow Giles, "An extended collection of matrix derivative results for forward and
reverse mode algorithmic differentiation" (2008), that of the Cholesky factor Murray, "Differentiation of the
Cholesky decomposition" (2016). All are written in operations that have rules themselves.
"""

from __future__ import annotations

import math
import string
from functools import lru_cache

import numpy as np

from .. import backend
from ..errors import DtypeError, ShapeError, TinygenError
from ..kernels import gemm
from ..kernels.threads import matmul as shared_matmul
from ..modes import precise
from ..tape import Op, op
from ..tensor import Tensor, wrap
from .elementwise import neg, unbroadcast
from .shape import reshape, swapaxes, tril, triu

# ---- the product


def _product(xp, a, precision):
    """The product of matrices for arrays like a. float32 on a GPU takes our own, which a CUDA graph can hold."""
    if precision != "float32":
        return lambda a, b: gemm.matmul(a, b, precision)
    return shared_matmul if xp is np else gemm.matmul if a.dtype == np.float32 else xp.matmul


def _no_product(a, b) -> ShapeError:
    """What is wrong with the shapes of a product that NumPy refused."""
    if not np.ndim(a) or not np.ndim(b):
        return ShapeError("matmul needs vectors or matrices; multiply by a number with *.")
    k = -2 if b.ndim > 1 else -1
    if a.shape[-1] != b.shape[k]:
        return ShapeError(f"matmul needs a.shape[-1] == b.shape[{k}]; {a.shape[-1]} != {b.shape[k]}.")
    return ShapeError(f"matmul needs batch axes that broadcast; {a.shape[:-2]} and {b.shape[:-2]} do not.")


def _matmul_flops(a, b, ta, tb, precision=None):
    batch = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    return 2 * batch * math.prod(a.shape[-2:]) * (b.shape[-2 if tb else -1] if b.ndim > 1 else 1)


def _precise(*arrays, precision=None, **attrs):
    return attrs | {"precision": precise(precision, getattr(arrays[0], "dtype", None))}


@op(flops=_matmul_flops, prepare=_precise)
def matmul(xp, a, b, *, ta=False, tb=False, precision=None):
    """y = a b, a (…, M, K), b (…, K, N); aᵀ for a with `ta`, bᵀ for b with `tb`. A vector counts as a row on
    the left and as a column on the right, and its axis is dropped from the result, as in NumPy. A batch times
    a single matrix is one product of two matrices. precision: see `tinygen.precision`."""
    try:
        if ta:
            a = a.swapaxes(-1, -2)
        if tb:
            b = b.swapaxes(-1, -2)
        if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] == 1 and precision == "float32":
            return a * b  # an outer product, which BLAS is slow at
        product = _product(xp, a, precision)
        if b.ndim == 2 and a.ndim > 2:
            *batch, k = a.shape
            return product(a.reshape(math.prod(batch), k), b).reshape(*batch, b.shape[1])
        return product(a, b)
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


def _matmul_a(g, b, a_shape, b_shape, ta, tb, precision):
    g, a_matrix, b_matrix = _as_matrices(g, a_shape, b_shape)
    b = _shaped(b, b_matrix)
    if ta:
        ga = matmul(b, g, ta=tb, tb=True, precision=precision)  # (g bᵀ)ᵀ = b gᵀ
    else:
        ga = matmul(g, b, ta=False, tb=not tb, precision=precision)
    return _shaped(unbroadcast(ga, a_matrix), a_shape)


def _matmul_b(g, a, a_shape, b_shape, ta, tb, precision):
    g, a_matrix, b_matrix = _as_matrices(g, a_shape, b_shape)
    a = _shaped(a, a_matrix)
    if len(b_matrix) == 2 and len(a_matrix) > 2 and not ta:  # one b for the whole batch: one product sums it
        rows = math.prod(a_matrix[:-1])
        a, g = reshape(a, shape=(rows, a_matrix[-1])), reshape(g, shape=(rows, g.shape[-1]))
    if tb:
        gb = matmul(g, a, ta=True, tb=ta, precision=precision)
    else:
        gb = matmul(a, g, ta=not ta, tb=False, precision=precision)
    return _shaped(unbroadcast(gb, b_matrix), b_shape)


matmul.vjp(a=_matmul_a, b=_matmul_b)


def _linear_flops(x, w, b, **attrs):
    return 2 * x.size * w.shape[1] + (0 if b is None else x.size // w.shape[0] * w.shape[1])


@op(flops=_linear_flops, prepare=_precise)
def linear(xp, x, w, b=None, *, precision=None):
    """y = x w + b, x (…, K), w (K, F), b (F,) or None: the layer, in one pass over y. precision: see
    `tinygen.precision`."""
    if w.ndim != 2 or not x.ndim or x.shape[-1] != w.shape[0]:
        raise ShapeError(f"linear needs x (…, K) and w (K, F); x is {x.shape} and w is {w.shape}.")
    if b is not None and b.shape != w.shape[1:]:
        raise ShapeError(f"linear needs b of shape {w.shape[1:]}; it is {b.shape}.")
    *batch, k = x.shape
    rows = x.reshape(math.prod(batch), k)
    if xp is not np and x.dtype == np.float32:
        return gemm.matmul(rows, w, precision, b).reshape(*batch, w.shape[1])
    y = _product(xp, x, precision)(rows, w)
    if b is not None:
        y += b
    return y.reshape(*batch, w.shape[1])


linear.vjp(
    x=lambda g, w, precision: matmul(g, w, tb=True, precision=precision),
    w=lambda g, x, precision: _matmul_b(g, x, x.shape, (x.shape[-1], g.shape[-1]), False, False, precision),
    b=lambda g, b_shape: unbroadcast(g, b_shape),
)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """y[i, j] = a[i] b[j] of two vectors; arrays of more axes are flattened."""
    return reshape(a, shape=(a.size, 1)) * reshape(b, shape=(1, b.size))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b over the last axis, which must be equally long; the other axes broadcast."""
    if a.shape[-1:] != b.shape[-1:]:
        raise ShapeError(f"dot needs last axes of one length; {a.shape} and {b.shape} have not.")
    y = matmul(reshape(a, shape=(*a.shape[:-1], 1, a.shape[-1])), reshape(b, shape=(*b.shape, 1)))
    return reshape(y, shape=y.shape[:-2])


# ---- einsum


@lru_cache(maxsize=1024)
def _explicit(subscripts: str, ndims: tuple[int, ...]) -> str:
    """The subscripts with the output written out and letters in the place of "..."."""
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ShapeError(f"einsum needs a term for each operand; {len(terms)} terms, {len(ndims)} operands.")
    spare = [c for c in string.ascii_letters if c not in subscripts]
    rest = [n - len(t.replace("...", "")) for t, n in zip(terms, ndims)]
    for t, n, extra in zip(terms, ndims, rest):
        if extra and "..." not in t or extra < 0:
            raise ShapeError(f"einsum needs a letter for each axis; {t!r} has {n - extra}, its operand {n}.")
    longest = max((e for t, e in zip(terms, rest) if "..." in t), default=0)
    terms = [t.replace("...", "".join(spare[longest - e : longest])) for t, e in zip(terms, rest)]
    every = "".join(terms)
    if not arrow:
        once = sorted(c for c in set(every) - set(spare) if every.count(c) == 1)
        out = "".join([*spare[:longest], *once])
    out = out.replace("...", "".join(spare[:longest]))
    if not (every + out).isalpha() and every + out or not set(out) <= set(every) or len(set(out)) < len(out):
        raise ShapeError(f"einsum needs letters, each of the output once and from an input; {subscripts!r}.")
    return f"{','.join(terms)}->{out}"


def _prepare_einsum(*xs, subscripts, precision=None):
    shapes = [np.shape(x) for x in xs]
    subscripts = _explicit(subscripts, tuple([len(s) for s in shapes]))
    sizes: dict[str, int] = {}
    for term, shape in zip(subscripts.partition("->")[0].split(","), shapes):
        for c, n in zip(term, shape):
            if sizes.setdefault(c, n) != n:
                raise ShapeError(f"einsum needs one length for each index; {c!r} is {sizes[c]} and {n}.")
    return {"subscripts": subscripts, "precision": precise(precision, getattr(xs[0], "dtype", None))}


def _einsum_flops(*xs, subscripts, precision=None):
    terms = subscripts.partition("->")[0].split(",")
    sizes = {c: n for term, x in zip(terms, xs) for c, n in zip(term, np.shape(x))}
    return len(xs) * math.prod(sizes.values())


def _einsum(xp, *xs, subscripts, precision=None):
    """y[out] = the product of all operands, summed over each index that is not in `out` (Einstein). precision, of two
    operands: see `tinygen.precision`."""
    left, _, out = subscripts.partition("->")
    terms = left.split(",")
    if len(xs) == 2 and all(len(set(t)) == len(t) for t in terms):
        return _einsum_of_two(xp, xs, terms, out, precision)
    return xp.einsum(subscripts, *xs, optimize=len(xs) > 2)


def _einsum_of_two(xp, xs, terms, out: str, precision: str):
    """Two operands as one batched product of matrices: (batch, rows, k) · (batch, k, columns)."""

    def arranged(x, term, other, *groups):
        alone = tuple(i for i, c in enumerate(term) if c not in other and c not in out)
        x = xp.asarray(x).sum(axis=alone) if alone else xp.asarray(x)
        term = "".join(c for c in term if c in other or c in out)
        x = x.transpose([term.index(c) for c in "".join(groups)])
        sizes.update(zip("".join(groups), x.shape))
        return x.reshape([math.prod([sizes[c] for c in group]) for group in groups])

    (a, b), (of_a, of_b), sizes = xs, terms, {}  # type: ignore[var-annotated]
    batch = "".join(c for c in of_a if c in of_b and c in out)
    k = "".join(c for c in of_a if c in of_b and c not in out)
    rows = "".join(c for c in of_a if c in out and c not in of_b)
    columns = "".join(c for c in of_b if c in out and c not in of_a)
    a, b = arranged(a, of_a, of_b, batch, rows, k), arranged(b, of_b, of_a, batch, k, columns)
    product = np.matmul if xp is np and precision == "float32" else _product(xp, a, precision)
    y = product(a, b) if k else a * b
    y = y.reshape([sizes[c] for c in batch + rows + columns])
    return y.transpose([(batch + rows + columns).index(c) for c in out])


def _einsum_rule(g, xs, i, subscripts, precision, xs_shape):
    """The same sum with g in the place of operand i. An index that only operand i had was summed over, so its
    gradient is the same along it (times ones); one that it had twice picked the diagonal (times an
    identity)."""
    left, _, out = subscripts.partition("->")
    terms = left.split(",")
    mine, operands, xp = terms[i], [g, *xs[:i], *xs[i + 1 :]], backend.array_module([g.data])
    terms = [out, *terms[:i], *terms[i + 1 :]]
    known = set("".join(terms))
    spare = (c for c in string.ascii_letters if c not in subscripts)
    target = ""
    for c, n in zip(mine, xs_shape[i]):
        if c in target:
            c = (twin := next(spare), c)
            operands.append(wrap(xp.eye(n, dtype=g.dtype), None))
            terms.append("".join(c))
            target += twin
            continue
        if c not in known:
            operands.append(wrap(xp.ones(n, g.dtype), None))
            terms.append(c)
        target += c
    return _einsum_op(*operands, subscripts=f"{','.join(terms)}->{target}", precision=precision)


_einsum_op = Op(_einsum, flops=_einsum_flops, prepare=_prepare_einsum, name="einsum")
_einsum_op.vjp(xs=_einsum_rule)


def einsum(subscripts: str, *xs) -> Tensor:
    """Einstein summation as in NumPy: einsum("ij,jk->ik", a, b). Repeated letters take diagonals, letters
    missing from the output are summed, "..." stands for the remaining axes, and without "->" the output has
    the letters that occur once, sorted. Unlike NumPy, an axis of length 1 is not repeated to match another.

    Raises ShapeError for subscripts that do not fit the operands."""
    return _einsum_op(*xs, subscripts=subscripts)


# ---- small matrices


def _check_square(name: str, a) -> None:
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"{name} needs square matrices (…, N, N); {a.shape}.")
    if a.dtype.kind != "f":
        raise DtypeError(f"{name} needs floats; {a.dtype}.")


def _square(name):
    def prepare(a, **attrs):
        _check_square(name, a)
        return attrs

    return prepare


def _system(name):
    def prepare(a, b, **attrs):
        _check_square(name, a)
        if b.ndim < 2 or b.shape[-2] != a.shape[-1]:
            raise ShapeError(f"{name} needs right-hand sides in columns, (…, {a.shape[-1]}, K); {b.shape}.")
        return attrs

    return prepare


def _lapack(name: str, needs: str, function, *arrays):
    try:
        with backend.solvers_raise():
            return function(*arrays)
    except np.linalg.LinAlgError:
        raise TinygenError(f"{name} needs {needs}.") from None


def _cubes(factor: float):
    """flops: factor · N³ for each matrix."""
    return lambda a, *b, **attrs: int(factor * a.size * a.shape[-1])


def _solve_flops(a, b, **attrs):
    return _cubes(2 / 3)(a) + 2 * b.size * a.shape[-1]


@op(flops=_cubes(1 / 3), prepare=_square("cholesky"))
def cholesky(xp, a):
    """The lower triangular L with L Lᵀ = ½ (a + aᵀ), a symmetric positive definite matrix."""
    symmetric = (a + a.swapaxes(-1, -2)) / 2
    return _lapack("cholesky", "positive definite matrices, and one of these is not", xp.linalg.cholesky, symmetric)


def _cholesky_rule(g, y):
    """Murray (2016), eq. 9: S = L⁻ᵀ Φ(Lᵀ g) L⁻¹, Φ the lower triangle with half the diagonal; a gets ½ (S +
    Sᵀ)."""
    n, xp = y.shape[-1], backend.array_module([y.data])
    phi = wrap(xp.tri(n, dtype=y.dtype) - xp.eye(n, dtype=y.dtype) / 2, None)
    p = solve_triangular(y, matmul(y, tril(g), ta=True) * phi, transpose=True)
    s = solve_triangular(y, swapaxes(p, -1, -2), transpose=True)
    return (s + swapaxes(s, -1, -2)) * 0.5


cholesky.vjp(a=_cholesky_rule)


@op(flops=_solve_flops, prepare=_system("solve_triangular"))
def solve_triangular(xp, a, b, *, lower=True, transpose=False):
    """y with T y = b, or Tᵀ y = b with `transpose`; T is the lower (or upper) triangle of a (…, N, N), b (…,
    N, K). For small matrices: the general solver does the work."""
    t = xp.tril(a) if lower else xp.triu(a)
    t = t.swapaxes(-1, -2) if transpose else t
    return _lapack("solve_triangular", "triangles without zeros on the diagonal", xp.linalg.solve, t, b)


def _triangular_a(g, a, y, a_shape, lower, transpose):
    gb = solve_triangular(a, g, lower=lower, transpose=not transpose)
    ga = matmul(y, gb, tb=True) if transpose else matmul(gb, y, tb=True)
    return unbroadcast(neg(tril(ga) if lower else triu(ga)), a_shape)


solve_triangular.vjp(
    a=_triangular_a,
    b=lambda g, a, b_shape, lower, transpose: unbroadcast(
        solve_triangular(a, g, lower=lower, transpose=not transpose), b_shape
    ),
)


@op(flops=_solve_flops, prepare=_system("solve"))
def solve(xp, a, b):
    """y = a⁻¹ b, a (…, N, N), b (…, N, K). Raises TinygenError for a singular matrix."""
    return _lapack("solve", "invertible matrices, and one of these is singular", xp.linalg.solve, a, b)


solve.vjp(
    a=lambda g, a, y, a_shape: unbroadcast(neg(matmul(solve(swapaxes(a, -1, -2), g), y, tb=True)), a_shape),
    b=lambda g, a, b_shape: unbroadcast(solve(swapaxes(a, -1, -2), g), b_shape),
)


@op(flops=_cubes(2), prepare=_square("inv"))
def inv(xp, a):
    """y = a⁻¹, a (…, N, N). Raises TinygenError for a singular matrix."""
    return _lapack("inv", "invertible matrices, and one of these is singular", xp.linalg.inv, a)


inv.vjp(a=lambda g, y: neg(matmul(matmul(y, g, ta=True), y, tb=True)))


def _per_matrix(x: Tensor) -> Tensor:
    return reshape(x, shape=(*x.shape, 1, 1))


@op(flops=_cubes(2 / 3), prepare=_square("det"))
def det(xp, a):
    """y = det a, a (…, N, N), y (…). The gradient, det a · a⁻ᵀ, needs a matrix that is not singular."""
    return xp.linalg.det(a)


det.vjp(a=lambda g, y, a: _per_matrix(g * y) * swapaxes(inv(a), -1, -2))


@op(flops=_cubes(2 / 3), prepare=_square("slogdet"))
def slogdet(xp, a):
    """(sign, log |det a|), a (…, N, N), both (…); a singular matrix gives (0, −∞). The gradient is that of
    the logarithm, a⁻ᵀ; the sign has none."""
    sign, logabsdet = xp.linalg.slogdet(a)
    return xp.asarray(sign), xp.asarray(logabsdet)


slogdet.vjp(a=lambda g, a: _per_matrix(g[1]) * swapaxes(inv(a), -1, -2))


def logdet(a: Tensor) -> Tensor:
    """log |det a| of small matrices (…, N, N); −∞ for a singular one."""
    return slogdet(a)[1]
