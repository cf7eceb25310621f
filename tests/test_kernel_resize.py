"""Nearest-neighbour enlargement, block sums, joining two arrays: loops = cpu = the operation, adjoint, odd arrays."""

import numba
import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.kernels import concat, resize, threads
from tinygen.kernels.concat import loops as concat_loops
from tinygen.kernels.resize import loops

nearest, block_sum, join = numba.njit(loops.nearest), numba.njit(loops.block_sum), numba.njit(concat_loops.forward)
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 1), (1, 4, 4, 3), (3, 5, 7, 16), (2, 9, 8, 33), (0, 3, 3, 2), (2, 3, 3, 0),
          (4, 16, 16, 64)]  # fmt: skip
SCALES = [(1, 1), (2, 2), (3, 1), (1, 4), (2, 3)]


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
def test_resize_equals_loops(shape, scale, dtype):
    x = numbers(*shape, dtype=dtype)
    y = resize.nearest(x, scale=scale)
    np.testing.assert_array_equal(y, nearest(x, *scale))
    g = numbers(*y.shape, dtype=dtype, seed=1)
    gx = resize.block_sum(g, scale=scale)
    terms = block_sum(np.abs(g), *scale)
    budget = 6e-8 * max(scale[0] * scale[1] - 1, 1) if dtype is np.float32 else 1e-12
    assert np.all(np.abs(gx - block_sum(g.astype(float), *scale)) <= budget * terms)
    assert y.dtype == gx.dtype == dtype and gx.shape == shape
    assert np.vdot(g.astype(float), y) == pytest.approx(np.vdot(gx.astype(float), x), rel=1e-4, abs=1e-4)  # the adjoint


@pytest.mark.parametrize("scale", SCALES)
def test_the_operations_in_float32_are_those_in_float64(scale):
    """In float64 they are plain NumPy."""
    x, g = numbers(2, 3, 5, 4), numbers(2, 3 * scale[0], 5 * scale[1], 4, seed=1)
    found = []
    for dtype in (np.float32, np.float64):
        t = tg.Tensor(x.astype(dtype), requires_grad=True)
        y = ops.resize_nearest(t, scale)
        found.append((y.numpy(), tg.grad(y, t, tg.Tensor(g.astype(dtype))).numpy()))
        t = tg.Tensor(g.astype(dtype), requires_grad=True)
        y = ops.avg_pool2d(t, scale)
        found[-1] += (y.numpy(), tg.grad(y, t, tg.Tensor(x.astype(dtype))).numpy())
    for have, need in zip(*found, strict=True):
        assert have.dtype == np.float32
        np.testing.assert_allclose(have, need, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("a,b,axis", [((3, 5), (3, 2), 1), ((2, 3, 4), (2, 1, 4), 1), ((4,), (3,), 0),
                                      ((2, 0), (2, 3), 1), ((0, 3), (0, 2), 1),
                                      ((9, 8, 7, 33), (9, 8, 7, 31), 3)])  # fmt: skip
def test_concat(a, b, axis, dtype):
    a, b = numbers(*a, dtype=dtype), numbers(*b, dtype=dtype, seed=1)
    a[..., :1] = np.nan
    y = concat.forward(a, b, axis=axis)
    np.testing.assert_array_equal(y, np.concatenate([a, b], axis))
    assert y.dtype == dtype
    if y.size and axis:
        rows = y.shape[0] if axis == 1 else y[..., 0].size
        np.testing.assert_array_equal(y.reshape(rows, -1), join(a.reshape(rows, -1), b.reshape(rows, -1)))


@pytest.mark.parametrize("axis", [1, -1])
def test_the_large_operation(axis):
    a, b = numbers(40, 30, 32), numbers(40, 30, 32, seed=1)
    x = [tg.Tensor(t, requires_grad=True) for t in (a, b)]
    y = ops.concat(x, axis=axis)
    np.testing.assert_array_equal(y.numpy(), np.concatenate([a, b], axis))
    g = numbers(*y.shape, seed=2)
    for have, need in zip(tg.grad(y, x, tg.Tensor(g)), np.split(g, 2, axis), strict=True):
        np.testing.assert_array_equal(have.numpy(), need)


def test_non_contiguous_and_read_only_inputs():
    x = numbers(6, 5, 4, 8)
    odd = np.asfortranarray(x)
    odd.flags.writeable = False
    np.testing.assert_array_equal(resize.nearest(odd, scale=(2, 2)), resize.nearest(x, scale=(2, 2)))
    np.testing.assert_array_equal(resize.block_sum(odd, scale=(1, 2)) if odd.shape[2] % 2 == 0 else 0, resize.block_sum(
        x, scale=(1, 2)))  # fmt: skip
    np.testing.assert_array_equal(concat.forward(odd, x[:, ::-1], axis=2), np.concatenate([x, x[:, ::-1]], 2))


def test_results_do_not_depend_on_threads():
    x = numbers(8, 32, 32, 48)
    before = threads.get_threads()
    results = []
    try:
        for count in (1, 2, 3):
            threads.set_threads(count)
            results.append((resize.nearest(x, scale=(2, 2)), resize.block_sum(x, scale=(2, 2)),
                            concat.forward(x, x, axis=3)))
    finally:
        threads.set_threads(before)
    for other in results[1:]:
        for have, need in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(have, need)


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="float32 or float64, not int64"):
        resize.nearest(np.zeros((1, 1, 1, 1), int), scale=(2, 2))
    with pytest.raises(TypeError, match="numpy arrays and was given a builtins.list"):
        concat.forward([1.0], [1.0], axis=0)
    with pytest.raises(TypeError, match="not float32 and float64"):
        concat.forward(np.zeros(1, np.float32), np.zeros(1), axis=0)
