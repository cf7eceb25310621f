"""Every operation against PyTorch: values, first and second gradients, in float64, to 1e-10.

Driven by one table, TWINS in torch_twins.py: the cases of `tinygen.audit` with several draws of values, and for the
families with a geometry random odd shapes besides. Fused operations are compared twice, as law and as kernel, whose
first gradient is the operation `<name>_grad`. An operation that has neither a twin nor a reason in NO_TWIN fails.
The errors found are written down by bench/parity.py.
"""

import functools

import numpy as np
import pytest

import tinygen as tg
from tinygen import ops
from tinygen.audit.cases import CASES

torch = pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")

from torch_twins import NO_TWIN, TWINS  # noqa: E402

TOLERANCE = 1e-10  # relative to the largest number of the array that is compared
REGISTRY = dict(ops.registry)  # as it is before any test adds to it


def fused_gradient(name: str) -> bool:
    """Is this the gradient of a fused operation, made from the law of that?"""
    parent = REGISTRY.get(name.removesuffix("_grad"))
    return name.endswith("_grad") and parent is not None and hasattr(parent, "takes")


# ---- comparing


def relative(ours, theirs, what: str) -> float:
    """Largest difference over the largest number; integers and booleans must be the same."""
    a, b = np.asarray(ours), theirs.numpy(force=True)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, PyTorch {b.shape}"
    kinds = [{"u": "i"}.get(t.dtype.kind, t.dtype.kind) for t in (a, b)]
    assert kinds[0] == kinds[1], f"{what}: {a.dtype}, PyTorch {b.dtype}"
    if a.dtype.kind != "f":
        assert np.array_equal(a, b), f"{what} differs"
        return 0.0
    assert np.array_equal(np.isfinite(a), np.isfinite(b)), f"{what}: not finite in different places"
    finite = np.isfinite(b)
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(np.abs(b[finite]).max(), 1e-3))


def measure(ours, theirs, inputs, seed: int = 0) -> dict[str, float]:
    """Relative errors {"value", "first", "second"} of ours(*tensors) against theirs(*torch tensors).

    The scalar that is differentiated is Σ w·y + v·y², so that a linear function has a second gradient; the second
    gradient is that of a random contraction of all first ones. Only floats are differentiated.
    """
    rng = np.random.default_rng(seed)
    mine, other = [], []
    for a in inputs:
        if a is None:
            mine.append(None)
            other.append(None)
        elif isinstance(a, (int, float)):
            mine.append(a)
            other.append(torch.tensor(a, dtype=torch.float64))
        else:
            is_float = a.dtype.kind == "f"
            mine.append(tg.Tensor(a, requires_grad=is_float))
            other.append(torch.tensor(a, requires_grad=is_float))
    y, z = ours(*mine), theirs(*other)
    y, z = (y if isinstance(y, tuple) else (y,)), (z if isinstance(z, (tuple, list)) else (z,))
    assert len(y) == len(z), f"{len(y)} results, PyTorch {len(z)}"
    found = {"value": max([relative(a, b, "value") for a, b in zip(y, z)], default=0.0), "first": 0.0, "second": 0.0}
    xs = [t for t in mine if isinstance(t, tg.Tensor) and t.requires_grad]
    zs = [t for t in other if t is not None and t.requires_grad]
    if not xs:
        return found

    def scalars(contract) -> tuple:
        """Our and their scalar, of arrays drawn once."""
        pairs = [(a, b, rng.standard_normal(b.shape), rng.standard_normal(b.shape)) for a, b in contract]
        return (sum(((a * w + a * a * v).sum() for a, _, w, v in pairs), tg.Tensor(np.zeros(()))),
                sum(((b * torch.tensor(w) + b * b * torch.tensor(v)).sum() for _, b, w, v in pairs),
                    torch.zeros((), dtype=torch.float64)))  # fmt: skip

    def gradients(mine, other, create_graph: bool) -> list:
        """Pairs of gradients, zeros where there is none."""
        g = tg.grad(mine, xs, create_graph=create_graph, allow_unused=True) if mine.requires_grad else [None] * len(xs)
        h = ([None] * len(zs) if not other.requires_grad
             else torch.autograd.grad(other, zs, create_graph=create_graph, allow_unused=True))
        return [(tg.Tensor(np.zeros(x.shape)) if a is None else a, torch.zeros_like(t) if b is None else b)
                for a, b, x, t in zip(g, h, xs, zs)]  # fmt: skip

    floats = [(a, b) for a, b in zip(y, z) if a.dtype.kind == "f"]
    first = gradients(*scalars(floats), create_graph=True)
    found["first"] = max(relative(a, b, f"gradient of input {k}") for k, (a, b) in enumerate(first))
    second = gradients(*scalars(first), create_graph=False)
    found["second"] = max(relative(a, b, f"second gradient of input {k}") for k, (a, b) in enumerate(second))
    return found


# ---- what is compared


def runs(name: str):
    """(label, ours, theirs, inputs, seed) of every comparison of an operation."""
    made, twin = REGISTRY[name], TWINS[name]
    implementations = [{"impl": "law"}, {"impl": "kernel"}] if hasattr(made, "takes") else [{}]

    def one(label, inputs, attrs, seed):
        # in float64 there is one precision
        theirs = functools.partial(twin, **{k: v for k, v in (made.defaults | attrs).items() if k != "precision"})
        for how in implementations:
            if how.get("impl") == "kernel" and name == "attention" and inputs[3:] and _is_float(inputs[3]):
                continue  # its kernel takes boolean masks only
            yield f"{label} {attrs} {how}", functools.partial(made, **attrs, **how), theirs, inputs, seed

    for k, case in enumerate(CASES[name]):
        for seed in range(3):
            yield from one(f"case {k} seed {seed}", case.inputs(seed), case.attrs, seed)
    for seed in range(12 if name in SWEEP else 0):
        inputs, attrs = SWEEP[name](np.random.default_rng(seed))
        yield from one(f"sweep {seed}", inputs, attrs, seed)


def _is_float(a) -> bool:
    return a is not None and a.dtype.kind == "f"


def integers(rng, low, high, n=None):
    """Whole numbers from low to high, both included, as Python ints."""
    v = rng.integers(low, high + 1, n)
    return int(v) if n is None else tuple(map(int, v))


def convolution(rng):
    """x, w, b of odd sizes, and the attributes that fit them."""
    groups = integers(rng, 1, 3)
    kernel, dilation = integers(rng, 1, 4, 2), integers(rng, 1, 3, 2)
    c, f = integers(rng, 1, 3), groups * integers(rng, 1, 3)
    image = [d * (k - 1) + 1 + integers(rng, 0, 5) for k, d in zip(kernel, dilation)]
    attrs = {"stride": integers(rng, 1, 3, 2), "padding": (integers(rng, 0, 2, 2), integers(rng, 0, 2, 2)),
             "dilation": dilation, "groups": groups}  # fmt: skip
    x = rng.standard_normal((integers(rng, 1, 3), *image, c * groups))
    return x, rng.standard_normal((*kernel, c, f)), rng.standard_normal(f), attrs


def _conv2d(rng):
    x, w, b, attrs = convolution(rng)
    if rng.random() < 0.3:
        attrs["padding"] = "same"
    return (x, w, b if rng.random() < 0.5 else None), attrs


def _conv2d_add(rng):
    (x, w, b), attrs = _conv2d(rng)
    return (x, w, b, rng.standard_normal(ops.conv2d(x, w, **attrs).shape)), attrs


def _conv2d_grads(which):
    def draw(rng):
        x, w, _, attrs = convolution(rng)
        gy = rng.standard_normal(ops.conv2d(x, w, **attrs).shape)
        return ((gy, w), {"x_shape": x.shape, **attrs}) if which == "x" else ((x, gy), {"w_shape": w.shape, **attrs})

    return draw


def _conv_transpose2d(rng):
    x, w, b, attrs = convolution(rng)
    attrs["output_padding"] = tuple(integers(rng, 0, s - 1) for s in attrs["stride"])
    size = [(n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(x.shape[1:3], attrs["stride"], attrs["dilation"], w.shape)]
    attrs["padding"] = tuple((min(a, (n - 1) // 2), min(b, (n - 1) // 2)) for n, (a, b) in zip(size, attrs["padding"]))
    return (x, w, b if rng.random() < 0.5 else None), attrs


def _broadcast(low, high):
    def draw(rng):
        shape = integers(rng, 1, 5, integers(rng, 0, 4))
        parts = [tuple(n if rng.random() < 0.6 else 1 for n in shape)[integers(rng, 0, len(shape)):] for _ in range(2)]
        return tuple(rng.uniform(low, high, s) for s in parts), {}

    return draw


def _matmul(rng):
    n, k, m = integers(rng, 1, 9, 3)
    batch = integers(rng, 1, 3, integers(rng, 0, 2))
    a, b = [tuple(s if rng.random() < 0.6 else 1 for s in batch)[integers(rng, 0, len(batch)):] for _ in range(2)]
    ta, tb = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    a = (*a, k, n) if ta else (*a, n, k)
    b = (*b, m, k) if tb else (*b, k, m)
    return (rng.standard_normal(a), rng.standard_normal(b)), {"ta": ta, "tb": tb}


def _norm(groups: bool):
    def draw(rng):
        count = integers(rng, 1, 4)
        c = count * integers(rng, 2, 5)
        shape = (integers(rng, 2, 4), *integers(rng, 1, 6, integers(rng, 0 if not groups else 1, 2)), c)
        attrs = {"eps": 10.0 ** -integers(rng, 1, 6)}
        if groups:
            attrs |= {"groups": count, "silu": bool(rng.random() < 0.5)}
        return (3 * rng.standard_normal(shape) + 1, rng.standard_normal(c), rng.standard_normal(c)), attrs

    return draw


def _attention(rng):
    n, heads, tq, tk, d, dv = integers(rng, 1, 6, 6)
    q, k, v = (rng.standard_normal((n, heads, *s)) for s in ((tq, d), (tk, d), (tk, dv)))
    kind = integers(rng, 0, 3)
    mask = None if kind < 2 else rng.random((1, heads, tq, 1 if kind == 2 else tk)) < 0.7
    if kind == 3 and rng.random() < 0.5:
        mask = rng.standard_normal(mask.shape)
    return (q, k, v, mask), {"causal": kind == 1, "scale": None if rng.random() < 0.5 else 0.4}


def _pool(rng):
    size, stride = integers(rng, 1, 4, 2), integers(rng, 1, 3, 2)
    padding = tuple(tuple(integers(rng, 0, k // 2) for _ in range(2)) for k in size)
    shape = (integers(rng, 1, 2), *(k + integers(rng, 0, 6) for k in size), integers(rng, 1, 4))
    return (rng.permutation(np.prod(shape)).reshape(shape) / 7,), {"size": size, "stride": stride, "padding": padding}


def _bilinear(rng):
    shape = (integers(rng, 1, 2), *integers(rng, 1, 9, 2), integers(rng, 1, 4))
    return (rng.standard_normal(shape),), {"size": integers(rng, 1, 12, 2), "align_corners": bool(rng.random() < 0.4),
                                           "antialias": bool(rng.random() < 0.4)}  # fmt: skip


def _fir(rng):
    shape = (integers(rng, 1, 2), *integers(rng, 4, 9, 2), integers(rng, 1, 3))
    return (rng.standard_normal(shape),), {
        "kernel": tuple(rng.standard_normal(integers(rng, 1, 4))), "up": integers(rng, 1, 3, 2),
        "down": integers(rng, 1, 3, 2), "padding": (integers(rng, 0, 3, 2), integers(rng, 0, 3, 2))}  # fmt: skip


def _reduction(rng):
    shape = integers(rng, 1, 6, integers(rng, 1, 4))
    axes = tuple(int(a) for a in rng.permutation(len(shape))[: integers(rng, 1, len(shape))])
    return (rng.standard_normal(shape),), {"axis": axes, "keepdims": bool(rng.random() < 0.5)}


def _last_axis(rng):
    shape = integers(rng, 1, 6, integers(rng, 1, 4))
    return (4 * rng.standard_normal(shape),), {"axis": integers(rng, -len(shape), len(shape) - 1)}


SWEEP = {
    "conv2d": _conv2d, "conv2d_add": _conv2d_add, "conv2d_input_grad": _conv2d_grads("x"),
    "conv2d_weight_grad": _conv2d_grads("w"), "conv_transpose2d": _conv_transpose2d, "matmul": _matmul,
    "group_norm": _norm(True), "layer_norm": _norm(False),
    "batch_norm": _norm(False), "attention": _attention, "sum_pool2d": _pool, "max_pool2d": _pool, "fir": _fir,
    "resize_bilinear": _bilinear, "softmax": _last_axis, "log_softmax": _last_axis, "cumsum": _last_axis,
    **{name: _reduction for name in ("sum", "mean", "norm", "logsumexp", "max", "min")},
    **{name: _broadcast(-2, 2) for name in ("add", "sub", "mul", "maximum", "minimum")},
    **{name: _broadcast(0.4, 2) for name in ("div", "power")},
}  # fmt: skip


def errors(name: str) -> dict[str, float]:
    """The largest relative errors of an operation, over all comparisons. Raises AssertionError, naming the comparison,
    for another shape or type, or an error above TOLERANCE."""
    worst = {"value": 0.0, "first": 0.0, "second": 0.0, "comparisons": 0}
    for label, ours, theirs, inputs, seed in runs(name):
        try:
            found = measure(ours, theirs, inputs, seed)
        except AssertionError as error:
            raise AssertionError(f"{name}, {label}: {error}") from None
        for what, value in found.items():
            assert value <= TOLERANCE, f"{name}, {label}: {what} off by {value:.1e}"
            worst[what] = max(worst[what], value)
        worst["comparisons"] += 1
    return worst


# ---- the tests


@pytest.mark.filterwarnings("ignore:var.*degrees of freedom")  # what is asked for: an empty axis
@pytest.mark.parametrize("name", sorted(n for n in REGISTRY if n in TWINS))
def test_the_operation_agrees_with_pytorch(name, record_property):
    record_property("relative error", errors(name))


def test_every_operation_has_a_twin_or_a_reason():
    missing = [n for n in REGISTRY if n not in TWINS and n not in NO_TWIN and not fused_gradient(n)]
    assert not missing, f"operations with neither a twin nor a reason for none in torch_twins.py: {missing}"
    assert not set(TWINS) & set(NO_TWIN) and not (set(TWINS) | set(NO_TWIN)) - set(REGISTRY)
    for name in filter(fused_gradient, REGISTRY):
        assert name.removesuffix("_grad") in TWINS, f"{name}: its parent has no twin, so nothing compares it"


def test_the_kernels_gradient_is_what_is_compared():
    """With impl="kernel" the recorder sees `<name>_grad` run, in float64 too."""
    for name in filter(fused_gradient, REGISTRY):
        parent = name.removesuffix("_grad")
        seen = []
        with tg.tape.observe(lambda op, *rest, seen=seen: seen.append(op.name)):
            for label, ours, theirs, inputs, seed in runs(parent):
                if "kernel" in label and label.startswith("case 0 seed 0"):
                    measure(ours, theirs, inputs, seed)
        assert parent in seen and name in seen, (parent, set(seen))


@pytest.mark.parametrize("wrong, what", [
    (lambda x: ops.tanh(x) * (1 + 1e-9), "value"),
    (lambda x: ops.tanh(x.detach()) + 0.0 * x, "first"),
    (lambda x: ops.tanh(x.detach()) + (1 - ops.square(ops.tanh(x.detach()))) * (x - x.detach()), "second"),
])
def test_a_wrong_operation_is_noticed(wrong, what):
    """An error of one part in a billion; a gradient that stops; a right gradient that counts as constant."""
    found = measure(wrong, torch.tanh, [np.random.default_rng(0).standard_normal((3, 5))])
    assert found[what] > TOLERANCE
    right = measure(ops.tanh, torch.tanh, [np.random.default_rng(0).standard_normal((3, 5))])
    assert max(right.values()) <= 1e-14
    order = ["value", "first", "second"]
    assert all(found[w] <= TOLERANCE for w in order[: order.index(what)])
