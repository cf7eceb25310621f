"""kernels/gemm on the device against products in float64.

The error budget: number by number, 2 √K u Σ|a||b| and one u of the result more, u = 2⁻²⁴ (2⁻⁵³ in double); for "tf32"
and "bf16" the operands are rounded first, on either side."""

import numpy as np
import pytest

from tinygen.kernels import gemm
from tinygen.kernels.gemm import cuda as launcher
from tinygen.kernels.gemm import loops, round_to

RNG = np.random.default_rng(0)
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def held(y, a, b, precision="float32", bias=None):
    """Is y = a b + bias within the budget?"""
    u, k = UNIT[y.dtype.type], a.shape[-1]
    a, b = (round_to(t, precision).astype(np.longdouble) for t in (a, b))
    law, size = np.matmul(a, b), np.matmul(abs(a), abs(b))
    if bias is not None:
        law, size = law + bias, size + abs(bias)
    assert y.shape == law.shape
    assert (abs(y - law) <= u * (2 * np.sqrt(k) * size + abs(law))).all()


@pytest.fixture
def tile(monkeypatch):
    """Ask for a tile and a number of slices, whatever the shape."""
    return lambda size, slices=1: monkeypatch.setattr(launcher, "plan", lambda *shape: (size, slices))


@pytest.mark.tiny
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_small(precision, xp):
    a, b, bias = normal(5, 21), normal(21, 3), normal(3)
    y = gemm.matmul(xp.asarray(a), xp.asarray(b), precision, xp.asarray(bias))
    held(xp.asnumpy(y), a, b, precision, bias)
    held(loops.product(round_to(a, precision), round_to(b, precision), bias), a, b, precision, bias)


@pytest.mark.tiny
def test_slices_small(xp, tile):
    tile(64, 3)
    a, b = normal(3, 70), normal(70, 2)
    held(xp.asnumpy(gemm.matmul(xp.asarray(a), xp.asarray(b))), a, b)


@pytest.mark.parametrize("M, N, K", [(1, 1, 1), (1, 1, 700), (70, 93, 45), (64, 68, 32), (130, 132, 20), (2, 3, 4100)])
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
def test_shapes(M, N, K, turned, xp):
    a, b = normal(M, K), normal(K, N)
    given = [xp.asarray(np.ascontiguousarray(t.T)).T if n in turned else xp.asarray(t) for t, n in ((a, "a"), (b, "b"))]
    held(xp.asnumpy(gemm.matmul(*given)), a, b)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("M, N, K, turned", [(130, 132, 36, ""), (132, 140, 20, "ab"), (129, 65, 17, "")])
def test_tiles(precision, size, M, N, K, turned, xp, tile):
    tile(size)
    a, b = normal(M, K), normal(K, N)
    given = [xp.asarray(np.ascontiguousarray(t.T)).T if n in turned else xp.asarray(t) for t, n in ((a, "a"), (b, "b"))]
    y = xp.asnumpy(gemm.matmul(*given, precision))
    held(y, a, b, precision)
    assert (xp.asnumpy(gemm.matmul(*given, precision)) == y).all()


@pytest.mark.parametrize("shapes", [
    ((3, 5, 4, 7), (3, 5, 7, 6)), ((3, 5, 4, 7), (7, 6)), ((4, 7), (5, 7, 6)), ((3, 1, 4, 7), (1, 5, 7, 6)),
    ((5, 4, 7), (1, 7, 6)), ((1, 4, 7), (5, 7, 6)), ((7,), (7, 6)), ((4, 7), (7,)), ((7,), (7,)), ((5, 4, 7), (7,)),
    ((0, 4, 7), (0, 7, 6)), ((4, 0), (0, 6)), ((0, 7), (7, 6)),
])  # fmt: skip
def test_batches(shapes, xp):
    a, b = (normal(*s) for s in shapes)
    held(xp.asnumpy(gemm.matmul(xp.asarray(a), xp.asarray(b))), a, b)


def test_double(xp):
    a, b, bias = (normal(*s, dtype=np.float64) for s in ((70, 45), (45, 67), (67,)))
    y = gemm.matmul(xp.asarray(a), xp.asarray(b), "bf16", xp.asarray(bias))  # exact whatever the policy
    assert y.dtype == np.float64
    held(xp.asnumpy(y), a, b, bias=bias)


def test_views_are_read_right(xp):
    a, b = normal(6, 8, 10), normal(6, 12, 9)
    A, B = xp.asarray(a), xp.asarray(b)
    held(xp.asnumpy(gemm.matmul(A[::2, 1:, 1:9], B[1::2, 3:11])), a[::2, 1:, 1:9], b[1::2, 3:11])
    held(xp.asnumpy(gemm.matmul(A.swapaxes(1, 2), B[:, :8])), a.swapaxes(1, 2), b[:, :8])


def test_what_does_not_fit(xp):
    a = xp.asarray(normal(4, 7))
    batches = xp.asarray(normal(2, 4, 7)), xp.asarray(normal(3, 7, 5))
    for wrong in ((a, a), (a, batches[1][:, :5]), (a[0], a), batches):
        with pytest.raises(ValueError):
            gemm.matmul(*wrong)
    with pytest.raises(TypeError, match="float32 and float64"):
        gemm.matmul(a, xp.asarray(normal(7, 3, dtype=np.float64)))
    with pytest.raises(ValueError, match="'half'"):
        gemm.matmul(a, xp.asarray(normal(7, 3)), "half")


def test_capture(xp):
    a, b, bias = xp.asarray(normal(9, 2100)), xp.asarray(normal(2100, 7)), xp.asarray(normal(7))
    eager = gemm.matmul(a, b, "float32", bias)  # in slices
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        y = gemm.matmul(a, b, "float32", bias)
        z = gemm.matmul(a.reshape(3, 3, 2100), b.T.reshape(1, 7, 2100).swapaxes(1, 2), "tf32")
        graph = stream.end_capture()
    graph.launch(stream)
    assert (xp.asnumpy(y) == xp.asnumpy(eager)).all()
    a *= 2
    graph.launch(stream)
    assert (xp.asnumpy(y - bias) == xp.asnumpy(2 * (eager - bias))).all() or np.allclose(
        xp.asnumpy(y), xp.asnumpy(2 * (eager - bias) + bias), rtol=1e-5, atol=1e-4)
    held(xp.asnumpy(z), xp.asnumpy(a).reshape(3, 3, 2100), xp.asnumpy(b), "tf32")


class TestPlan:
    def test_it_depends_on_the_shape_alone(self):
        for M, N, K, products in ((131072, 128, 1152, 1), (128, 1152, 131072, 1), (64, 10, 64, 1), (256, 256, 64, 512)):
            tile, slices = launcher.plan(M, N, K, products, np.float32)
            assert tile in (64, 128) and 1 <= slices <= launcher.MOST_SLICES
        assert launcher.plan(131072, 128, 1152, 1, np.float32) == (128, 1)
        tile, slices = launcher.plan(1152, 128, 131072, 1, np.float32)  # a weight gradient: 9 tiles and a long k
        assert tile == 128 and 9 * slices >= launcher.PROCESSORS
        assert launcher.plan(100, 10, 64, 1, np.float32) == (64, 1)


class TestRounding:
    """round_to against the definition of rounding to nearest, and against what the kernels do."""

    x = np.concatenate([normal(500), normal(500) * 1e-30, normal(100) * 1e30, np.float32([0, -0.0, 1, 1 + 2**-11])])

    @pytest.mark.parametrize("precision, bits", [("tf32", 10), ("bf16", 7)])
    def test_nearest(self, precision, bits):
        mantissa, exponent = np.frexp(self.x.astype(np.float64))
        nearest = np.ldexp(np.rint(mantissa * 2 ** (bits + 1)), exponent - bits - 1)
        tie = abs(mantissa * 2 ** (bits + 1) % 1) == 0.5
        r = round_to(self.x, precision).astype(np.float64)
        assert (r == nearest)[~tie].all()
        half = round_to(np.float32([1 + 2.0 ** -(bits + 1), 1 + 3 * 2.0 ** -(bits + 1)]), precision)
        up = 1 + 2.0**-bits if precision == "tf32" else 1.0  # away from zero; to even
        assert half.tolist() == [up, 1 + 2 * 2.0**-bits]

    def test_specials(self):
        special = np.float32([np.inf, -np.inf, np.nan, -0.0])
        for precision in ("tf32", "bf16", "float32"):
            np.testing.assert_array_equal(round_to(special, precision), special)
        assert round_to(self.x.astype(np.float64), "bf16").dtype == np.float64
        with pytest.raises(ValueError, match="'fp8'"):
            round_to(self.x, "fp8")

    @pytest.mark.parametrize("precision", ["tf32", "bf16"])
    def test_the_kernel_rounds_so(self, precision, xp):
        x = np.random.default_rng(3).standard_normal((40, 1)).astype(np.float32)
        y = gemm.matmul(xp.asarray(x), xp.asarray(np.ones((1, 1), np.float32)), precision)
        assert (xp.asnumpy(y) == round_to(x, precision)).all()

    def test_on_the_cpu(self):
        a, b = normal(4, 50), normal(50, 3)
        held(gemm.matmul(a, b, "bf16", normal(3) * 0), a, b, "bf16")
        np.testing.assert_array_equal(gemm.matmul(a, b), a @ b)
