"""Indexing, gather and scatter, one-hot, order: values, gradients of both orders, repeated indices, messages."""

import re

import numpy as np
import pytest
from parity import compare, torch_or_skip

import tinygen as tg
from tinygen import ops

RNG = np.random.default_rng(17)
ROWS = np.array([0, 2, 2, -1, 1])
MASK = np.array([[True, False, True], [False, False, True], [True, True, False], [False, True, True]])


def x(*shape):
    return RNG.standard_normal(shape)


def square(f):
    """f, then the square: so that its second gradient is not zero."""
    return lambda *ts: f(*ts) ** 2


@pytest.mark.parametrize("index", [
    0, -1, slice(1, None, 2), slice(0), (Ellipsis, None, 1), (slice(None), 1, 0), ROWS, (slice(None), ROWS % 3),
    (ROWS[:4], slice(None), ROWS[:4] % 2), (ROWS[:, None], np.array([0, 1])), ROWS.reshape(5, 1) % 3, MASK, (MASK, 0),
    MASK[:, 0], np.zeros(0, int), (2, ROWS % 3), (slice(1, 3), np.array([[0, 2], [2, 2]])),
], ids=repr)
def test_indexing_agrees_with_pytorch(index):
    torch = torch_or_skip()
    parts = index if isinstance(index, tuple) else (index,)
    theirs = tuple(torch.tensor(p) if isinstance(p, np.ndarray) else p for p in parts)
    compare(square(lambda t: t[index]), square(lambda t: t[theirs]), x(4, 3, 2))


def test_steps_backwards_tensors_and_lists_are_indices_too():
    a = x(4, 3, 2)
    t = tg.Tensor(a, requires_grad=True)
    assert np.array_equal(t[::-2, 1], a[::-2, 1])
    assert np.array_equal(t[tg.Tensor(ROWS)], a[ROWS]) and np.array_equal(t[[2, 0, 0]], a[[2, 0, 0]])
    assert np.array_equal(t[:, tg.Tensor(MASK[0])], a[:, MASK[0]]) and t[[]].shape == (0, 3, 2)
    assert t[np.int64(1)].shape == (3, 2) and [float(r) for r in tg.Tensor(np.arange(3.0))] == [0, 1, 2]
    g = tg.grad(t[[2, 0, 0], tg.Tensor(np.array(1))].sum(), t).numpy()
    assert g[2, 1, 0] == 1 and g[0, 1, 1] == 2 and g.sum() == 6
    assert tg.grad(t[np.zeros((0, 2), int)].sum(), t).shape == (4, 3, 2)
    empty = tg.Tensor(x(0, 3), requires_grad=True)
    assert tg.grad(empty[:, ROWS % 3].sum(), empty).shape == (0, 3)


def test_basic_slices_are_views():
    t = tg.Tensor(x(4, 3))
    assert np.shares_memory(t[1:].data, t.data) and not np.shares_memory(t[ROWS].data, t.data)


def test_take_embedding_and_scatter_add_agree_with_pytorch():
    torch = torch_or_skip()
    ids = np.array([[1, 2, 1, 1], [0, 0, 2, 1]])
    for axis in (0, 1, -1):
        compare(
            square(lambda t, axis=axis: ops.take(t, ids, axis)),
            square(lambda t, axis=axis: t[(slice(None),) * (axis % 3) + (torch.tensor(ids),)]), x(3, 4, 3),
        )
    compare(square(lambda w: ops.embedding(w, ids)),
            square(lambda w: torch.nn.functional.embedding(torch.tensor(ids), w)), x(3, 5))
    for axis in (0, 1, -1):
        shape = [2, 3, 4]
        shape[axis] = 5
        compare(
            square(lambda t, v, axis=axis: ops.scatter_add(t, ROWS % 2, v, axis)),
            square(lambda t, v, axis=axis: t.index_add(axis, torch.tensor(ROWS % 2), v)), x(2, 3, 4), x(*shape),
        )
    assert ops.take(tg.Tensor(x(3, 2)), 1, 0).shape == (2,)
    assert ops.take(tg.Tensor(x(3, 2)), np.zeros((2, 0), int), 1).shape == (3, 2, 0)


def test_along_an_axis_agrees_with_pytorch():
    torch = torch_or_skip()
    for axis, ids in ((0, RNG.integers(0, 4, (2, 3, 2))), (1, RNG.integers(0, 3, (4, 5, 2))),
                      (-1, np.ones((4, 3, 1), int))):
        theirs = torch.tensor(ids)
        compare(square(lambda t, a=axis, i=ids: ops.take_along_axis(t, i, axis=a)),
                square(lambda t, a=axis, i=theirs: torch.take_along_dim(t, i, a)), x(4, 3, 2))
    ids = np.array([[2, 0], [1, 2], [0, 1]])  # no place twice: PyTorch does not say what stays
    compare(square(lambda t, v: ops.put_along_axis(t, ids, v, axis=1)),
            square(lambda t, v: t.scatter(1, torch.tensor(ids), v)), x(3, 4), x(3, 2))
    compare(square(lambda t, v: ops.put(t, v, index=(slice(None), np.array([3, 1])))),
            square(lambda t, v: t.index_copy(1, torch.tensor([3, 1]), v.expand(3, 2))), x(3, 4), x(2))
    t = tg.Tensor(x(3, 4))
    assert (ops.put_along_axis(t, ids, 7.0, axis=1).numpy() == 7).sum() == 6
    assert (ops.put(t, -3.0, index=t.numpy() > 0).numpy() <= 0).all()


def test_put_keeps_the_last_of_several_values_and_gives_it_the_gradient():
    t, v = tg.Tensor(np.zeros(3), requires_grad=True), tg.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    y = ops.put(t, v, index=np.array([1, 0, 1]))
    assert y.numpy().tolist() == [2, 3, 0] and t.numpy().tolist() == [0, 0, 0]
    gt, gv = tg.grad(y.sum(), [t, v])
    assert gt.numpy().tolist() == [0, 0, 1] and gv.numpy().tolist() == [0, 1, 1]


def test_order_agrees_with_pytorch():
    torch = torch_or_skip()
    for axis in (0, 1, -1):
        compare(square(lambda t, a=axis: ops.sort(t, a)), square(lambda t, a=axis: t.sort(a)[0]), x(4, 3, 5))
        compare(square(lambda t, a=axis: ops.topk(t, 2, a)[0]), square(lambda t, a=axis: torch.topk(t, 2, a)[0]),
                x(4, 3, 5))
    a = RNG.integers(0, 3, (4, 9)).astype(np.float32)
    assert np.array_equal(ops.argsort(tg.Tensor(a)), np.argsort(a, axis=-1, kind="stable"))
    values, places = ops.topk(tg.Tensor(a), 3)
    assert np.array_equal(np.take_along_axis(a, places.numpy(), -1), values) and values.dtype == np.float32


def test_one_hot():
    ids = np.array([[0, 3], [2, 2]])
    assert np.array_equal(ops.one_hot(ids, classes=4), np.eye(4)[ids])
    assert ops.one_hot(ids, classes=4).dtype == np.float32 and ops.one_hot(ids, 4, np.float64).dtype == np.float64
    assert ops.one_hot(2, classes=3).numpy().tolist() == [0, 0, 1]
    assert ops.one_hot(np.zeros((0, 2), np.uint8), classes=4).shape == (0, 2, 4)


def test_float32_stays_float32():
    t = tg.Tensor(x(4, 3).astype(np.float32), requires_grad=True)
    for f in (lambda t: t[ROWS], lambda t: t[:, ROWS % 3], lambda t: ops.embedding(t, ROWS % 4), ops.sort,
              lambda t: ops.take_along_axis(t, ROWS[:4, None] % 3, axis=1), lambda t: ops.put(t, t[0], index=ROWS)):
        y = f(t)
        assert y.dtype == np.float32 and tg.grad((y * y).sum(), t).dtype == np.float32


def test_the_gradient_of_an_embedding_is_the_same_every_time_and_exact_in_order():
    ids, g = RNG.integers(0, 50, 4000), x(4000, 8).astype(np.float32)
    w = tg.Tensor(np.zeros((50, 8), np.float32), requires_grad=True)
    first, second = (tg.grad(ops.embedding(w, ids), w, tg.Tensor(g)).numpy() for _ in range(2))
    in_order = np.zeros_like(first)
    np.add.at(in_order, ids, g)
    assert np.array_equal(first, second) and np.array_equal(first, in_order)


@pytest.mark.parametrize("call, kind, text", [
    (lambda t: t[9], IndexError,
     "index 9 is out of bounds for axis 0 with size 4"),
    (lambda t: t[:, np.array([0, 5])], IndexError, "index 5 is out of bounds for axis 1 with size 3"),
    (lambda t: ops.take(t, np.array([0, -5])), IndexError,
     "index -5 is out of bounds for axis 0 with size 4"),
    (lambda t: ops.embedding(t, np.array([7])), IndexError, "index 7 is out of bounds for axis 0 with size 4"),
    (lambda t: ops.scatter_add(t, np.array([0, 4]), t[:2]), IndexError,
     "index 4 is out of bounds for size 4"),
    (lambda t: ops.scatter_add(t, np.array([0, -9]), t[:2]), IndexError, "index -9 is out of bounds for size 4"),
    (lambda t: ops.take_along_axis(t, np.full((4, 1), 3), axis=1), IndexError,
     "index 3 is out of bounds for axis 1 with size 3"),
    (lambda t: ops.one_hot(np.array([1, 10]), classes=10), IndexError,
     "one_hot: id 10 is out of bounds for 10 classes"),
    (lambda t: ops.one_hot(np.array(-1), classes=10), IndexError, "one_hot: id -1 is out of bounds for 10 classes"),
    (lambda t: t[np.array([0.5])], tg.errors.DtypeError, "an index holds integers or booleans, not float64."),
    (lambda t: ops.take(t, np.array([0.5])), tg.errors.DtypeError, "the indices must be integers, not float64."),
    (lambda t: ops.one_hot(t, classes=3), tg.errors.DtypeError, "one_hot needs integer ids, not float64."),
    (lambda t: ops.embedding(t[0], ROWS), tg.errors.ShapeError,
     "embedding needs a weight (V, F) with one row for each id, got (3,)."),
    (lambda t: ops.take(t, ROWS, 2), tg.errors.ShapeError, "take needs an axis that is there; 2 is not among -2 to 1."),
    (lambda t: ops.scatter_add(t, ROWS, t), tg.errors.ShapeError,
     "scatter needs values that hold the indices' axes (5,) at axis 0."),
    (lambda t: ops.take_along_axis(t, np.zeros((3, 1), int), axis=1), tg.errors.ShapeError,
     "the indices need the shape of x but for axis 1; (3, 1), (4, 3)."),
    (lambda t: ops.put(t, t, index=0), tg.errors.ShapeError,
     "put needs values that broadcast to (3,), the shape of x[index]."),
    (lambda t: ops.topk(t, 4), tg.errors.ShapeError, "topk: there are no 4 entries along axis 1 of (4, 3)."),
], ids=lambda v: v[-40:] if isinstance(v, str) else "")
def test_messages(call, kind, text):
    with pytest.raises(kind) as caught:
        call(tg.Tensor(x(4, 3)))
    assert isinstance(caught.value, tg.errors.TinygenError)
    assert str(caught.value).splitlines()[-1].strip() == text  # the lines before quote this file


def test_a_message_tells_what_arrived():
    t = tg.Tensor(x(4, 3), requires_grad=True)
    with pytest.raises(IndexError) as caught:
        t[9]
    assert re.fullmatch(r"getitem at .*test_ops_index.py:\d+   t\[9\]\n  x \(4, 3\) float64   a leaf\n  index=9\n"
                        r"  index 9 is out of bounds for axis 0 with size 4", str(caught.value))
