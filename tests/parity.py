"""The same function in tinygen and in PyTorch: value, gradients, gradients of gradients, in float64."""

import numpy as np
import pytest

import tinygen as tg

TOLERANCE = 1e-10  # relative to the largest number of the array compared


def torch_or_skip():
    return pytest.importorskip("torch", reason="PyTorch, which this is compared with, is not installed")


def same(ours, theirs, what: str) -> None:
    ours, theirs = np.asarray(ours), theirs.numpy(force=True)
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch {theirs.shape}"
    assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype}, PyTorch {theirs.dtype}"
    if ours.size:
        error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-3)
        assert error <= TOLERANCE, f"{what}: relative error {error:.1e}"


def compare(ours, theirs, *arrays: np.ndarray, seed: int = 0) -> None:
    """ours over Tensors, theirs over torch tensors; both may return a tuple. Floats among the arrays are
    differentiated, twice: the second time a random contraction of all first gradients."""
    torch = torch_or_skip()
    rng = np.random.default_rng(seed)
    mine = [tg.Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    other = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y, z = ours(*mine), theirs(*other)
    y, z = (y if isinstance(y, tuple) else (y,)), (z if isinstance(z, tuple) else (z,))
    assert len(y) == len(z)
    for a, b in zip(y, z):
        same(a, b, "value")
    xs, zs = [t for t in mine if t.requires_grad], [t for t in other if t.requires_grad]
    weights = [rng.standard_normal(b.shape) for b in z]
    total = sum((a * w).sum() for a, w in zip(y, weights))
    first = tg.grad(total, xs, create_graph=True, allow_unused=True)
    total = sum((b * torch.tensor(w)).sum() for b, w in zip(z, weights))
    first_z = torch.autograd.grad(total, zs, create_graph=True, allow_unused=True)
    weights = [rng.standard_normal(x.shape) for x in xs]
    for k, (a, b) in enumerate(zip(first, first_z)):
        same(a, b, f"gradient of input {k}")
    total = sum((a * w).sum() for a, w in zip(first, weights))
    second = tg.grad(total, xs, allow_unused=True) if total.requires_grad else [None] * len(xs)
    total = sum((b * torch.tensor(w)).sum() for b, w in zip(first_z, weights))
    second_z = torch.autograd.grad(total, zs, allow_unused=True) if total.requires_grad else [None] * len(zs)
    for k, (a, b) in enumerate(zip(second, second_z)):
        a = np.zeros(xs[k].shape) if a is None else a
        b = torch.zeros(xs[k].shape, dtype=torch.float64) if b is None else b
        same(a, b, f"second gradient of input {k}")
