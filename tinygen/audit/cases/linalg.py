"""Cases of ops/linalg.py."""

import numpy as np

from . import case

for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)),
             ((2, 3, 4), (4,)), ((4,), (2, 4, 3)),
             ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((0, 3, 4), (4, 5))):
    case("matmul", a, b)
case("linear", (3, 4), (4, 2), (2,))
case("linear", (2, 3, 4), (4, 5), (5,))
case("linear", (4,), (4, 5), make=lambda rng: (rng.standard_normal(4), rng.standard_normal((4, 5)), None))
case("linear", (0, 4), (4, 5), (5,))
case("matmul", (2, 4, 3), (4, 5), ta=True)
case("matmul", (3, 1), (1, 4))
case("matmul", (2, 3, 4), (5, 4), tb=True)
case("matmul", (4, 3), (2, 5, 4), ta=True, tb=True)

for subscripts, *shapes in (("ij,jk->ik", (3, 4), (4, 2)), ("bhqd,bhkd->bhqk", (2, 1, 3, 4), (2, 1, 5, 4)),
                            ("ij->ji", (3, 4)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("iij->j", (3, 3, 2)),
                            ("ij,kl->ik", (2, 3), (4, 2)), ("ij,k,k->j", (2, 3), (4,), (4,)),
                            ("i,i", (4,), (4,)),
                            ("...i,ij->...j", (2, 3, 4), (4, 2)), ("ij,ij->ij", (2, 3), (2, 3)),
                            ("iji,jk->kj", (2, 3, 2), (3, 4)),
                            ("ni,nj,nij->n", (0, 2), (0, 3), (0, 2, 3)),
                            ("bi,bj,bij->b", (3, 2), (3, 4), (3, 2, 4)), (",i->i", (), (3,))):
    case("einsum", *shapes, subscripts=subscripts)


def _matrices(*shapes, positive=False):
    """make: matrices far from singular (the first shape), and standard normal right-hand sides."""

    def make(rng):
        a, *rest = (rng.standard_normal(s) for s in shapes)
        a = (a @ a.swapaxes(-1, -2) if positive else a) + 3 * np.eye(a.shape[-1])
        return a, *rest

    return make


for batch in ((), (2,), (0,)):
    for name in ("inv", "det", "slogdet"):
        case(name, make=_matrices((*batch, 3, 3)))
    case("cholesky", make=_matrices((*batch, 3, 3), positive=True))
    case("solve", make=_matrices((*batch, 3, 3), (*batch, 3, 2)))
for name in ("solve", "solve_triangular"):
    case(name, make=_matrices((2, 1, 3, 3), (4, 3, 2)))
    case(name, make=_matrices((3, 3), (2, 3, 1)))
case("solve_triangular", make=_matrices((2, 3, 3), (3, 4)), lower=False)
case("solve_triangular", make=_matrices((2, 3, 3), (2, 3, 1)), transpose=True)
case("solve_triangular", make=_matrices((3, 3), (2, 3, 1)), lower=False, transpose=True)
