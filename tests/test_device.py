"""The engine on a device: every operation of the registry there against float64 on the CPU; tensors that move.

The device is the emulated one, on every machine with a C++ compiler, and CUDA under -m gpu.
"""

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, ops, tape
from tinygen.audit.cases import CASES
from tinygen.kernels.cuda import host


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """"cuda:0", emulated or not."""
    if request.param == "emulated":
        if host.compiler() is None:
            pytest.skip("no C++ compiler: the emulated device needs g++")
        monkeypatch.setenv("TINYGEN_CUDA", "emulated")
    else:
        cupy = pytest.importorskip("cupy")
        if not cupy.cuda.is_available():
            pytest.skip("no CUDA device")
        monkeypatch.delenv("TINYGEN_CUDA", raising=False)
    before = backend.cupy
    backend.forget()
    yield backend.device("cuda:0")
    backend.forget()
    if before is not None:
        backend.device("cuda:0")


NAMES = sorted(n for n in CASES if n != "to_device")


def _values(made, inputs, attrs, dtype, where, order):
    """The outputs, and the gradients to `order` of a fixed contraction of them, as float64 arrays."""
    def tensor(a):
        if isinstance(a, np.ndarray):
            a = a.astype(dtype) if a.dtype.kind == "f" else a
            moved = backend.move(a, where)
            return tg.Tensor(moved, requires_grad=True) if a.dtype.kind == "f" else tg.Tensor(moved)
        return a

    def weights(y, k):
        w = np.cos(1.0 + k + np.arange(y.size, dtype=np.float64)).reshape(y.shape).astype(y.dtype)
        return tg.Tensor(backend.move(w, where))

    xs = [[tensor(a) for a in x] if isinstance(x, (list, tuple)) else tensor(x) for x in inputs]
    y = made(*xs, **attrs)
    found = list(y) if isinstance(y, tuple) else [y]
    leaves = [t for x in xs for t in (x if isinstance(x, list) else [x]) if isinstance(t, tg.Tensor) and t.node]
    values = [*found]
    for k in range(order):
        floats = [t for t in found if t.dtype.kind == "f" and t.node is not None]
        if not floats:
            break
        total = sum((ops.sum(t * weights(t, k)) for t in floats[1:]), ops.sum(floats[0] * weights(floats[0], k)))
        grads = tg.grad(total, leaves, create_graph=True, allow_unused=True)
        found = [g for g in grads if g is not None]
        values += found
    for v in values:
        assert v.device == where, f"{made} gave a result on {v.device}"
    return [v.numpy().astype(np.float64) if v.dtype.kind == "f" else v.numpy() for v in values]


@pytest.mark.parametrize("name", NAMES)
def test_every_operation(name, device):
    made = tape.registry[name]
    for k, case in enumerate(CASES[name]):
        inputs, order = case.inputs(k), min(2, case.order)
        expected = _values(made, inputs, case.attrs, np.float64, "cpu", order)
        for dtype, tolerance in ((np.float32, 2e-4), (np.float64, 1e-9)):
            found = _values(made, inputs, case.attrs, dtype, device, order)
            assert len(found) == len(expected)
            for i, (f, e) in enumerate(zip(found, expected)):
                assert f.shape == e.shape
                scale = max(1.0, float(np.abs(e).max(initial=0))) if e.dtype.kind == "f" else 1
                np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * scale if e.dtype.kind == "f" else 0,
                                           err_msg=f"{name}, case {k}, {np.dtype(dtype)}, value {i}")


def test_moving_is_recorded(device):
    x = tg.Tensor(np.arange(3.0), requires_grad=True)
    y = ops.sum(ops.square(x.to(device)).to("cpu"))
    assert x.to(device).device == device and y.device == "cpu"
    g = tg.grad(y, x)
    assert g.device == "cpu" and g.numpy().tolist() == [0, 2, 4]


def test_devices_do_not_mix(device):
    with pytest.raises(tg.DeviceError, match="move one with .to"):
        tg.Tensor(np.ones(3, np.float32)) + tg.Tensor(np.ones(3, np.float32)).to(device)
