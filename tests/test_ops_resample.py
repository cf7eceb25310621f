"""Pixel shuffles, resizing, pooling and filters: values and gradients of both orders, odd sizes, adjoints, messages."""

import numpy as np
import pytest
from parity import compare, torch_or_skip

import tinygen as tg
from tinygen import ops

RNG = np.random.default_rng(23)


def x(*shape):
    return RNG.standard_normal(shape)


def square(f):
    """f, then the square: so that its second gradient is not zero."""
    return lambda t: f(t) ** 2


def nchw(f):
    """A function of PyTorch's order of axes, for images N, H, W, C."""
    return square(lambda t: f(t.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_depth_to_space_has_the_order_of_tensorflow():
    t = np.arange(16.0).reshape(1, 2, 2, 4)  # the example of tf.nn.depth_to_space, block 2
    y = ops.depth_to_space(tg.Tensor(t), block=2)
    assert y.numpy()[0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert np.array_equal(ops.space_to_depth(y, block=2), t)
    t = x(2, 3, 5, 18)
    y = ops.depth_to_space(tg.Tensor(t), 3).numpy()
    assert y.shape == (2, 9, 15, 2) and y[1, 7, 5, 1] == t[1, 2, 1, (1 * 3 + 2) * 2 + 1]


def test_pixel_shuffles_agree_with_pytorch():
    torch = torch_or_skip()
    f = torch.nn.functional
    order = np.arange(18).reshape(2, 9).T.ravel()  # PyTorch has the channel slowest
    compare(square(lambda t: ops.depth_to_space(t, block=3)),
            nchw(lambda t: f.pixel_shuffle(t[:, np.argsort(order)], 3)), x(2, 3, 5, 18))
    compare(square(lambda t: ops.space_to_depth(t, block=3)), nchw(lambda t: f.pixel_unshuffle(t, 3)[:, order]),
            x(2, 3, 6, 2))


@pytest.mark.parametrize("scale", [1, 2, (3, 1), (1, 2)])
def test_nearest_agrees_with_pytorch(scale):
    torch = torch_or_skip()
    compare(square(lambda t: ops.resize_nearest(t, scale=scale)),
            nchw(lambda t: torch.nn.functional.interpolate(t, scale_factor=scale)), x(2, 3, 5, 4))


@pytest.mark.parametrize("size", [(6, 10), (14, 10), (3, 2), (7, 5), (1, 1), (9, 3)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_bilinear_agrees_with_pytorch(size, align_corners, antialias):
    torch = torch_or_skip()
    for channels in (1, 3, 6):
        compare(
            square(lambda t: ops.resize_bilinear(t, size, align_corners, antialias)),
            nchw(lambda t: torch.nn.functional.interpolate(t, size=size, mode="bilinear", align_corners=align_corners,
                                                           antialias=antialias)),
            x(2, 7, 5, channels),
        )


@pytest.mark.parametrize("size, stride, padding", [
    (2, None, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0), ((2, 3), (1, 2), (0, 1)), ((1, 3), 2, (0, 1)), (5, 5, 0), (5, 1, 2),
])
def test_pooling_agrees_with_pytorch(size, stride, padding):
    torch = torch_or_skip()
    f = torch.nn.functional
    for include in (True, False):
        compare(square(lambda t, i=include: ops.avg_pool2d(t, size, stride, padding, i)),
                nchw(lambda t, i=include: f.avg_pool2d(t, size, stride, padding, count_include_pad=i)), x(2, 8, 5, 3))
    compare(square(lambda t: ops.max_pool2d(t, size=size, stride=stride, padding=padding)),
            nchw(lambda t: f.max_pool2d(t, size, stride, padding)), x(2, 8, 5, 3))
    compare(square(ops.global_avg_pool), square(lambda t: t.mean((1, 2))), x(2, 8, 5, 3))


def test_pooling_with_different_margins():
    t = tg.Tensor(x(2, 6, 5, 3))
    padded = np.pad(t.numpy(), ((0, 0), (1, 0), (0, 2), (0, 0)))
    got = ops.avg_pool2d(t, 3, 2, ((1, 0), (0, 2)))
    assert np.allclose(got, ops.avg_pool2d(tg.Tensor(padded), 3, 2), rtol=1e-14)
    ones = tg.Tensor(np.ones((1, 6, 5, 1)))
    assert np.allclose(ops.avg_pool2d(ones, 3, 2, ((1, 0), (0, 2)), count_include_pad=False), 1)


def test_the_first_of_tied_maxima_gets_the_gradient():
    t = tg.Tensor(np.array([[3, 3, 1, 0], [3, 2, 1, 1.0]]).reshape(1, 2, 4, 1), requires_grad=True)
    g = tg.grad(ops.max_pool2d(t, size=2).sum(), t).numpy()[0, :, :, 0]
    assert g.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    low = tg.Tensor(np.full((1, 2, 2, 1), -np.inf), requires_grad=True)
    assert tg.grad(ops.max_pool2d(low, size=3, stride=1, padding=1).sum(), low).numpy().sum() == 4


TAPS = (0.1, 0.7, 0.4, 0.3)


@pytest.mark.parametrize("length", [9, 70])  # as a matrix, and tap by tap
@pytest.mark.parametrize("up, down, padding, k", [
    (1, 1, 0, 4), (1, 1, ((2, 1), (2, 1)), 4), (2, 1, ((2, 1), (2, 1)), 4), (1, 2, 1, 4),
    (3, 2, ((-1, 4), (3, -1)), 4), (2, 3, ((0, 5), (3, 3)), 3), (1, 1, -1, 3), (4, 1, ((1, 0), (2, 0)), 2),
])
def test_fir_agrees_with_zeros_padding_and_convolution(length, up, down, padding, k):
    """The definition of upfirdn2d, step by step."""
    torch = torch_or_skip()
    taps = TAPS[:k]
    (top, bottom), (left, right) = padding if isinstance(padding, tuple) else ((padding,) * 2,) * 2

    def theirs(t):
        n, c, h, w = t.shape
        t = torch.nn.functional.pad(t.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1))
        t = t.reshape(n, c, h * up, w * up)
        t = torch.nn.functional.pad(t, (left, right, top, bottom))
        kernel = torch.tensor(taps, dtype=torch.float64).flip(0)
        kernel = (kernel[:, None] * kernel).expand(c, 1, k, k)
        return torch.nn.functional.conv2d(t, kernel, groups=c)[:, :, ::down, ::down]

    compare(square(lambda t: ops.fir(t, kernel=taps, up=up, down=down, padding=padding)), nchw(theirs),
            x(2, length, 7, 3))


def test_blur_keeps_constants_inside_and_sizes():
    t = tg.Tensor(np.ones((1, 12, 12, 2)))
    for taps in ((1, 3, 3, 1), (1, 2, 1)):
        for up, down, size in ((1, 1, 12), (2, 1, 24), (1, 2, 6)):
            y = ops.blur(t, taps, up, down)
            assert y.shape == (1, size, size, 2) and np.allclose(y.numpy()[:, 3:-3, 3:-3], 1, rtol=1e-14)
    assert np.allclose(ops.blur(t, gain=4.0).numpy()[:, 3:-3, 3:-3], 4)


@pytest.mark.parametrize("f", [
    lambda t: ops.resize_nearest(t, scale=2), lambda t: ops.resize_bilinear(t, size=(9, 2)),
    lambda t: ops.blur(t, up=2), lambda t: ops.avg_pool2d(t, 3, 2, 1), lambda t: ops.max_pool2d(t, size=2),
    lambda t: ops.blur(t, (1, 2, 1)), lambda t: ops.resize_bilinear(t, size=3, antialias=True),
    lambda t: ops.avg_pool2d(t, 3, 1, 1, False),
])
def test_empty_batches_and_float32(f):
    for n in (0, 2):
        for channels in (3, 8):
            t = tg.Tensor(x(n, 6, 5, channels).astype(np.float32), requires_grad=True)
            y = f(t)
            g = tg.grad((y * y).sum(), t)
            assert y.dtype == g.dtype == np.float32 and y.shape[0] == n and y.data.flags.c_contiguous


@pytest.mark.parametrize("call, text", [
    (lambda t: ops.resize_nearest(t[0]), "an image batch has axes N, H, W, C; this array has 3."),
    (lambda t: ops.resize_nearest(t, scale=0), "scale must be an integer >= 1, or a pair of them for H and W, not 0."),
    (lambda t: ops.resize_bilinear(t, size=(2, 3, 4)), "size must be an integer >= 1, or a pair"),
    (lambda t: ops.depth_to_space(t, block=2), "depth_to_space needs channels divisible by block²; 3 by 2²."),
    (lambda t: ops.space_to_depth(t, block=2), "space_to_depth needs H and W divisible by block = 2; (6, 5)."),
    (lambda t: ops.avg_pool2d(t, 2, 1, 2), "pooling needs padding smaller than its window; (2, 2) for a window of 2."),
    (lambda t: ops.max_pool2d(t, size=8), "pooling needs a window that fits; 8 > 6 + 0 (padding)."),
    (lambda t: ops.max_pool2d(t, size=3, padding=-1),
     "padding must be p, (p_h, p_w) or ((top, bottom), (left, right)), not -1."),
    (lambda t: ops.fir(t, kernel=[1] * 9), "fir needs no more taps than pixels; 9 > 6·1 + 0."),
])
def test_messages(call, text):
    with pytest.raises(tg.errors.ShapeError) as caught:
        call(tg.Tensor(x(2, 6, 5, 3)))
    assert text in str(caught.value).splitlines()[-1]  # the lines before quote this file
