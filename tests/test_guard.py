"""The guard stops at the first operation that makes a NaN or an infinity, forward or backward, and at no other."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.audit.guard import NonFiniteOperation, guard
from tinygen.errors import NonFiniteError


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


def leaf(values):
    return tg.Tensor(np.array(values, np.float32), requires_grad=True)


def test_it_names_operation_place_index_and_values():
    a, b = leaf([[1.0, 2.0], [0.0, 4.0]]), tg.Tensor([3.0, 1.0])
    a.node.name = "net.a"
    with pytest.raises(NonFiniteError) as caught, guard():
        ops.log(a * b - 1.0 - b)  # this line
    text = str(caught.value)
    assert isinstance(caught.value, NonFiniteOperation)
    assert text.splitlines()[0].startswith("log at ") and "test_guard.py:" in text and "# this line" in text
    assert "gave nan at [0, 0] of (2, 2) float32 (2 in all), from" in text.splitlines()[1]
    assert "x = -1.0 there, (2, 2), from sub at " in text


def test_a_parameter_is_named():
    w = leaf([0.0, 1.0])
    w.node.name = "net.w"
    with pytest.raises(
        NonFiniteOperation, match=r"(?s)^div at .*gave inf at \[0\].* = 1.0.* = 0.0 there, \(2,\), parameter net.w"
    ):
        with guard():
            1.0 / w


def test_it_sees_what_a_rule_does():
    w = leaf([0.0, 4.0])
    w.node.name = "net.w"
    with guard():
        y = ops.sum(ops.sqrt(w))
    with pytest.raises(NonFiniteOperation) as caught, guard():
        tg.grad(y, w)
    text = str(caught.value)
    assert ", in the rule of sqrt at " in text.splitlines()[0] and "y = ops.sum(ops.sqrt(w))" in text
    assert "parameter net.w is one of its inputs" in text


def test_it_works_where_nothing_is_recorded():
    with pytest.raises(NonFiniteOperation, match="^log at "), guard(), tg.no_grad():
        ops.log(tg.Tensor([-1.0]))


def test_a_mask_of_minus_infinity_is_no_error():
    x = leaf([[1.0, 2.0, 3.0]])
    with guard():
        masked = ops.where(np.array([True, True, False]), x, float("-inf"))
        y = ops.softmax(masked, axis=-1)
        tg.grad(ops.sum(y * y), x)
    assert y.numpy()[0, 2] == 0


def test_a_nan_that_came_in_is_not_blamed_on_what_carries_it():
    x = tg.Tensor(np.array([np.nan, 1.0], np.float32))
    with guard():
        ops.exp(x) + 1.0


def test_infinities_on_purpose_are_noted_and_named_when_they_become_nan():
    x = leaf([-1.0, 200.0])
    with pytest.raises(NonFiniteOperation) as caught, guard(allow_inf=True) as watch:
        e = ops.exp(x)
        ops.sub(e, e)
    assert [op for op, _ in watch.infinities] == ["exp"]
    text = str(caught.value)
    assert text.startswith("sub at ") and "gave nan at [1]" in text
    assert "The infinity came from here:\nexp at " in text and "x = 200.0 there" in text


def test_it_watches_no_longer_than_it_is_asked_to():
    with guard():
        ops.exp(tg.Tensor([1.0]))
    assert np.isinf(ops.exp(tg.Tensor([1000.0])).numpy()).all()
