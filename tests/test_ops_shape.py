"""Reshape, transpose, join, split, pad, flip, roll: values, gradients, views, messages."""

import re

import numpy as np
import pytest
from parity import compare, torch_or_skip

import tinygen as tg
from tinygen import ops

RNG = np.random.default_rng(13)


def x(*shape):
    return RNG.standard_normal(shape)


def test_reshape_and_transpose_agree_with_pytorch():
    torch = torch_or_skip()
    compare(lambda t: ops.reshape(t, shape=(4, -1)), lambda t: t.reshape(4, -1), x(2, 3, 4))
    compare(lambda t: t.reshape(6), lambda t: t.reshape(6), x(2, 3))
    compare(lambda t: t.reshape(3, -1), lambda t: t.reshape(3, 0), x(0, 3))
    compare(lambda t: ops.transpose(t, (2, 0, 1)), lambda t: t.permute(2, 0, 1), x(2, 3, 4))
    compare(lambda t: t.T, lambda t: t.permute(2, 1, 0), x(2, 3, 4))
    compare(lambda t: t.mT, lambda t: t.mT, x(2, 3, 4))
    compare(lambda t: ops.swapaxes(t, 0, -1), lambda t: t.swapaxes(0, -1), x(2, 3, 4))
    compare(lambda t: ops.moveaxis(t, 0, -1), lambda t: torch.moveaxis(t, 0, -1), x(2, 3, 4))
    compare(lambda t: ops.moveaxis(t, -1, 1), lambda t: torch.moveaxis(t, -1, 1), x(2, 3, 4, 5))
    compare(lambda t: ops.expand_dims(t, -1), lambda t: t.unsqueeze(-1), x(2, 3))
    compare(lambda t: ops.squeeze(t, 1), lambda t: t.squeeze(1), x(2, 1, 3))
    compare(lambda t: ops.squeeze(t), lambda t: t.squeeze(), x(1, 2, 1, 3))
    compare(lambda t: ops.flatten(t), lambda t: t.flatten(1), x(2, 3, 4))


def test_shapes_of_the_rest():
    t = tg.Tensor(x(2, 3))
    assert ops.expand_dims(t, (0, 2)).shape == (1, 2, 1, 3) and ops.expand_dims(t, 0).shape == (1, 2, 3)
    assert ops.flatten(tg.Tensor(x(2, 3, 4)), start=0).shape == (24,)
    assert ops.flatten(tg.Tensor(x(0, 3, 4))).shape == (0, 12)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_join_and_split_agree_with_pytorch(axis):
    torch = torch_or_skip()
    a, b, c = x(2, 3, 4), x(2, 3, 4), x(2, 3, 4)
    compare(lambda *t: ops.concat(*t, axis=axis), lambda *t: torch.cat(t, axis), a, b, c)
    compare(lambda *t: ops.stack(*t, axis=axis), lambda *t: torch.stack(t, axis), a, b, c)
    compare(lambda t: ops.split(t, 2, axis), lambda t: t.chunk(2, axis), x(4, 6, 2))
    d = x(5, 5, 5)
    compare(lambda t: ops.split(t, (1, 4), axis), lambda t: t.split([1, 4], axis), d)
    compare(lambda t: ops.unstack(t, axis), lambda t: t.unbind(axis), a)
    compare(lambda t: ops.split(t * t, (2, 3), axis)[1], lambda t: (t * t).split([2, 3], axis)[1], d)
    squares = lambda *t: ops.concat(*t, axis=axis) ** 2
    compare(squares, lambda *t: torch.cat(t, axis) ** 2, a, b)


def test_concat_and_stack_take_tensors_or_a_list():
    a, b = tg.Tensor(x(2, 3)), tg.Tensor(x(2, 3))
    for fn, theirs in ((ops.concat, np.concatenate), (ops.stack, np.stack)):
        expected = theirs([a.numpy(), b.numpy()], axis=1)
        for y in (fn(a, b, axis=1), fn([a, b], axis=1), fn((a, b), axis=1), fn([a, b], 1)):
            assert np.array_equal(y.numpy(), expected)
    assert ops.concat([a, b]).shape == (2, 6) and ops.stack([a, b]).shape == (2, 2, 3)
    assert ops.concat(a, x(2, 1)).shape == (2, 4)


def test_one_of_the_joined_may_need_no_gradient():
    a, b = tg.Tensor(x(2, 3), requires_grad=True), tg.Tensor(x(2, 3))
    for y in (ops.concat(b, a, b, axis=0), ops.stack([b, a])):
        w = x(*y.shape)
        assert tg.grad((y * w).sum(), a).shape == (2, 3)


def test_the_gradient_of_concat_is_views():
    a, b = tg.Tensor(x(2, 3), requires_grad=True), tg.Tensor(x(2, 5), requires_grad=True)
    w = tg.Tensor(x(2, 8))
    ga, gb = tg.grad(ops.concat(a, b), [a, b], g=w)
    assert np.shares_memory(ga.data, w.data) and np.shares_memory(gb.data, w.data)


def test_what_can_be_a_view_is_one():
    t = tg.Tensor(x(4, 6))
    views = [t.reshape(2, 12), t.T, ops.flip(t), ops.unpad(t, (1, 1)), ops.expand_dims(t, 0)]
    assert all(np.shares_memory(v.data, t.data) for v in [*views, *ops.split(t, 3)])


def test_part_of_a_split_may_be_unused():
    t = tg.Tensor(x(2, 6), requires_grad=True)
    a, b, c = ops.split(t, 3)
    assert tg.grad((b * 2.0).sum(), t).numpy().tolist() == [[0, 0, 2, 2, 0, 0]] * 2


@pytest.mark.parametrize("mode", ["zero", "reflect", "edge"])
def test_pad_agrees_with_pytorch(mode):
    F = torch_or_skip().nn.functional
    theirs = {"zero": "constant", "reflect": "reflect", "edge": "replicate"}[mode]
    for (top, bottom), (left, right) in (((1, 2), (3, 0)), ((0, 0), (2, 1)), ((3, 3), (3, 3))):
        widths = ((0, 0), (0, 0), (top, bottom), (left, right))
        sides = (left, right, top, bottom)
        ours = lambda t, w=widths: ops.pad(t, w, mode)
        compare(ours, lambda t, s=sides: F.pad(t, s, theirs), x(2, 3, 4, 5))
    squares = lambda t: ops.pad(t * t, ((0, 0), (0, 0), 1, 2), mode)
    compare(squares, lambda t: F.pad(t * t, (2, 2, 1, 1), theirs), x(2, 1, 3, 4))


def test_pad_agrees_with_numpy_on_any_axis():
    a = x(3, 4, 5)
    widths = ((2, 1), (0, 3), (4, 4))
    for mode, theirs in (("zero", "constant"), ("reflect", "reflect"), ("edge", "edge")):
        assert np.array_equal(ops.pad(a, widths=widths, mode=mode).numpy(), np.pad(a, widths, theirs))
    filled = ops.pad(a, widths=(1, 1, 1), value=-1.5)
    assert np.array_equal(filled.numpy(), np.pad(a, 1, constant_values=-1.5))
    assert ops.pad(np.zeros((0, 3), np.float32), widths=(0, 1), mode="edge").shape == (0, 5)
    assert ops.pad(np.zeros((0, 3), np.float32), widths=(2, 0)).shape == (4, 3)


@pytest.mark.parametrize("mode", ["zero", "reflect", "edge"])
def test_unpad_is_the_adjoint_of_pad(mode):
    widths = ((2, 1), (0, 3), (1, 1))
    a = x(3, 4, 5)
    padded = ops.pad(a, widths=widths, mode=mode).numpy()
    b = x(*padded.shape)
    back = ops.unpad(b, widths=widths, mode=mode).numpy()
    assert back.shape == a.shape
    np.testing.assert_allclose((padded * b).sum(), (a * back).sum(), rtol=1e-12)


def test_flip_roll_repeat_tile_triangles_agree_with_pytorch():
    torch = torch_or_skip()
    compare(lambda t: ops.flip(t, 1), lambda t: t.flip(1), x(2, 3, 4))
    compare(lambda t: ops.flip(t, (0, -1)), lambda t: t.flip(0, -1), x(2, 3, 4))
    compare(lambda t: ops.roll(t, 2, 1), lambda t: t.roll(2, 1), x(2, 3, 4))
    compare(lambda t: ops.roll(t, (-1, 7), (0, 2)), lambda t: t.roll((-1, 7), (0, 2)), x(2, 3, 4))
    compare(lambda t: ops.repeat(t, 3, 1), lambda t: t.repeat_interleave(3, 1), x(2, 3, 4))
    compare(lambda t: ops.tile(t, 3, 1), lambda t: t.repeat(1, 3, 1), x(2, 3, 4))
    compare(lambda t: ops.tile(t, 2, -1), lambda t: t.repeat(1, 2), x(2, 3))
    for k in (-1, 0, 2):
        compare(lambda t, k=k: ops.tril(t, k), lambda t, k=k: torch.tril(t, k), x(2, 3, 4))
        compare(lambda t, k=k: ops.triu(t, k), lambda t, k=k: torch.triu(t, k), x(2, 4, 3))


def test_empty_batch():
    t = tg.Tensor(np.zeros((0, 4, 3), np.float32), requires_grad=True)
    for y in (t.reshape(0, 12), t.T, ops.flip(t), ops.roll(t, 1, 1), ops.concat(t, t), ops.stack([t, t]),
              ops.pad(t, (0, 1, 1), "reflect"), ops.repeat(t, 2, 1), ops.split(t, 2, 1)[0]):  # fmt: skip
        assert y.dtype == np.float32 and tg.grad(y.sum(), t).shape == t.shape


@pytest.mark.parametrize("call, text", [
    (lambda t: t.reshape(4, 2), "reshape keeps the number of elements; 6 != 8 of (4, 2)."),
    (lambda t: t.reshape(-1, 4), "reshape needs one -1 at most, whole lengths; 6 elements into (-1, 4)."),
    (lambda t: t.reshape(-1, -1), "reshape needs one -1 at most"),
    (lambda t: t.transpose(0, 0), "transpose needs each of the 2 axes once; (0, 0)."),
    (lambda t: ops.concat(t, t.T, axis=0), "concat needs equal shapes but for axis 0; (3, 2) after (2, 3)."),
    (lambda t: ops.concat(t, t.reshape(6)), "concat needs equal shapes but for axis 1; (6,) after (2, 3)."),
    (lambda t: ops.concat([]), "concat needs at least one tensor."),
    (lambda t: ops.stack([]), "stack needs at least one tensor."),
    (lambda t: ops.stack([t, t.T]), "stack needs equal shapes; (3, 2) != (2, 3)."),
    (lambda t: ops.split(t, 2), "split needs axis 1 divisible by the number of parts; 3 by 2."),
    (lambda t: ops.split(t, (1, 1)), "split needs sizes that add up to axis 1; (1, 1) for 3."),
    (lambda t: ops.squeeze(t, 0), "squeeze needs axes of length 1; axis 0 of (2, 3) has 2."),
    (lambda t: ops.pad(t, widths=(1,)), "pad needs a width for each axis; 1 != 2."),
    (lambda t: ops.pad(t, (1, 1), "wrap"), "pad needs mode to be 'zero', 'reflect' or 'edge'; 'wrap'."),
    (lambda t: ops.pad(t, widths=((0, -1), 1)), "pad needs widths >= 0; (0, -1) on axis 0."),
    (lambda t: ops.pad(t, (2, 0), "reflect"), "pad by (2, 2) in mode 'reflect' needs 3 elements on axis 0"),
    (lambda t: ops.unpad(t, widths=(2, 0)), "unpad by (2, 2) in mode 'zero' needs 0 elements on axis 0; -2."),
    (lambda t: ops.roll(t, (1, 2), 0), "roll needs a shift for each axis; 2 != 1."),
    (lambda t: ops.flip(t, 2), "flip needs an axis that is there; 2 is not among -2 to 1."),
    (lambda t: ops.swapaxes(t, 0, 2), "swapaxes needs an axis that is there; 2 is not among -2 to 1."),
])  # fmt: skip
def test_messages(call, text):
    with pytest.raises(tg.errors.ShapeError, match=re.escape(text)):
        call(tg.Tensor(np.zeros((2, 3), np.float32)))


def test_the_message_of_concat_names_its_inputs():
    a = tg.Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    with pytest.raises(tg.errors.ShapeError) as caught:
        ops.concat(a, ops.exp(a).T, axis=0)
    assert re.search(r"xs\[0\] \(2, 3\) float32 +a leaf", str(caught.value))
    assert re.search(r"xs\[1\] \(3, 2\) float32 +from transpose, .*test_ops_shape.py", str(caught.value))
