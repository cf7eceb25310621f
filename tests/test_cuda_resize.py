"""Nearest-neighbour enlargement and its adjoint on a device: exact, and a graph holds them."""

import numpy as np
import pytest

from tinygen.kernels import resize as K


def arrays(N, H, W, C, sh, sw):
    rng = np.random.default_rng(C)
    return rng.standard_normal((N, H, W, C)).astype(np.float32), rng.standard_normal((N, H * sh, W * sw, C)).astype(
        np.float32)  # fmt: skip


def check(xp, N, H, W, C, sh, sw):
    x, g = arrays(N, H, W, C, sh, sw)
    y, s = K.nearest(xp.asarray(x), scale=(sh, sw)), K.block_sum(xp.asarray(g), scale=(sh, sw))
    assert np.array_equal(xp.asnumpy(y), x.repeat(sh, 1).repeat(sw, 2))
    blocks = g.reshape(N, H, sh, W, sw, C)
    np.testing.assert_allclose(xp.asnumpy(s), blocks.sum((2, 4), dtype=np.float64), rtol=0,
                               atol=6e-8 * sh * sw * np.abs(blocks).sum((2, 4)).max(initial=0))  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 4, 5, 8, 2, 2), (1, 1, 1, 1, 1, 1), (3, 2, 7, 3, 3, 2), (1, 3, 70, 16, 2, 1),
                                   (0, 2, 2, 4, 2, 2), (1, 2, 300, 1, 1, 4)])  # fmt: skip
def test_it_is_exact(xp, shape):
    check(xp, *shape)


@pytest.mark.tiny
def test_tiny(xp):
    check(xp, 1, 2, 3, 4, 2, 2)
    check(xp, 2, 1, 3, 5, 2, 3)


def test_strides_and_a_graph(xp):
    x, g = arrays(2, 3, 4, 8, 2, 2)
    turned = xp.asarray(np.ascontiguousarray(x.transpose(3, 2, 1, 0))).transpose(3, 2, 1, 0)
    assert np.array_equal(xp.asnumpy(K.nearest(turned, scale=(2, 2))), x.repeat(2, 1).repeat(2, 2))
    with xp.cuda.Stream(non_blocking=True) as stream:
        on_device = xp.asarray(g)
        stream.begin_capture()
        y = K.nearest(K.block_sum(on_device, scale=(2, 2)), scale=(2, 2))
        graph = stream.end_capture()
        on_device *= np.float32(2)
        graph.launch()
        stream.synchronize()
    again = K.nearest(K.block_sum(on_device, scale=(2, 2)), scale=(2, 2))
    assert np.array_equal(xp.asnumpy(y), xp.asnumpy(again))


def test_other_types_are_refused(xp):
    with pytest.raises(TypeError, match="takes float32, not float64"):
        K.nearest(xp.zeros((1, 1, 1, 1), np.float64), scale=(2, 2))
