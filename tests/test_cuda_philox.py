"""Philox on the device: the CPU's bits, from the same key, in any order, also out of a captured graph."""

import numpy as np
import pytest

from tinygen import backend
from tinygen.kernels import cuda, philox
from tinygen.kernels.philox import loops
from tinygen.rng import Rng

KEY = 0xFEDCBA9876543210
ZERO = "cuda:0"


def same(xp, there, here):
    there = xp.asnumpy(there)
    assert there.dtype == here.dtype and there.shape == here.shape
    np.testing.assert_array_equal(there.view(np.uint8), here.view(np.uint8))  # also the sign of a zero


KINDS = {
    "normal32": lambda n, **d: philox.normal(KEY, (n,), **d),
    "normal64": lambda n, **d: philox.normal(KEY, (n,), np.float64, **d),
    "uniform32": lambda n, **d: philox.uniform(KEY, (n,), -1.5, 3.0, **d),
    "uniform64": lambda n, **d: philox.uniform(KEY, (n,), -1.5, 3.0, np.float64, **d),
    "integers": lambda n, **d: philox.integers(KEY, (n,), -7, 1000, **d),
    "permutation": lambda n, **d: philox.permutation(KEY, n, **d),
}


@pytest.mark.tiny
@pytest.mark.parametrize("n", [3, 9])
def test_the_definition(xp, n):
    """By the plain Python of loops.py."""
    on = {"device": ZERO}
    same(xp, KINDS["normal32"](n, **on), loops.normal(KEY, n, np.float32))
    same(xp, KINDS["normal64"](n, **on), loops.normal(KEY, n, np.float64))
    same(xp, KINDS["uniform32"](n, **on), loops.uniform(KEY, n, -1.5, 3.0, np.float32))
    same(xp, KINDS["uniform64"](n, **on), loops.uniform(KEY, n, -1.5, 3.0, np.float64))
    same(xp, KINDS["integers"](n, **on), loops.integers(KEY, n, -7, 1000))
    same(xp, KINDS["permutation"](n, **on), loops.permutation(KEY, n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 1023, 1025, 5003])
def test_every_draw_has_the_cpus_bits(xp, kind, n):
    there, here = KINDS[kind](n, device=ZERO), KINDS[kind](n)
    same(xp, there, here)
    same(xp, KINDS[kind](n, device=ZERO), here)  # and again


def test_a_million_normals(xp):
    same(xp, philox.normal(5, (1000, 1001), device=ZERO), philox.normal(5, (1000, 1001)))


@pytest.mark.parametrize("span", [1, 3, 2**32 + 1, 2**62 + 2**61, 2**63 - 1, 2**63])
def test_integers_of_any_span(xp, span):
    """Large spans reject often, a quarter of the words at 2**62 + 2**61: the lanes are used."""
    low = -(2**62)
    same(xp, philox.integers(KEY, (301,), low, low + span, device=ZERO), philox.integers(KEY, (301,), low, low + span))
    if span == 2**63:
        same(xp, philox.integers(KEY, (9,), 0, 2**63, device=ZERO), philox.integers(KEY, (9,), 0, 2**63))


@pytest.mark.parametrize("low, high", [(1.0, 2.0), (0.1, 0.3), (1e6, 1e6 + 1), (-3e-40, 1e-40)])
def test_uniform_bounds(xp, low, high):
    """Capped below `high`, and denormal numbers kept though the compiler flushes them elsewhere."""
    for dtype in (np.float32, np.float64):
        same(xp, philox.uniform(KEY, (4001,), low, high, dtype, device=ZERO),
             philox.uniform(KEY, (4001,), low, high, dtype))


def test_a_graph_draws_anew_for_each_key(xp):
    key = xp.asarray(np.array([KEY], np.uint64))
    draw = {
        "normal": lambda k, **d: philox.normal(k, (501,), **d),
        "uniform": lambda k, **d: philox.uniform(k, (501,), **d),
        "normal64": lambda k, **d: philox.normal(k, (51,), np.float64, **d),
        "integers": lambda k, **d: philox.integers(k, (501,), 0, 7, **d),
        "permutation": lambda k, **d: philox.permutation(k, 1500, **d),
    }
    for f in draw.values():
        f(key, device=ZERO)  # compiled before
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        made = {name: f(key, device=ZERO) for name, f in draw.items()}
        graph = stream.end_capture()
        for number in (KEY, 1, 2**64 - 1):
            key.set(np.array([number], np.uint64))
            graph.launch()
            stream.synchronize()
            for name, f in draw.items():
                same(xp, made[name], f(number))


def test_a_key_in_memory_is_one_uint64(xp):
    with pytest.raises(TypeError, match="a key in device memory is one uint64, not \\(2,\\) uint64"):
        philox.normal(xp.zeros((2,), np.uint64), (3,), device=ZERO)


def test_named_streams(xp, monkeypatch):
    monkeypatch.setattr(backend, "cupy", xp)
    r = Rng(3)
    for draw in (lambda **d: r.normal("a", 1, (5, 3), **d), lambda **d: r.uniform("a", 1, (5, 3), 1.0, 2.0, **d),
                 lambda **d: r.integers("a", 1, 7, 0, 9, **d), lambda **d: r.permutation("a", 1, 10, **d)):
        there = draw(device="cuda")
        assert cuda.is_device(type(there.data))
        same(xp, there.data, draw().numpy())
