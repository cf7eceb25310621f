"""Philox4x32-10: the published answers, the definition, and what every draw promises about its elements."""

import numba
import numpy as np
import pytest

from tinygen.kernels import cuda as gpu
from tinygen.kernels import philox
from tinygen.kernels.philox import cpu, elementary, loops

KEY = 0x299F31D0A4093822

# Random123's kat_vectors, lines "philox4x32 10": counter, key, answer
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter, key, answer):
    c, k, want = ([int(word, 16) for word in line.split()] for line in (counter, key, answer))
    assert loops.philox4x32(tuple(c), tuple(k)) == tuple(want)
    index, lane, packed = c[0] | c[1] << 32, c[2] | c[3] << 32, k[0] | k[1] << 32
    assert loops.block(packed, index, lane) == tuple(want)
    assert cpu.block(np.uint64(packed), np.uint64(index), np.uint64(lane)) == tuple(want)


def draws(n):
    """Every kind of draw of length n, by the dispatching functions."""
    return {
        "uniform32": philox.uniform(KEY, (n,), -1.5, 3.0),
        "uniform64": philox.uniform(KEY, (n,), -1.5, 3.0, np.float64),
        "normal32": philox.normal(KEY, (n,)),
        "normal64": philox.normal(KEY, (n,), np.float64),
        "integers": philox.integers(KEY, (n,), -7, 1000),
    }


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 203])
def test_fast_path_equals_the_definition(n):
    got = draws(n)
    np.testing.assert_array_equal(got["uniform32"], loops.uniform(KEY, n, -1.5, 3.0, np.float32))
    np.testing.assert_array_equal(got["uniform64"], loops.uniform(KEY, n, -1.5, 3.0, np.float64))
    np.testing.assert_array_equal(got["normal32"], loops.normal(KEY, n, np.float32))
    np.testing.assert_array_equal(got["normal64"], loops.normal(KEY, n, np.float64))
    np.testing.assert_array_equal(got["integers"], loops.integers(KEY, n, -7, 1000))
    np.testing.assert_array_equal(philox.permutation(KEY, n), loops.permutation(KEY, n))


@pytest.mark.parametrize("span", [1, 2, 3, 2**32 - 1, 2**32 + 1, 2**62 + 2**61, 2**63 - 1, 2**63])
def test_integers_of_any_span_equal_the_definition(span):
    """Large spans reject often (a quarter of the words at 2**62 + 2**61), which exercises the lanes."""
    low = -(2**62)
    got = philox.integers(KEY, (300,), low, low + span)
    np.testing.assert_array_equal(got, loops.integers(KEY, 300, low, low + span))
    assert low <= got.min() and int(got.max()) < low + span


def test_the_logarithm_sine_and_cosine_are_within_an_ulp():
    """Against 60 decimal digits, where they are used: log on (0, 1], the angles 2πk·2⁻⁵³, the odd places of both."""
    mpmath = pytest.importorskip("mpmath", reason="mpmath, which this is compared with, is not installed")
    mpmath.mp.dps = 60
    r, two53 = np.random.default_rng(0), 2**53
    near = [two53 * k // 8 + d for k in range(9) for d in (-3, -2, -1, 0, 1, 2, 3)]
    turns = [k for k in [*near, *r.integers(0, two53, 6000).tolist(), *range(9)] if 0 <= k < two53]
    units = [(k + 1) * 2.0**-53 for k in [*turns, *range(40)]] + (2.0 ** -r.uniform(0, 53, 6000)).tolist()
    units += [float(np.sqrt(0.5) * 2.0**-k * (1 + d * 2.0**-52)) for k in range(50) for d in (-2, -1, 0, 1, 2)]
    worst = dict.fromkeys(("log", "sin", "cos"), 0.0)

    def look(name, found, exact):
        ulp = float(np.spacing(abs(float(exact)))) if exact else 1.0
        worst[name] = max(worst[name], float(abs(mpmath.mpf(float(found)) - exact) / ulp))

    for u in units:
        look("log", elementary.log(np.float64(u)), mpmath.log(mpmath.mpf(u)))
    for k in turns:
        angle = mpmath.mpf(elementary.TWO_PI * (k * 2.0**-53))  # as a float64, then exact
        sine, cosine = elementary.sincos(np.int64(k))
        look("sin", sine, mpmath.sin(angle))
        look("cos", cosine, mpmath.cos(angle))
    assert worst["log"] < 0.8 and worst["sin"] < 0.8 and worst["cos"] < 0.8, worst


def test_a_prefix_of_a_longer_draw_is_the_shorter_draw():
    long = draws(60_001)  # threaded; the shorter ones are serial or threaded, and end anywhere in a block
    for n in (1, 5, 4096, 8191, 8192, 16_386, 40_003):
        for name, short in draws(n).items():
            np.testing.assert_array_equal(short, long[name][:n], err_msg=f"{name}[:{n}]")


def test_the_thread_count_changes_nothing():
    before = numba.get_num_threads()
    try:
        results = []
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(threads)
            results.append(draws(50_001) | {"permutation": philox.permutation(KEY, 50_001)})
    finally:
        numba.set_num_threads(before)
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=name)


def test_float64_draws_refine_the_float32_draws():
    single, double = philox.uniform(KEY, (10_000,)), philox.uniform(KEY, (10_000,), dtype=np.float64)
    np.testing.assert_array_equal(single, np.floor(double * 2**24) / 2**24)
    single, double = philox.normal(KEY, (10_000,)), philox.normal(KEY, (10_000,), np.float64)
    np.testing.assert_array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low, high", [(1.0, 2.0), (0.1, 0.3), (-1.0, 1.0), (1e6, 1e6 + 1), (-3e-40, 1e-40)])
def test_uniform_never_reaches_its_upper_bound(dtype, low, high):
    low, high = dtype(low), dtype(high)
    u = philox.uniform(KEY, (200_000,), low, high, dtype)
    assert u.dtype == dtype and low <= u.min() and u.max() < high


def test_the_largest_word_stays_below_the_upper_bound():
    """In [1, 2) the largest 24-bit draw rounds to 2 in float32: only the cap keeps it out."""
    assert np.float32(1.0 + (1 - 2.0**-24)) == 2.0
    top = float(np.nextafter(np.float32(2), np.float32(1)))
    assert cpu._u24(np.uint64(0xFFFFFFFF), 1.0, 1.0, top) == np.float32(top) < 2.0
    assert cpu._u24(np.uint64(0), 1.0, 1.0, top) == 1.0


def test_shapes_and_dtypes():
    assert philox.normal(KEY, ()).shape == () and philox.normal(KEY, (2, 0, 3)).shape == (2, 0, 3)
    x = philox.normal(KEY, (3, 5, 2))
    assert x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x.ravel(), philox.normal(KEY, (30,)))
    assert philox.integers(KEY, (4,), 0, 9).dtype == np.int64 == philox.permutation(KEY, 4).dtype


def test_errors():
    with pytest.raises(ValueError, match="finite low < high in float32, but got low=1.0, high=1.0"):
        philox.uniform(KEY, (3,), 1.0, 1.0)
    with pytest.raises(ValueError, match="finite low < high"):
        philox.uniform(KEY, (3,), 0.0, float("nan"))
    with pytest.raises(ValueError, match="low < high within int64"):
        philox.integers(KEY, (3,), 5, 5)
    with pytest.raises(TypeError, match="float32 or float64, not float16"):
        philox.normal(KEY, (3,), np.float16)
    if gpu.library is None:
        with pytest.raises(RuntimeError, match="no device 'cuda:0' is in use; ask for it first"):
            philox.normal(KEY, (3,), device="cuda:0")
