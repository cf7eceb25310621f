"""The checker is tested before it is trusted: every planted error must be caught, and named where it is."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops, tape
from tinygen.audit.cases import CASES
from tinygen.fused import fused
from tinygen.kernels import group_norm as kernel
from tinygen.tape import Op

check_grads = tg.check.check_grads


def planted(forward, **rules) -> Op:
    """An operation outside the registry, with the rules given."""
    made = Op(forward, name="planted", flops=lambda *a, **k: 0)
    tape.registry.pop("planted")
    return made.vjp(**rules)


def x(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("mode", ["full", "direction"])
@pytest.mark.parametrize("error", [1e-1, 1e-3, 1e-5])
def test_a_gradient_off_by_a_factor_is_caught(error, mode):
    off = planted(lambda xp, x: xp.tanh(x), x=lambda g, y: g * (1 - y * y) * (1 + error))
    with pytest.raises(tg.GradientError, match=r"input 0 at index .*order 1 is .* by the tape but .* by central"):
        check_grads(off, [x(3, 5)], mode=mode)


def test_both_values_and_the_index_are_named():
    def rule(g):
        wrong = np.full((2, 3), 2.0)
        wrong[1, 2] = 2.002  # 0.1 % off, at one place only
        return g * tg.Tensor(wrong)

    off = planted(lambda xp, x: 2.0 * x, x=rule)
    for mode in ("full", "direction"):
        with pytest.raises(tg.GradientError) as caught:
            check_grads(lambda x: off(x).sum(), [x(2, 3)], mode=mode)
        assert "index (1, 2)" in str(caught.value) and "relative difference 0.001" in str(caught.value)


def test_a_dropped_term_is_caught():
    off = planted(lambda xp, a, b: a * b + a, a=lambda g, b: g * b, b=lambda g, a: g * a)
    with pytest.raises(tg.GradientError, match="input 0"):
        check_grads(off, [x(4), x(4, seed=1)], order=1)


def test_a_term_dropped_from_the_second_order_only_is_caught():
    off = planted(lambda xp, x: xp.sin(x), x=lambda g, x: g * ops.cos(x).detach())  # first order right, then constant
    check_grads(off, [x(5)], order=1)
    with pytest.raises(tg.GradientError, match="order 2"):
        check_grads(off, [x(5)], order=2)


def test_a_swapped_axis_is_caught():
    off = planted(lambda xp, x: x.sum(axis=0), x=lambda g, x_shape: ops.broadcast_to(
        ops.reshape(g, shape=(-1, 1)), shape=x_shape))
    with pytest.raises(tg.GradientError, match="order 1"):
        check_grads(off, [x(4, 4)])


def test_frozen_norm_statistics_are_caught_at_order_2():
    """The trap of hand-written kernels: a backward whose mean and rstd count as constants is right at order 1."""

    def rule(g, x):
        mean = ops.mean(x, axis=1, keepdims=True).detach()
        rstd = ops.rsqrt(ops.var(x, axis=1, keepdims=True) + 1e-5).detach()
        hat = (x - mean) * rstd
        return rstd * (g - ops.mean(g, axis=1, keepdims=True) - hat * ops.mean(g * hat, axis=1, keepdims=True))

    off = planted(lambda xp, x: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5), x=rule)
    check_grads(off, [x(3, 6)], order=1)
    with pytest.raises(tg.GradientError, match="order 2"):
        check_grads(off, [x(3, 6)], order=2)


def test_a_fused_kernel_with_a_wrong_backward_is_caught():
    def backward(g, x, w, b, **attrs):
        gx, gw, gb = kernel.backward(g, x, w, b, **attrs)
        return gx * 1.001, gw, gb

    made = fused(ops.group_norm.law, name="planted", forward=kernel.forward, vjp={("x", "w", "b"): backward},
                 flops=ops.group_norm.flops, takes=lambda *a, **k: True, prepare=ops.group_norm.prepare)
    for name in ("planted", "planted_grad"):
        tape.registry.pop(name)
    with pytest.raises(tg.GradientError, match="input 0"):
        check_grads(lambda x, w, b: made(x, w, b, groups=2), [x(2, 3, 4), x(4, seed=1), x(4, seed=2)], order=1)


@pytest.mark.parametrize("name", ["mul", "div", "tanh", "matmul", "conv2d", "softmax", "sum", "concat"])
def test_every_rule_of_an_operation_is_covered_by_its_cases(name, monkeypatch):
    """Scaling any one rule by 1.001 must fail that operation's own cases."""
    op = tape.registry[name]
    for k, (which, call) in enumerate(list(op._pulls)):
        def off(n, g, i, call=call):
            found = call(n, g, i)
            return tuple(f * 1.001 for f in found) if isinstance(found, tuple) else found * 1.001

        with monkeypatch.context() as patch:
            patch.setattr(op, "_pulls", [*op._pulls[:k], (which, off), *op._pulls[k + 1 :]])
            assert not all(r.ok for r in tg.check.check_ops([name])), f"{name}: rule {which} is not checked by any case"


def test_kinks_are_called_kinks():
    with pytest.raises(tg.GradientError, match=r"index \(1,\).*kink; the slope is -?0 from the left and 1 from the r"):
        check_grads(lambda x: ops.relu(x).sum(), [np.array([1.0, 0.0])])
    with pytest.raises(tg.GradientError, match="kink lies within"):
        check_grads(lambda x: abs(x), [np.array([1.0, 5e-4])])
    check_grads(ops.relu, [np.array([1.0, -0.5])])


def test_a_curve_is_no_kink():
    check_grads(lambda x: ops.exp(3 * x) * ops.sin(5 * x), [x(7)], order=3)


def test_float32_functions_and_noise_are_refused_with_a_reason():
    w = tg.Tensor(np.ones(3, np.float32), requires_grad=True)
    with pytest.raises(tg.TinygenError, match="float types are not mixed: float32 and float64"):
        check_grads(lambda x: x * w, [x(3)])
    noise = iter(range(100))
    with pytest.raises(tg.GradientError, match="not deterministic"):
        check_grads(lambda x: x * float(next(noise)), [x(3)])


def test_inputs_may_be_a_dict_or_integers():
    check_grads(lambda a, ids: ops.take(a, ids, axis=0), {"a": x(4, 2), "ids": np.array([0, 2, 2])})
    off = planted(lambda xp, x: 2.0 * x, x=lambda g: g)
    with pytest.raises(tg.GradientError, match="input 'a'"):
        check_grads(lambda a: off(a), {"a": x(3)})


def test_a_function_without_gradient_checks_as_zero():
    check_grads(lambda x: ops.floor(x), [np.array([0.5, 1.25])])
    with pytest.raises(tg.GradientError, match="order 1"):  # the gradient was cut on purpose
        check_grads(lambda x: x.detach() * 2.0, [x(3)])


def test_check_ops_reports_and_names_what_is_unknown():
    results = tg.check.check_ops(["tanh", "group_norm"])
    assert results and all(r.ok for r in results), [r for r in results if not r.ok]
    assert any("kernel" in r.case for r in results)
    with pytest.raises(tg.GradientError, match="no case for an operation 'tanhh'"):
        tg.check.check_ops(["tanhh"])
    assert set(CASES) >= {"tanh", "conv2d", "attention"}
