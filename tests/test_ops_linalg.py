"""Matrix products, einsum and small matrices: values, gradients of both orders, shapes of every kind, messages."""

import numpy as np
import pytest
from parity import compare, torch_or_skip

import tinygen as tg
from tinygen import ops

RNG = np.random.default_rng(19)


def x(*shape):
    return RNG.standard_normal(shape)


def square(f):
    """f, then the square: so that its second gradient is not zero."""
    return lambda *ts: f(*ts) ** 2


def matrices(*shape):
    """Far from singular."""
    return x(*shape) + 3 * np.eye(shape[-1])


@pytest.mark.parametrize("a, b", [
    ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 5, 3, 4), (4, 2)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)),
    ((2, 3, 4), (4,)), ((4,), (2, 4, 3)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)),
    ((0, 3, 4), (4, 5)), ((3, 0), (0, 2)), ((1, 7, 3, 1), (1, 6)),
])
def test_matmul_agrees_with_pytorch(a, b):
    torch = torch_or_skip()
    compare(square(ops.matmul), square(torch.matmul), x(*a), x(*b))


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("a, b", [
    ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 5)), ((3, 4), (2, 4, 5)),
])
def test_matmul_of_transposes_agrees_with_pytorch(a, b, ta, tb):
    torch_or_skip()
    a = (*a[:-2], a[-1], a[-2]) if ta else a
    b = (*b[:-2], b[-1], b[-2]) if tb else b
    compare(square(lambda p, q: ops.matmul(p, q, ta=ta, tb=tb)),
            square(lambda p, q: (p.mT if ta else p) @ (q.mT if tb else q)), x(*a), x(*b))


def test_a_weight_that_serves_a_batch_gets_its_gradient_from_one_product():
    """One product of two matrices, no batch of them summed afterwards."""
    t, w = tg.Tensor(x(2, 5, 3), requires_grad=True), tg.Tensor(x(3, 4), requires_grad=True)
    seen = []
    y = ops.matmul(t, w)
    with tg.tape.observe(lambda op, arrays, *rest: seen.append((op.name, *(a.shape for a in arrays)))):
        tg.grad(y, w, tg.Tensor(x(2, 5, 4)))
    assert ("matmul", (10, 3), (10, 4)) in seen and not any(name == "sum_to" for name, *_ in seen)


def test_outer_and_dot():
    torch = torch_or_skip()
    compare(square(ops.outer), square(torch.outer), x(3), x(4))
    compare(square(ops.dot), square(lambda a, b: (a * b).sum(-1)), x(2, 1, 4), x(3, 4))
    compare(square(ops.dot), square(torch.dot), x(4), x(4))


@pytest.mark.parametrize("subscripts, shapes", [
    ("ij,jk->ik", [(3, 4), (4, 2)]), ("ij,jk", [(3, 4), (4, 2)]), ("ij,kj->ik", [(3, 4), (2, 4)]),
    ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("bhqk,bhkd->bqhd", [(2, 3, 4, 5), (2, 3, 5, 2)]),
    ("nhwc,cf->nhwf", [(2, 3, 4, 5), (5, 2)]), ("ij->ji", [(3, 4)]), ("ij->j", [(3, 4)]), ("ij->", [(3, 4)]),
    ("ii->i", [(3, 3)]), ("ii", [(3, 3)]), ("iij->j", [(3, 3, 2)]), ("iii->i", [(3, 3, 3)]),
    ("iji,jk->kj", [(2, 3, 2), (3, 4)]), ("i,j->ij", [(3,), (4,)]), ("i,i", [(4,), (4,)]),
    ("ij,kl->ik", [(2, 3), (4, 2)]), ("ij,ij->ij", [(2, 3), (2, 3)]), ("ij,k,k->j", [(2, 3), (4,), (4,)]),
    ("bi,bj,bij->b", [(3, 2), (3, 4), (3, 2, 4)]), ("...i,ij->...j", [(2, 3, 4), (4, 2)]),
    ("...ij,...jk", [(2, 3, 4), (4, 2)]), ("b...c->bc...", [(2, 3, 4, 5)]),
    ("ni,nj,nij->n", [(0, 2), (0, 3), (0, 2, 3)]),
    (" i j , j k -> k i ", [(3, 4), (4, 2)]),
])
def test_einsum_agrees_with_pytorch(subscripts, shapes):
    torch = torch_or_skip()
    compare(square(lambda *ts: ops.einsum(subscripts, *ts)), square(lambda *ts: torch.einsum(subscripts, *ts)),
            *(x(*s) for s in shapes))


def test_small_matrices_agree_with_pytorch():
    torch = torch_or_skip()
    linalg = torch.linalg
    for batch in ((), (2,), (3, 1), (0,)):
        compare(square(ops.inv), square(linalg.inv), matrices(*batch, 4, 4))
        compare(square(ops.det), square(linalg.det), matrices(*batch, 3, 3))
        compare(square(ops.logdet), square(lambda a: linalg.slogdet(a)[1]), matrices(*batch, 4, 4))
        compare(square(ops.solve), square(linalg.solve), matrices(*batch, 4, 4), x(*batch, 4, 2))
        # cholesky takes the symmetric part of its matrix, so that each of the two twins gets half of the gradient
        compare(square(lambda a: ops.cholesky(ops.matmul(a, a, tb=True))), square(lambda a: linalg.cholesky(a @ a.mT)),
                matrices(*batch, 4, 4))
    compare(square(ops.solve), square(linalg.solve), matrices(2, 1, 3, 3), x(4, 3, 2))
    for lower in (True, False):
        for transpose in (True, False):
            def theirs(a, b, lower=lower, transpose=transpose):
                a = a.tril() if lower else a.triu()
                return linalg.solve_triangular(a.mT if transpose else a, b, upper=lower == transpose)

            compare(square(lambda a, b, lo=lower, tr=transpose: ops.solve_triangular(a, b, lower=lo, transpose=tr)),
                    square(theirs), matrices(2, 1, 3, 3), x(4, 3, 2))


def test_the_sign_and_the_logarithm_of_a_determinant():
    a = matrices(5, 3, 3)
    a[::2, 0] *= -1
    sign, logarithm = ops.slogdet(tg.Tensor(a))
    assert np.allclose(sign.numpy() * np.exp(logarithm.numpy()), np.linalg.det(a))
    sign, logarithm = ops.slogdet(tg.Tensor(np.zeros((2, 2))))
    assert sign.item() == 0 and logarithm.item() == -np.inf
    t = tg.Tensor(a, requires_grad=True)
    g = tg.grad(ops.slogdet(t)[0].sum(), t).numpy()
    assert g.shape == a.shape and not g.any()


def test_float32_stays_float32():
    a = tg.Tensor(matrices(2, 3, 3).astype(np.float32), requires_grad=True)
    positive = ops.matmul(a, a, tb=True)
    for y in (positive, ops.einsum("bij,bkj->ik", a, a), ops.cholesky(positive), ops.inv(a), ops.det(a),
              ops.logdet(a), ops.solve(a, a), ops.solve_triangular(a, a)):
        assert y.dtype == np.float32 and tg.grad(y.sum(), a, retain_graph=True).dtype == np.float32


@pytest.mark.parametrize("call, kind, text", [
    (lambda t: t @ t, tg.errors.ShapeError, "matmul needs a.shape[-1] == b.shape[-2]; 4 != 3."),
    (lambda t: t @ t[0, :3], tg.errors.ShapeError, "matmul needs a.shape[-1] == b.shape[-1]; 4 != 3."),
    (lambda t: ops.matmul(x(2, 3, 4), x(5, 4, 2)), tg.errors.ShapeError,
     "matmul needs batch axes that broadcast; (2,) and (5,) do not."),
    (lambda t: t @ 2.0, tg.errors.ShapeError, "matmul needs vectors or matrices; multiply by a number with *."),
    (lambda t: ops.dot(t, t[0, :3]), tg.errors.ShapeError,
     "dot needs last axes of one length; (3, 4) and (3,) have not."),
    (lambda t: ops.einsum("ij,jk", t), tg.errors.ShapeError,
     "einsum needs a term for each operand; 2 terms, 1 operands."),
    (lambda t: ops.einsum("ijk->i", t), tg.errors.ShapeError,
     "einsum needs a letter for each axis; 'ijk' has 3, its operand 2."),
    (lambda t: ops.einsum("ij,jk", t, t), tg.errors.ShapeError,
     "einsum needs one length for each index; 'j' is 4 and 3."),
    (lambda t: ops.einsum("ij->ik", t), tg.errors.ShapeError,
     "einsum needs letters, each of the output once and from an input; 'ij->ik'."),
    (lambda t: ops.einsum("ij->ii", t), tg.errors.ShapeError, "each of the output once"),
    (lambda t: ops.einsum("i1->i", t), tg.errors.ShapeError, "einsum needs letters"),
    (ops.inv, tg.errors.ShapeError, "inv needs square matrices (…, N, N); (3, 4)."),
    (ops.cholesky, tg.errors.ShapeError, "cholesky needs square matrices"),
    (lambda t: ops.det(np.eye(3, dtype=int)), tg.errors.DtypeError, "det needs floats; int64."),
    (lambda t: ops.solve(t[:, :3], t[0]), tg.errors.ShapeError,
     "solve needs right-hand sides in columns, (…, 3, K); (4,)."),
    (lambda t: ops.solve_triangular(t[:, :3], t[:2]), tg.errors.ShapeError,
     "right-hand sides in columns, (…, 3, K); (2, 4)."),
    (lambda t: ops.inv(np.ones((2, 3, 3))), tg.errors.TinygenError,
     "inv needs invertible matrices, and one of these is singular."),
    (lambda t: ops.cholesky(-np.eye(3)), tg.errors.TinygenError,
     "cholesky needs positive definite matrices, and one of these is not."),
], ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_messages(call, kind, text):
    with pytest.raises(kind) as caught:
        call(tg.Tensor(x(3, 4)))
    assert text in str(caught.value).splitlines()[-1]  # the lines before quote this file
