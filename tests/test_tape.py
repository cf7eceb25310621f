"""The tape: gradients of every order, what is kept and when it goes, and the errors."""

import gc
import re
import sys
import weakref

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops, tape


def leaf(*shape, seed=0, dtype=np.float64):
    return tg.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


# gradients


def test_gradients_come_back_in_the_form_they_were_asked_for():
    a, b = leaf(3), leaf(3, seed=1)
    y = (a * b).sum()
    one = tg.grad(y, a, retain_graph=True)
    listed = tg.grad(y, [a, b], retain_graph=True)
    named = tg.grad(y, {"a": a, "b": b})
    assert isinstance(listed, list) and set(named) == {"a", "b"}
    for g in (one, listed[0], named["a"]):
        assert np.array_equal(g.data, b.data)
    assert np.array_equal(named["b"].data, a.data)


def test_orders_up_to_five():
    x = leaf(4)
    y = ops.sin(x)
    values = [np.cos, lambda v: -np.sin(v), lambda v: -np.cos(v), np.sin, np.cos]
    for value in values:
        y = tg.grad(y.sum(), x, create_graph=True)
        np.testing.assert_allclose(y.data, value(x.data), rtol=1e-12)


def test_a_gradient_penalty_is_an_ordinary_expression():
    rng = np.random.default_rng(0)
    w1, w2 = (tg.Tensor(rng.standard_normal(s), requires_grad=True) for s in ((3, 5), (5, 1)))
    x = leaf(4, 3)

    def penalty(w1, w2):
        score = ops.matmul(ops.tanh(ops.matmul(x, w1)), w2)
        slope = tg.grad(score.sum(), x, create_graph=True)
        return ((ops.sqrt(ops.sum(slope * slope, axis=1) + 1e-12) - 1) ** 2).mean()

    tg.check.check_grads(penalty, [w1.data, w2.data], order=1)


def test_the_gradient_passes_through_a_tensor_that_was_itself_asked_for():
    x = leaf(3)
    h = ops.exp(x)
    y = (h * h).sum()
    gx, gh = tg.grad(y, [x, h])
    np.testing.assert_allclose(gh.data, 2 * h.data)
    np.testing.assert_allclose(gx.data, 2 * h.data**2)


def test_a_tensor_used_many_times_collects_all_its_gradients():
    x = leaf(3)
    np.testing.assert_allclose(tg.grad((x * x * x + x + x).sum(), x).data, 3 * x.data**2 + 2)


def test_only_the_operations_that_lead_to_xs_are_visited():
    x, w = leaf(3), leaf(3, seed=1)
    h = ops.exp(w)
    seen = []
    y = (x * h).sum()
    with tape.observe(lambda op, arrays, out, attrs, node: seen.append(op.name)):
        tg.grad(y, x)
    assert seen.count("mul") == 1 and "exp" not in seen


def test_several_outputs():
    x = leaf(2, 6)
    a, b, c = ops.split(x, 3, axis=1)
    y = (a * 2.0).sum() + (c * c).sum()  # nothing depends on b
    expected = np.concatenate([np.full((2, 2), 2.0), np.zeros((2, 2)), 2 * x.data[:, 4:]], axis=1)
    np.testing.assert_allclose(tg.grad(y, x).data, expected)


def test_no_grad_and_detach_cut_the_tape():
    x = leaf(3)
    with tg.no_grad():
        assert (x * 2).node is None
    assert (x.detach() * 2).node is None
    np.testing.assert_allclose(tg.grad((x * x.detach()).sum(), x).data, x.data)


def test_python_numbers_are_weak():
    x = leaf(3, dtype=np.float32)
    for y in (x * 2.5, 2.5 * x, x + 1, 1 - x, x / 3, 2 / x, x**2, -x):
        assert y.dtype == np.float32
    assert tg.grad((2.5 * x).sum(), x).dtype == np.float32


def test_a_long_chain_needs_no_recursion():
    x = leaf(1)
    y = x
    for _ in range(20 * sys.getrecursionlimit()):
        y = y + 1.0
    assert tg.grad(y.sum(), x).data == 1.0
    del y  # and neither does letting go of it


# memory


def kept_bytes(root):
    """Bytes of the distinct arrays that the graph below a tensor keeps."""
    seen, stack, arrays = set(), [root.node], {}
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(node.parents)
        inputs = node.inputs if isinstance(node.inputs, (tuple, list)) else ()
        for t in [*inputs, node.output]:
            data = getattr(t, "data", None) if isinstance(t, tg.Tensor) else t
            if isinstance(data, np.ndarray):
                arrays[id(data)] = data
    return sum(a.nbytes for a in arrays.values())


def test_fifty_tanh_keep_fifty_outputs_and_fifty_adds_keep_none():
    x = leaf(1000)
    y = x
    for _ in range(50):
        y = ops.tanh(y)
    assert kept_bytes(y) == 50 * x.data.nbytes
    z = x
    for _ in range(50):
        z = z + 1.0
    assert kept_bytes(z) == 0


def test_a_product_keeps_only_what_its_gradients_need():
    x, c = leaf(1000), tg.Tensor(np.ones(1000))
    assert kept_bytes(x * c) == c.data.nbytes  # nobody asks for the gradient of c, so x is not kept


def test_nothing_is_left_for_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = leaf(1000)
        outputs = []
        y = x
        for _ in range(20):
            y = ops.tanh(y) * y
            outputs.append(weakref.ref(y))
        g = tg.grad(y.sum(), x, create_graph=True)
        outputs.append(weakref.ref(g))
        del y, g
        assert all(ref() is None for ref in outputs)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_was_kept_is_freed_as_the_walk_goes_by():
    x = leaf(1000)
    y = x
    for _ in range(10):
        y = ops.tanh(y)
    total = y.sum()
    left = []
    first = total.node.parents[0]
    with tape.observe(lambda *a: left.append(kept_bytes(total))):
        tg.grad(total, x)
    assert left[0] > left[len(left) // 2] > left[-1]
    assert first.output is None and kept_bytes(total) == 0


# errors


def test_a_freed_graph_says_so():
    x = leaf(3)
    y = ops.tanh(x).sum()
    tg.grad(y, x)
    with pytest.raises(tg.StaleGraphError, match=r"tanh at .*test_tape.py:\d+ had kept was freed.*retain_graph=True"):
        tg.grad(y, x)


def test_a_changed_parameter_says_so():
    w = leaf(3)
    y = (w * w).sum()
    w.assign(w.data * 2)
    with pytest.raises(tg.StaleGraphError, match=r"changed in place after mul at .*test_tape.py"):
        tg.grad(y, w)


def test_unused_parameters_are_named():
    net = tg.nn.Sequential(tg.nn.Linear(2, 2, rng=tg.Rng(0)), tg.nn.Linear(2, 2, rng=tg.Rng(0)))
    params = net.parameters()
    y = net[0](tg.Tensor(np.ones((1, 2), np.float32))).sum()
    with pytest.raises(tg.UnusedParameterError, match=r"does not depend on '1\.w' \(2, 2\).*allow_unused"):
        tg.grad(y, params, retain_graph=True)
    found = tg.grad(y, params, allow_unused=True)
    assert found["1.w"] is None and found["0.w"] is not None


def test_a_constant_has_no_gradient():
    x = tg.Tensor(np.ones(3))
    with pytest.raises(tg.GradientError, match="was not made with requires_grad=True"):
        tg.grad((x * 2).sum(), x)


def test_a_result_of_many_numbers_needs_its_cotangent():
    x = leaf(3)
    with pytest.raises(tg.ShapeError, match=r"shape \(3,\) needs its cotangent g"):
        tg.grad(x * 2, x)
    with pytest.raises(tg.ShapeError, match=r"the cotangent g is \(2,\) float64, the result is \(3,\) float64"):
        tg.grad(x * 2, x, np.ones(2))


def test_mixed_float_types_raise():
    a, b = leaf(3), leaf(3, dtype=np.float32)
    with pytest.raises(tg.DtypeError, match="float types are not mixed: float32 and float64 meet") as caught:
        a * b
    assert re.search(r"mul at .*test_tape.py:\d+   a \* b", str(caught.value))
    with pytest.raises(tg.DtypeError, match="int64 with float32 would widen to float64"):
        b * np.arange(3)


def test_a_shape_error_says_who_where_what_and_from_where():
    x, w = leaf(2, 3), leaf(4, 5)
    h = ops.tanh(x)
    with pytest.raises(tg.ShapeError) as caught:
        ops.matmul(h, w)
    text = str(caught.value)
    assert re.search(r"matmul at .*test_tape.py:\d+   ops.matmul\(h, w\)", text)
    assert re.search(r"a \(2, 3\) float64   from tanh, .*test_tape.py:\d+\n", text)
    assert "b (4, 5) float64   a leaf" in text and "matmul needs a.shape[-1] == b.shape[-2]; 3 != 4." in text


def test_assignment_into_a_tensor_is_refused():
    with pytest.raises(TypeError, match="not assigned into"):
        leaf(3)[0] = 1.0


def test_a_rule_of_the_wrong_shape_is_caught():
    off = tape.Op(lambda xp, x: x.sum(0), name="planted")
    tape.registry.pop("planted")
    off.vjp(x=lambda g: g)
    x = leaf(2, 3)
    with pytest.raises(tg.GradientError, match=r"rule of planted gave a gradient \(3,\) float64 for its input 0"):
        tg.grad(off(x).sum(), x)


def test_numpy_arrays_on_the_left():
    x = leaf(3)
    y = np.ones(3) * x
    assert isinstance(y, tg.Tensor)
    np.testing.assert_allclose(tg.grad(y.sum(), x).data, 1.0)
