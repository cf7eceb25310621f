"""Batch norm: loops = cpu in float64, the float32 budget, few channels, one position, threads."""

import numba
import numpy as np
import pytest

from tinygen.kernels import batch_norm as K
from tinygen.kernels import threads
from tinygen.kernels.batch_norm import loops

loops_forward, loops_backward = numba.njit(loops.forward), numba.njit(loops.backward)
SHAPES = [(1, 1), (1, 5), (7, 1), (64, 3), (63, 3), (33, 128), (5, 4, 6, 10), (40, 129), (4096, 2)]


def case(shape, dtype, offset=0.0):
    rng = np.random.default_rng(0)
    x, gy = rng.standard_normal((2, *shape)).astype(dtype)
    return (gy, *rng.standard_normal((2, shape[-1])).astype(dtype)), x + dtype(offset), *rng.standard_normal(
        (2, shape[-1])).astype(dtype)  # fmt: skip


def run(g, x, w, b):
    made, hint = K.forward(x, w, b, eps=1e-5)
    return *made, *K.backward(g, x, w, b, eps=1e-5, hint=hint)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_equals_loops(shape, dtype, offset):
    g, x, w, b = case(shape, dtype, offset)
    rows, (gy, gm, gv), weight, bias = (x.astype(float).reshape(-1, shape[-1]), [a.astype(float) for a in g],
                                        w.astype(float), b.astype(float))  # fmt: skip
    y, mean, var = loops_forward(rows, weight, bias, 1e-5)
    want = y, mean, var, *loops_backward(gy.reshape(rows.shape), gm, gv, rows, weight, mean, var, 1e-5)
    rough = 1 / np.sqrt(var + 1e-5)  # a gradient is a difference of terms as large as this
    for k, (have, need) in enumerate(zip(run(g, x, w, b), want, strict=True)):
        assert have.dtype == dtype
        scale = max(1, np.abs(need).max(), rough.max() if k > 2 else 0)
        atol = (1e-10 if offset else 1e-12 if k < 3 else 1e-11) if dtype is np.float64 else 2e-6 if k < 3 else 4e-6
        np.testing.assert_allclose(have.reshape(need.shape), need, rtol=0, atol=atol * scale)


def test_non_contiguous_inputs_and_threads():
    g, x, w, b = case((30, 40, 12), np.float32)
    want = run(g, x, w, b)
    before = threads.get_threads()
    try:
        for count in (1, 2, 3):
            threads.set_threads(count)
            got = run((np.asfortranarray(g[0]), *g[1:]), x.transpose(1, 0, 2).copy().transpose(1, 0, 2), w, b)
            for have, need in zip(got, want, strict=True):
                np.testing.assert_array_equal(have, need)
    finally:
        threads.set_threads(before)


def test_nan_stays_in_its_channel():
    g, x, w, b = case((50, 5), np.float32)
    x[17, 2] = np.nan
    y, mean, var, gx, gw, gb = run(g, x, w, b)
    for a in (y, mean, var, gx, gw):
        assert np.isnan(a[..., 2]).all() and np.isfinite(np.delete(a, 2, -1)).all()
