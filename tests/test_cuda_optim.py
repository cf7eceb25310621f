"""The optimisers on the device: the CPU's numbers, one pass over many arrays, and steps that a graph can hold."""

import numpy as np
import pytest

import tinygen as tg
from tinygen import backend, nn, ops, optim
from tinygen.kernels import adam, cuda, rmsprop, sgd
from tinygen.kernels.adam import loops as adam_loops
from tinygen.kernels.cuda import capturing, emulated, multi, nvcc
from tinygen.kernels.rmsprop import loops as rmsprop_loops
from tinygen.kernels.sgd import loops as sgd_loops

F32 = np.float32
SHAPES = [((3, 5), F32), ((0, 4), F32), ((5000,), np.float64), ((1,), F32), ((3, 3, 70), F32), ((4097,), F32)]


@pytest.fixture
def there(xp, monkeypatch):
    """The library of device arrays, in use by the engine."""
    monkeypatch.setattr(backend, "cupy", xp)
    return xp


def arrays(k: int, shapes=SHAPES, scale=1.0):
    r = np.random.default_rng(k)
    return [(scale * r.standard_normal(s)).astype(d) for s, d in shapes]


def same(xp, one, other, where=""):
    for a, b in zip(one, other, strict=True):
        if a is not None:
            np.testing.assert_array_equal(xp.asnumpy(a), b, err_msg=where)


# ---- the kernels

ADAM = dict(lr=0.02, beta1=0.9, beta2=0.99, eps=1e-6)
CASES = {
    "adam": (adam, 2, dict(**ADAM, weight_decay=0.0, decoupled=False)),
    "adam, L2": (adam, 2, dict(**ADAM, weight_decay=0.1, decoupled=False)),
    "adamw": (adam, 2, dict(**ADAM, weight_decay=0.1, decoupled=True)),
    "sgd": (sgd, 0, dict(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.01)),
    "sgd, momentum": (sgd, 1, dict(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)),
    "sgd, Nesterov": (sgd, 1, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0)),
    "rmsprop": (rmsprop, 1, dict(lr=0.01, alpha=0.9, eps=1e-8, momentum=0.0, weight_decay=0.1)),
    "rmsprop, momentum": (rmsprop, 2, dict(lr=0.01, alpha=0.9, eps=1e-8, momentum=0.9, weight_decay=0.0)),
    "rmsprop, centred": (rmsprop, 3, dict(lr=0.01, alpha=0.9, eps=1e-2, momentum=0.9, weight_decay=0.0)),
}  # fmt: skip


def run(case, put, p, grads, state, ema, memo=None):
    """Steps of the seam on lists; state: lists of the kernel's own."""
    kernel, slots, options = CASES[case]
    shared = dict(options, scale=0.7, ema=ema, ema_decay=0.95, memo=memo)
    for t, g in enumerate(grads, start=1):
        g = [put(a) for a in g]
        if kernel is rmsprop:
            avg = state[2] if slots == 3 else None
            kernel.step(p, g, state[0], state[1] if slots > 1 else None, avg=avg, **shared)
        else:
            kernel.step(p, g, *(state[:slots] or [None]), t=t, **shared)


@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_cpu(xp, case):
    """Many arrays of both types, empty ones, larger than a piece, some without an average: three steps."""
    slots, results = CASES[case][1], []
    for put in (xp.asarray, lambda a: a.copy()):
        p = [put(a) for a in arrays(0)]
        state = [[put(np.zeros_like(a)) for a in arrays(0)] for _ in range(slots)]
        ema = [put(a) if k % 2 == 0 else None for k, a in enumerate(arrays(0))]
        run(case, put, p, [arrays(k) for k in (1, 2, 3)], state, ema, {})
        results.append([p, *state, ema])
    for one, other in zip(*results, strict=True):
        same(xp, one, other)


@pytest.mark.tiny
@pytest.mark.parametrize("case", ["adam, L2", "sgd, Nesterov", "rmsprop, centred"])
def test_the_definition(xp, case):
    """By the plain Python of loops.py, in float64."""
    kernel, slots, o = CASES[case]
    shapes = [((7,), np.float64), ((2, 3), F32)]
    start, grads = arrays(0, shapes), [arrays(k, shapes) for k in (1, 2)]
    p, state = [xp.asarray(a) for a in start], [[xp.asarray(a * 0) for a in start] for _ in range(slots)]
    ema = [xp.asarray(a) for a in start]
    run(case, xp.asarray, p, grads, state, ema)
    for k, a in enumerate(start):
        q, e = a.ravel().astype(np.float64), a.ravel().astype(np.float64)
        own = [np.zeros_like(q) for _ in range(slots)]
        for t, g in enumerate(grads, start=1):
            d = g[k].ravel().astype(np.float64)
            if kernel is adam:
                adam_loops.step(q, d, *own, e, *ADAM.values(), o["weight_decay"], False, t, 0.7, 0.95)
            elif kernel is sgd:
                sgd_loops.step(q, d, *own, e, o["lr"], o["momentum"], True, 0.0, t, 0.7, 0.95)
            else:
                rmsprop_loops.step(q, d, *own, e, o["lr"], o["alpha"], o["eps"], o["momentum"], 0.0, 0.7, 0.95)
        error = 1e-12 if a.dtype == np.float64 else 2e-5
        np.testing.assert_allclose(xp.asnumpy(p[k]).ravel(), q, rtol=error, atol=error)
        np.testing.assert_allclose(xp.asnumpy(ema[k]).ravel(), e, rtol=error, atol=error)


@pytest.mark.tiny
def test_norm_scale_and_verdict(xp):
    p = [xp.zeros(s, d) for s, d in [((5000,), F32), ((3,), np.float64), ((0,), F32), ((2, 2), F32)]]
    grads = [np.random.default_rng(k).standard_normal(a.shape).astype(a.dtype) for k, a in enumerate(p)]
    board = multi.Board("test", [p])
    board.advance()
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads))
    seen = []
    for limit in (1.0, 1e6, np.inf):
        there = [xp.asarray(g) for g in grads]
        board.judge(board.place(there), limit)
        found, scale, wrong = xp.asnumpy(board.report).tolist()
        assert found == pytest.approx(norm, rel=1e-14) and scale == pytest.approx(min(1, limit / norm), rel=1e-14)
        assert wrong == 0 and board.verdict()[1] == []
        seen.append(found)
    assert len(set(seen)) == 1
    for k, at, value in ((0, 4999, np.nan), (1, 0, np.inf), (3, (1, 1), -np.inf)):
        bad = [g.copy() for g in grads]
        bad[k][at] = value
        there = [xp.asarray(g) for g in bad]
        board.judge(board.place(there), 1.0)
        assert board.verdict()[1] == [k]
    large = [xp.asarray(np.full(a.shape, 1e30, a.dtype)) for a in p]  # finite, though their squares are not in float32
    board.judge(board.place(large), 1.0)
    assert board.verdict()[0] == pytest.approx(1e30 * np.sqrt(5007), rel=1e-6) and not board.verdict()[1]


def test_what_does_not_fit(xp):
    z = lambda shape=(3,), dtype=F32: xp.zeros(shape, dtype)
    o = dict(CASES["adam"][2], t=1)
    with pytest.raises(TypeError, match="adam updates float32 or float64 parameters, not int64"):
        adam.step(*(z(dtype=np.int64) for _ in range(4)), **o)
    with pytest.raises(ValueError, match="adam updates in place: .* but the parameter is \\(3,\\) float32"):
        adam.step(z(), z(), z((4,)), z(), **o)
    with pytest.raises(ValueError, match="adam got a gradient \\(4,\\) float32 for a parameter \\(3,\\)"):
        adam.step(z(), z((4,)), z(), z(), **o)
    with pytest.raises(ValueError, match="counts its steps from 1"):
        adam.step(z(), z(), z(), z(), **dict(o, t=0))


def test_arrays_that_begin_anywhere(xp):
    """Not at a multiple of 16 bytes: number by number, and the same numbers."""
    start, grad = np.arange(9, dtype=F32), np.ones(8, F32)
    whole = xp.asarray(start)
    p, m, v = whole[1:], xp.zeros((8,), F32), xp.zeros((8,), F32)
    adam.step(p, xp.asarray(start)[:8] * 0 + 1, m, v, **CASES["adamw"][2], t=1)
    q, n, w = start[1:].copy(), np.zeros(8, F32), np.zeros(8, F32)
    adam.step(q, grad, n, w, **CASES["adamw"][2], t=1)
    same(xp, [whole[1:], m, v, whole[:1]], [q, n, w, start[:1]])


@pytest.mark.parametrize("flags", [cuda.flags(d) for d in multi.BUILDS])
def test_what_they_share_compiles(flags):
    if nvcc.compiler() is None:
        pytest.skip("no nvcc: registers and spills were not looked at")
    for r in nvcc.resources(multi.FILE, flags).values():
        assert r.spills == r.stack == 0 and r.registers <= 40


# ---- the optimisers

MAKE = {
    "adam": lambda p, **o: optim.Adam(p, optim.cosine(1e-2, 20, 3), **o),
    "adamw": lambda p, **o: optim.AdamW(p, 0.01, **o),
    "sgd": lambda p, **o: optim.SGD(p, 0.1, **o),
    "nesterov": lambda p, **o: optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01, **o),
    "rmsprop": lambda p, **o: optim.RMSProp(p, 0.01, momentum=0.9, **o),
}


class Net(nn.Module):
    """Parameters of both types and buffers that only the moving average looks at."""

    def __init__(self, put):
        self.a, self.b, self.c, self.d = (tg.Tensor(put(a), requires_grad=True) for a in arrays(0, SHAPES[2:]))
        self.mean, self.count = tg.Tensor(put(np.ones(5, F32))), tg.Tensor(put(np.zeros(2, np.int64)))


def gradients(put, k, scale=1.0):
    return {n: tg.Tensor(put(a)) for n, a in zip("abcd", arrays(k, SHAPES[2:], scale))}


def go(net, opt, put, steps):
    for k in steps:
        net.mean.assign(net.mean.data * 1.5 + k)
        net.count.assign(net.count.data + 1)
        opt.step(gradients(put, k))


def states(xp, net, opt):
    return {**{k: xp.asnumpy(t.data) for k, t in {**net.parameters(), **net.buffers()}.items()},
            **{f"o {k}": v for k, v in opt.state().items()}, **{f"e {k}": v for k, v in opt.ema.state().items()}}


@pytest.mark.parametrize("name", MAKE)
def test_an_optimiser_gives_the_bits_of_the_cpu(there, name):
    results = []
    for put in (there.asarray, np.array):
        net = Net(put)
        opt = MAKE[name](net.parameters(), ema=optim.EMA(net, 0.9))
        go(net, opt, put, range(1, 5))
        results.append(states(there, net, opt))
        assert opt.steps == opt.ema.updates == 4 and opt.norm is None
    one, other = results
    assert one.keys() == other.keys()
    for k in one:
        np.testing.assert_array_equal(one[k], other[k], err_msg=k)


def test_clipping(there):
    norms, results = [], []
    for put in (there.asarray, np.array):
        net = Net(put)
        opt = MAKE["adam"](net.parameters(), ema=optim.EMA(net), clip_norm=0.5)
        go(net, opt, put, range(1, 4))
        norms.append(opt.norm)
        results.append(states(there, net, opt))
    assert type(norms[0]) is float and norms[0] == pytest.approx(norms[1], rel=1e-14)
    for k, a in results[0].items():
        np.testing.assert_allclose(a, results[1][k], rtol=3e-6, atol=1e-9, err_msg=k)


def test_clipping_by_functions(there):
    here, grads = gradients(np.array, 3), gradients(there.asarray, 3)
    assert optim.global_norm(grads) == pytest.approx(optim.global_norm(here), rel=1e-14)
    for k, g in optim.clip_by_norm(grads, 2.0).items():
        assert g.dtype == here[k].dtype
        np.testing.assert_allclose(there.asnumpy(g.data), optim.clip_by_norm(here, 2.0)[k].numpy(), rtol=2e-7)


@pytest.mark.parametrize("name", MAKE)
def test_a_refused_step_changes_nothing(there, name):
    net = Net(there.asarray)
    opt = MAKE[name](net.parameters(), ema=optim.EMA(net), clip_norm=1.0)
    go(net, opt, there.asarray, (1, 2))
    before = {k: v.copy() for k, v in states(there, net, opt).items()}
    for value in (np.nan, np.inf):
        grads = arrays(5, SHAPES[2:])
        grads[2][1, 1, 3] = value
        with pytest.raises(tg.NonFiniteError, match="the gradient of c is not finite \\(1 of 4 parameters\\); nothing"):
            opt.step({n: tg.Tensor(there.asarray(a)) for n, a in zip("abcd", grads)})
        after = states(there, net, opt)
        for k in before:
            np.testing.assert_array_equal(before[k], after[k], err_msg=k)
    assert opt.steps == opt.ema.updates == 2
    go(net, opt, there.asarray, (3,))
    clean = Net(there.asarray)
    again = MAKE[name](clean.parameters(), ema=optim.EMA(clean), clip_norm=1.0)
    go(clean, again, there.asarray, (1, 2, 3))
    for k, v in states(there, net, opt).items():
        np.testing.assert_array_equal(v, states(there, clean, again)[k], err_msg=k)


@pytest.mark.parametrize("name", MAKE)
def test_a_loaded_state_continues_bit_for_bit(there, name):
    net = Net(there.asarray)
    opt = MAKE[name](net.parameters(), ema=optim.EMA(net), clip_norm=1.0)
    go(net, opt, there.asarray, (1, 2))
    kept = [{k: v.copy() for k, v in s.items()} for s in (net.state(), opt.state(), opt.ema.state())]
    go(net, opt, there.asarray, (3, 4))
    other = Net(there.asarray)
    again = MAKE[name](other.parameters(), ema=optim.EMA(other), clip_norm=1.0)
    go(other, again, there.asarray, (9,))  # whatever it did before
    other.load(kept[0])
    again.load(kept[1])
    again.ema.load(kept[2])
    go(other, again, there.asarray, (3, 4))
    for k, v in states(there, net, opt).items():
        np.testing.assert_array_equal(v, states(there, other, again)[k], err_msg=k)


def test_gradients_of_any_strides_and_parameters_that_are_not_contiguous(there):
    p = tg.Tensor(there.asarray(np.zeros((5, 3), F32)).T, requires_grad=True)
    opt = optim.Adam({"p": p})
    for _ in range(2):
        opt.step({"p": tg.Tensor(there.asarray(np.ones((5, 3), F32)).T)})
    assert (p.numpy() < 0).all() and p.data.flags.c_contiguous


def test_a_graph_recorded_before_a_step_is_stale_after_it(there):
    p = tg.Tensor(there.asarray(np.ones(3, F32)), requires_grad=True)
    loss = ops.sum(p * p)
    optim.SGD({"p": p}).step({"p": tg.Tensor(there.asarray(np.ones(3, F32)))})
    with pytest.raises(tg.StaleGraphError):
        tg.grad(loss, {"p": p})


# ---- steps that a graph holds


def record(xp, net, opt, grads):
    """A step, recorded, that reads the gradients from the arrays `grads`. Returns the stream and the graph."""
    stream = xp.cuda.Stream(non_blocking=True)
    held = {k: v.data for k, v in {**net.parameters(), **net.buffers()}.items()}
    with stream:
        stream.begin_capture()
        assert capturing()
        net.mean.data[...] = net.mean.data * 1.5 + grads["k"]
        net.count.data[...] = net.count.data + 1
        opt.step({n: tg.Tensor(grads[n] * 1.0) for n in "abcd"})  # arrays that are only there while recording
        graph = stream.end_capture()
    assert not capturing() and all(net_t.data is held[k] for k, net_t in {**net.parameters(), **net.buffers()}.items())
    return stream, graph


@pytest.mark.parametrize("name", MAKE)
def test_a_replayed_step_is_the_step(there, name):
    results = []
    for recorded in (False, True):
        net = Net(there.asarray)
        opt = MAKE[name](net.parameters(), ema=optim.EMA(net, 0.9), clip_norm=1.0)
        go(net, opt, there.asarray, (1, 2))
        if recorded:
            grads = {n: g.data for n, g in gradients(there.asarray, 0).items()}
            grads["k"] = there.asarray(np.zeros((), F32))
            held = states(there, net, opt)
            stream, graph = record(there, net, opt, grads)
            assert all((states(there, net, opt)[k] == v).all() for k, v in held.items()), "recording computes nothing"
            assert opt.steps == opt.ema.updates == 2
            for k in (3, 4, 5):
                for n, g in gradients(np.array, k).items():
                    grads[n].set(g.numpy())
                grads["k"].set(np.asarray(k, F32))
                opt.advance()
                with stream:
                    graph.launch()
                    stream.synchronize()
                assert opt.check() == float(opt.norm)
            assert opt.steps == opt.ema.updates == 5
            go(net, opt, there.asarray, (6,))  # and one outside, of other arrays
        else:
            go(net, opt, there.asarray, (3, 4, 5, 6))
        results.append((states(there, net, opt), opt.norm))
    assert results[0][1] == results[1][1]
    for k, v in results[0][0].items():
        np.testing.assert_array_equal(v, results[1][0][k], err_msg=k)


def test_two_graphs_of_one_optimiser(there):
    """Each reads its own gradients."""
    net = Net(there.asarray)
    opt = optim.SGD(net.parameters(), 1.0, ema=optim.EMA(net))
    go(net, opt, there.asarray, (1,))
    zero = there.asarray(np.zeros((), F32))
    grads = [{**{n: g.data for n, g in gradients(there.asarray, k).items()}, "k": zero} for k in (2, 3)]
    first = record(there, net, opt, grads[0])
    opt.advance()
    first[1].launch()
    second = record(there, net, opt, grads[1])
    expected = there.asnumpy(net.a.data)
    for (_, graph), g in ((second, grads[1]), (first, grads[0]), (second, grads[1])):
        opt.advance()
        graph.launch()
        expected = expected - there.asnumpy(g["a"])
        np.testing.assert_allclose(there.asnumpy(net.a.data), expected, rtol=1e-12, atol=1e-12)


def test_a_replayed_step_with_a_bad_gradient_updates_nothing(there):
    net = Net(there.asarray)
    opt = MAKE["adam"](net.parameters(), ema=optim.EMA(net), clip_norm=1.0)
    go(net, opt, there.asarray, (1,))
    grads = {**{n: g.data for n, g in gradients(there.asarray, 2).items()}, "k": there.asarray(np.zeros((), F32))}
    stream, graph = record(there, net, opt, grads)
    before = {k: v.copy() for k, v in states(there, net, opt).items()}
    grads["d"][7] = np.nan
    opt.advance()
    with stream:
        graph.launch()
        stream.synchronize()
    with pytest.raises(tg.NonFiniteError, match="the gradient of d is not finite"):
        opt.check()
    after = states(there, net, opt)
    for k in set(before) - {"mean", "count", "o steps", "e updates"}:  # the first two are the network's own doing
        np.testing.assert_array_equal(before[k], after[k], err_msg=k)


def test_an_average_apart_is_recorded_too(there):
    net = Net(there.asarray)
    ema, here = optim.EMA(net, 0.9), Net(np.array)
    twin = optim.EMA(here, 0.9)
    ema.update(), twin.update()
    stream = there.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        ema.update()
        graph = stream.end_capture()
    for k in range(3):
        for t, value in zip((net.a, net.mean, net.count), (k + 1.0, k - 1.0, k)):
            t.data[...] = value
        for t, value in zip((here.a, here.mean, here.count), (k + 1.0, k - 1.0, k)):
            t.data[...] = value
        ema.advance()
        graph.launch()
        twin.update()
        for n in twin.shadow:
            np.testing.assert_array_equal(there.asnumpy(ema.shadow[n]), twin.shadow[n], err_msg=n)
    assert ema.updates == twin.updates == 4


def test_the_first_step_cannot_be_recorded(there):
    if there is not emulated:
        pytest.skip("a capture that fails on a GPU is lost")
    net = Net(there.asarray)
    opt = optim.Adam(net.parameters())
    stream = there.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="the first step of all cannot be recorded"):
                opt.step(gradients(lambda a: there.zeros(a.shape, a.dtype), 1))
        finally:
            stream.end_capture()

