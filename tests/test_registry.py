"""No operation without a case, a formula, FLOPs and a check of every order it claims."""

import inspect

import numpy as np
import pytest

import tinygen as tg
from tinygen import tape
from tinygen.audit.cases import CASES

# the gradients of fused operations are checked with them: their own law is derived
NAMES = sorted(n for n in tape.registry if not (n.endswith("_grad") and n[: -len("_grad")] in tape.registry))


def test_every_operation_has_a_case():
    missing = [n for n in NAMES if n not in CASES]
    assert not missing, f"operations without a case in tinygen/audit/cases: {missing}"
    unknown = [n for n in CASES if n not in tape.registry]
    assert not unknown, f"cases of operations that do not exist: {unknown}"


@pytest.mark.parametrize("name", sorted(tape.registry))
def test_docstring_and_flops(name):
    made = tape.registry[name]
    assert made.__doc__ and made.__doc__.strip(), f"{name} has no docstring"
    assert made.flops is not None, f"{name} has no FLOP formula"
    for k, case in enumerate(CASES.get(name, [])):
        inputs = [a if not isinstance(a, (list, tuple)) else np.asarray(a) for a in case.inputs(k)]
        attrs = made.defaults | case.attrs
        if made.prepare is not None:
            attrs = made.prepare(*inputs, **attrs)
        flops = made.flops(*inputs, **attrs)
        assert flops >= 0 and np.isfinite(float(flops)), f"{name}: FLOPs {flops!r} for case {k}"


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    """Orders 1 and 2 for all, 3 where the case asks for it; kernels at orders 1 and 2 and against their law."""
    bad = [r for r in tg.check.check_ops([name]) if not r.ok]
    assert not bad, "\n".join(f"{r.op} {r.case}: {r.message}" for r in bad)
    fused = hasattr(tape.registry[name], "takes")
    assert max(c.order for c in CASES[name]) >= (3 if fused else 2)


def test_every_gradient_operation_has_a_law():
    for name, made in tape.registry.items():
        if name.endswith("_grad") and name[: -len("_grad")] in tape.registry:
            assert made.law is not None, f"{name} has no law: its own gradient could not be derived"


def test_an_operation_added_without_a_case_is_noticed():
    @tape.op
    def nameless(xp, x):
        return x

    try:
        with pytest.raises(AssertionError, match="nameless"):
            NAMES.append("nameless")
            test_every_operation_has_a_case()
        with pytest.raises(AssertionError, match="docstring"):
            test_docstring_and_flops("nameless")
    finally:
        NAMES.remove("nameless")
        tape.registry.pop("nameless")


def test_rules_ask_only_for_what_there_is():
    with pytest.raises(TypeError, match="asks for 'z'"):
        made = tape.Op(lambda xp, x: x, name="unruly")
        try:
            made.vjp(x=lambda g, z: g)
        finally:
            tape.registry.pop("unruly")


def test_forwards_take_xp_first():
    for made in tape.registry.values():
        assert next(iter(inspect.signature(made.forward).parameters)) == "xp", made.name
