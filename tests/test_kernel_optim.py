"""The optimiser kernels: the definition, PyTorch's optimisers, the moving average, and being in place."""

import subprocess
import sys

import numpy as np
import pytest

from tinygen.kernels import adam, rmsprop, sgd, threads
from tinygen.kernels.adam import cpu as adam_cpu
from tinygen.kernels.adam import loops as adam_loops
from tinygen.kernels.rmsprop import loops as rmsprop_loops
from tinygen.kernels.sgd import loops as sgd_loops
from tinygen.kernels.table import squares

LOOPS = {"adam": adam_loops, "sgd": sgd_loops, "rmsprop": rmsprop_loops}
STEPS = 10


def arrays(shape, dtype, count, seed=0):
    r = np.random.default_rng(seed)
    return [r.standard_normal(shape).astype(dtype) for _ in range(count)]


ADAM = dict(lr=3e-3, beta1=0.9, beta2=0.99, eps=1e-8)
CASES = {
    "adam": ("adam", dict(**ADAM, weight_decay=0.0, decoupled=False)),
    "adam, L2": ("adam", dict(**ADAM, weight_decay=0.1, decoupled=False)),
    "adam, no momentum": ("adam", dict(ADAM, beta1=0.0, weight_decay=0.0, decoupled=False)),
    "adamw": ("adam", dict(**ADAM, weight_decay=0.1, decoupled=True)),
    "sgd": ("sgd", dict(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.01)),
    "sgd, momentum": ("sgd", dict(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)),
    "sgd, Nesterov": ("sgd", dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0)),
    "rmsprop": ("rmsprop", dict(lr=0.01, alpha=0.9, eps=1e-8, momentum=0.0, weight_decay=0.1)),
    "rmsprop, momentum": ("rmsprop", dict(lr=0.01, alpha=0.9, eps=1e-8, momentum=0.9, weight_decay=0.0)),
    "rmsprop, centred": (
        "rmsprop",
        dict(lr=0.01, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.1, centered=True),
    ),
}


class Run:
    """Ten steps of one kernel on one parameter: by the fast path or by the definition."""

    def __init__(self, case, p, grads, scale=1.0, ema_decay=None):
        self.kernel, self.options = CASES[case][0], dict(CASES[case][1])
        self.p, self.grads, self.scale, self.decay = p.copy(), grads, scale, ema_decay
        zeros = lambda: np.zeros_like(p)
        self.m, self.v, self.buf = zeros(), zeros(), zeros() if self.options.get("momentum") else None
        self.avg = zeros() if self.options.pop("centered", False) else None
        self.ema = None if ema_decay is None else p.copy()

    def fast(self):
        extra = dict(scale=self.scale, ema=self.ema, ema_decay=self.decay or 0.0)
        for t, g in enumerate(self.grads, start=1):
            if self.kernel == "adam":
                adam.step(self.p, g, self.m, self.v, t=t, **self.options, **extra)
            elif self.kernel == "sgd":
                sgd.step(self.p, g, self.buf, t=t, **self.options, **extra)
            else:
                rmsprop.step(self.p, g, self.v, self.buf, avg=self.avg, **self.options, **extra)
        return self

    def defined(self):
        o, step, flat = self.options, LOOPS[self.kernel].step, lambda a: None if a is None else a.reshape(-1)
        p, m, v, buf, avg, ema = map(flat, (self.p, self.m, self.v, self.buf, self.avg, self.ema))
        decay = self.decay or 0.0
        for t, g in enumerate(map(flat, self.grads), start=1):
            if self.kernel == "adam":
                step(p, g, m, v, ema, o["lr"], o["beta1"], o["beta2"], o["eps"], o["weight_decay"],
                     o["decoupled"], t, self.scale, decay)  # fmt: skip
            elif self.kernel == "sgd":
                step(p, g, buf, ema, o["lr"], o["momentum"], o["nesterov"], o["weight_decay"], t,
                     self.scale, decay)  # fmt: skip
            else:
                step(p, g, v, buf, avg, ema, o["lr"], o["alpha"], o["eps"], o["momentum"],
                     o["weight_decay"], self.scale, decay)  # fmt: skip
        return self

    def state(self):
        return [a for a in (self.p, self.m, self.v, self.buf, self.avg, self.ema) if a is not None]


@pytest.mark.parametrize("case", CASES)
def test_fast_path_equals_the_definition(case):
    p, *grads = arrays((3, 5, 7), np.float64, STEPS + 1)
    fast, defined = (Run(case, p, grads, scale=0.7, ema_decay=0.9) for _ in range(2))
    for a, b in zip(fast.fast().state(), defined.defined().state()):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", ["adam, L2", "sgd, Nesterov", "rmsprop, centred"])
def test_float32_follows_float64(case):
    p, *grads = arrays((1000,), np.float32, STEPS + 1)
    single = Run(case, p, grads, ema_decay=0.9).fast()
    double = Run(case, p.astype(np.float64), [g.astype(np.float64) for g in grads], ema_decay=0.9).defined()
    for a, b in zip(single.state(), double.state()):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case):
    torch = pytest.importorskip("torch", reason="parity with PyTorch needs torch (the parity extra)")
    p, *grads = arrays((4, 6), np.float64, STEPS + 1)
    kernel, o = CASES[case]
    q = torch.nn.Parameter(torch.tensor(p))
    if kernel == "adam":
        make = torch.optim.AdamW if o["decoupled"] else torch.optim.Adam
        betas = (o["beta1"], o["beta2"])
        optimiser = make([q], lr=o["lr"], betas=betas, eps=o["eps"], weight_decay=o["weight_decay"])
    else:
        optimiser = (torch.optim.SGD if kernel == "sgd" else torch.optim.RMSprop)([q], **o)
    for g in grads:
        q.grad = torch.tensor(g)
        optimiser.step()
    np.testing.assert_allclose(Run(case, p, grads).fast().p, q.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["adam", "sgd, momentum", "rmsprop, centred"])
@pytest.mark.parametrize("size", [0, 1, 1023, 1025, 131_072, 150_001])
def test_any_size_serial_and_threaded(case, size):
    """Both sides of every tile, run and threshold; each element is updated as it would be alone."""
    p, g = arrays((size,), np.float32, 2)
    whole = Run(case, p, [g, g], ema_decay=0.5).fast()
    parts = [slice(0, 700), slice(700, 70_000), slice(70_000, None)]
    for part in parts:
        piece = Run(case, p[part], [g[part], g[part]], ema_decay=0.5).fast()
        for a, b in zip(whole.state(), piece.state()):
            np.testing.assert_array_equal(a[part], b)


def test_the_thread_count_changes_nothing():
    p, g = arrays((200_000,), np.float32, 2)
    before, results = threads.get_threads(), []
    try:
        for count in (1, 3):
            threads.set_threads(count)
            results.append([*Run("adam", p, [g, g], ema_decay=0.9).fast().state(), squares([g, p[:7], g[5:]])])
    finally:
        threads.set_threads(before)
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["adam, L2", "sgd, Nesterov", "rmsprop, centred"])
def test_many_arrays_in_one_call_are_each_updated_as_alone(case):
    """Empty ones, of both types, larger and smaller than a piece, some without an average."""
    shapes = [((3, 5), np.float32), ((0, 4), np.float32), ((20_000,), np.float64), ((1,), np.float32),
              ((70, 300), np.float32)]
    runs, alone = [], []
    for k, (shape, dtype) in enumerate(shapes):
        p, g = arrays(shape, dtype, 2, seed=k)
        decay = 0.9 if k % 2 == 0 else None
        runs.append(Run(case, p, [g], ema_decay=decay))
        alone.append(Run(case, p, [g], ema_decay=decay).fast())
        alone[-1].decay = 0.9
    of = lambda name: [getattr(r, name) for r in runs]
    grads = [r.grads[0] for r in runs]
    o, shared = runs[0].options, dict(ema=of("ema"), ema_decay=0.9)
    if case.startswith("adam"):
        adam.step(of("p"), grads, of("m"), of("v"), t=1, **o, **shared)
    elif case.startswith("sgd"):
        sgd.step(of("p"), grads, of("buf"), t=1, **o, **shared)
    else:
        rmsprop.step(of("p"), grads, of("v"), of("buf"), avg=of("avg"), **o, **shared)
    for together, single in zip(runs, alone):
        for a, b in zip(together.state(), single.state()):
            np.testing.assert_array_equal(a, b)


def test_squares_are_summed_in_float64():
    a, b = arrays((3, 4, 50), np.float32, 1)[0], arrays((50_001,), np.float64, 1)[0]
    huge, empty = np.full(3, 3e38, np.float32), np.zeros((2, 0), np.float32)
    found = squares([a, b, huge, empty, a.T])
    want = [(x.astype(np.float64) ** 2).sum() for x in (a, b, huge, empty, a)]
    np.testing.assert_allclose(found, want, rtol=1e-14)
    a[1, 2, 3] = np.nan
    assert np.isnan(squares([b, a])[1])


@pytest.mark.parametrize("case", ["adamw", "sgd", "rmsprop"])
def test_moving_average_of_the_updated_parameter(case):
    p, *grads = arrays((50,), np.float64, STEPS + 1)
    plain, run = Run(case, p, []), Run(case, p, grads, ema_decay=0.8).fast()
    want = p.copy()
    for t in range(1, STEPS + 1):
        want = 0.8 * want + 0.2 * Run(case, p, grads[:t]).fast().p
    np.testing.assert_allclose(run.ema, want, rtol=1e-12)
    np.testing.assert_array_equal(run.p, Run(case, p, grads).fast().p)
    np.testing.assert_array_equal(plain.p, p)


@pytest.mark.parametrize("case", ["adam, L2", "sgd, momentum", "rmsprop"])
def test_scale_multiplies_the_gradient(case):
    p, *grads = arrays((20,), np.float64, 4)
    scaled, ready = Run(case, p, grads, scale=0.25).fast(), Run(case, p, [0.25 * g for g in grads]).fast()
    np.testing.assert_allclose(scaled.p, ready.p, rtol=1e-13)


def test_in_place_and_the_gradient_untouched():
    p, g = arrays((6, 4), np.float32, 2)
    m, v, ema = np.zeros_like(p), np.zeros_like(p), p.copy()
    pointers, kept = [a.ctypes.data for a in (p, m, v, ema)], g.copy()
    g.flags.writeable = False
    options = dict(**ADAM, weight_decay=0, decoupled=False, t=1, ema_decay=0.5)
    assert adam.step(p, g, m, v, ema=ema, **options) is None
    assert [a.ctypes.data for a in (p, m, v, ema)] == pointers
    assert m.any() and v.any() and not np.array_equal(p, ema)
    np.testing.assert_array_equal(g, kept)

    across = np.asfortranarray(kept)
    q, n, w = arrays((6, 4), np.float32, 1)[0], np.zeros_like(p), np.zeros_like(p)
    adam.step(q, across, n, w, **options)
    np.testing.assert_array_equal(q, p)

    scalar, one = np.array(2.0), np.array(1.0)
    sgd.step(scalar, one, None, lr=1, momentum=0, nesterov=False, weight_decay=0, t=1)
    assert scalar == 1.0


def test_first_step_of_sgd_sets_the_velocity_whatever_it_held():
    p, g = arrays((5,), np.float64, 2)
    buf = np.full_like(p, np.nan)
    sgd.step(p, g, buf, lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0, t=1)
    np.testing.assert_array_equal(buf, g)


def test_centred_rmsprop_survives_a_constant_gradient():
    """v - avg**2 tends to 0 and rounds to either side of it."""
    p, v, avg = (np.zeros(3, np.float32) for _ in range(3))
    g = np.array([0.1, 1 / 3, 7e3], np.float32)
    for _ in range(2000):
        rmsprop.step(p, g, v, None, lr=1e-3, alpha=0.9, eps=1e-8, momentum=0.0, weight_decay=0.0, avg=avg)
    assert np.isfinite(p).all()


def test_numbers_of_any_type_compile_nothing_new():
    p, g = arrays((8,), np.float32, 2)
    m, v = np.zeros_like(p), np.zeros_like(p)
    adam.step(p, g, m, v, **ADAM, weight_decay=0.0, decoupled=False, t=1)
    count = len(adam_cpu._all.signatures)
    odd = dict(lr=np.float32(1e-3), beta1=0, beta2=np.float64(0.9), eps=0, weight_decay=np.int64(0))
    adam.step(p, g, m, v, **odd, decoupled=np.True_, t=np.int64(2), scale=1, ema=p.copy(), ema_decay=0)
    adam.step(p.reshape(2, 4), g.reshape(2, 4), m.reshape(2, 4), v.reshape(2, 4), **odd, decoupled=False, t=3)
    assert len(adam_cpu._all.signatures) == count


def test_errors():
    p, g = arrays((4, 6), np.float32, 2)
    m, v = np.zeros_like(p), np.zeros_like(p)
    options = dict(**ADAM, weight_decay=0.0, decoupled=False)
    with pytest.raises(ValueError, match="adam counts its steps from 1, but t=0"):
        adam.step(p, g, m, v, t=0, **options)
    with pytest.raises(ValueError, match=r"gradient \(6, 4\) float32 for a parameter \(4, 6\) float32"):
        adam.step(p, g.T, m, v, t=1, **options)
    with pytest.raises(ValueError, match="adam got a gradient .* float64 for a parameter .* float32"):
        adam.step(p, g.astype(np.float64), m, v, t=1, **options)
    with pytest.raises(ValueError, match="adam updates in place: .* one is .* float64"):
        adam.step(p, g, m.astype(np.float64), v, t=1, **options)
    with pytest.raises(ValueError, match="adam updates in place: .* writeable=True, contiguous=False"):
        adam.step(np.asfortranarray(p), g, m, v, t=1, **options)
    v.flags.writeable = False
    with pytest.raises(ValueError, match="adam updates in place: .* writeable=False, contiguous=True"):
        adam.step(p, g, m, v, t=1, **options)
    with pytest.raises(TypeError, match="sgd updates float32 or float64 parameters, not int64"):
        i = np.zeros(3, np.int64)
        sgd.step(i, i, None, lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, t=1)
    with pytest.raises(ValueError, match="sgd with momentum 0.9 needs buf"):
        sgd.step(p, g, None, lr=1.0, momentum=0.9, nesterov=False, weight_decay=0.0, t=1)
    with pytest.raises(ValueError, match="look-ahead needs momentum > 0"):
        sgd.step(p, g, None, lr=1.0, momentum=0.0, nesterov=True, weight_decay=0.0, t=1)
    with pytest.raises(ValueError, match="rmsprop with momentum 0.9 needs buf"):
        rmsprop.step(p, g, m, None, lr=1.0, alpha=0.9, eps=1e-8, momentum=0.9, weight_decay=0.0)
    with pytest.raises(TypeError, match="adam computes on NumPy's arrays and .*was given a builtins.float"):
        adam.step([1.0], g, m, v, t=1, **options)


def test_importing_the_kernels_does_not_import_numba():
    names = ", ".join(f"tinygen.kernels.{kernel}" for kernel in ("adam", "sgd", "rmsprop", "philox"))
    code = f"import sys, {names}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
