"""The pool: every part once, errors handed on, nested and concurrent calls, forks."""

import os
import threading
import time

import numpy as np
import pytest

import tinygen as tg
from tinygen.kernels import threads


@pytest.fixture
def four():
    before = tg.get_threads()
    tg.set_threads(4)
    yield
    tg.set_threads(before)


def test_every_part_runs_once(four):
    for n in (0, 1, 3, 4, 1001):
        seen = np.zeros(n, int)
        threads.share(n, lambda i, j, seen=seen: seen.__setitem__(slice(i, j), seen[i:j] + 1))
        assert (seen == 1).all()


def test_parts_are_no_smaller_than_asked(four):
    sizes = []
    threads.share(100, lambda i, j: sizes.append(j - i), least=40)
    assert sorted(sizes) == [50, 50]


def test_the_first_error_is_raised_and_the_pool_survives(four):
    def fail(i, j):
        if i:
            raise ValueError(f"part {i}")

    with pytest.raises(ValueError, match="part 1"):
        threads.share(4, fail)
    test_every_part_runs_once(None)


def test_nested_sharing_stays_on_its_thread(four):
    inner = []

    def outer(i, j):
        me = threading.get_ident()
        threads.share(10, lambda a, b: inner.append(threading.get_ident() == me))

    threads.share(4, outer)
    assert inner == [True] * 4


def test_eight_threads_at_once(four):
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 8)).astype(np.float32)
    w = np.random.default_rng(1).standard_normal((3, 3, 8, 16)).astype(np.float32)
    expected = tg.ops.conv2d(tg.Tensor(x), tg.Tensor(w), padding=1).numpy()
    wrong = []

    def run():
        for _ in range(5):
            y = tg.ops.conv2d(tg.Tensor(x), tg.Tensor(w), padding=1).numpy()
            if not np.array_equal(y, expected):
                wrong.append(1)

    workers = [threading.Thread(target=run) for _ in range(8)]
    for t in workers:
        t.start()
    for t in workers:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes(four):
    x = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    expected = threads.matmul(x, x)
    child = os.fork()
    if child == 0:
        ok = np.array_equal(threads.matmul(x, x), expected)
        os._exit(0 if ok else 1)
    deadline = time.time() + 30
    while time.time() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, 9)
    pytest.fail("the child hung")


@pytest.mark.parametrize("shapes", [((300, 200), (200, 250)), ((100, 400), (400, 3000)), ((8, 90, 80), (8, 80, 70)),
                                    ((2, 3, 90, 80), (2, 3, 80, 70)), ((5, 4), (4, 3))])
def test_shared_products(four, shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s) for s in shapes)
    np.testing.assert_allclose(threads.matmul(a, b), a @ b, rtol=1e-12, atol=1e-12)
    out = np.empty_like(a @ b)
    assert threads.matmul(a, b, out=out) is out
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    at = np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
    np.testing.assert_allclose(threads.matmul(at, b), a @ b, rtol=1e-12, atol=1e-12)


def test_set_threads_says_what_it_takes():
    with pytest.raises(ValueError, match="at least 1 thread is needed, not 0"):
        tg.set_threads(0)


def test_blas_computes_on_the_calling_thread():
    assert threads.single_threaded_blas() >= 1 or "openblas" not in str(np.show_config(mode="dicts")).lower()
