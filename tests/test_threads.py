"""The pool and the team: every part once, errors handed on, nested and concurrent calls, forks, sleep, stale caches."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tinygen as tg
from tinygen.kernels import team, threads
from tinygen.kernels.jit import njit


@njit(nogil=True)
def _mark(seen, sizes, weight, first, last):
    for i in range(first, last):
        seen[i] += 1
        sizes[i] = last - first
        for k in range(weight):
            sizes[i] += k & 0


_marks = team.loop(_mark)


@njit(nogil=True)
def _mark_all(words, pieces, n, *args):
    team.run(words, pieces, n, _marks(args))


def marked(n, least=1, weight=0):
    seen, sizes = np.zeros(n, np.int64), np.zeros(n, np.int64)
    threads.run(_mark_all, n, seen, sizes, weight, least=least)
    return seen, sizes


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


@pytest.mark.parametrize("shapes", [
    ((300, 200), (200, 250)), ((100, 400), (400, 3000)), ((8, 90, 80), (8, 80, 70)), ((40, 3000), (3000, 50)),
    ((1000, 600), (600, 3)), ((2, 3, 90, 80), (2, 3, 80, 70)), ((5, 4), (4, 3))])
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


# ---- the team of compiled code


def test_every_piece_is_computed_once(four):
    for n in (0, 1, 2, 3, 15, 16, 17, 1001):
        for weight in (0, 20_000):
            assert (marked(n, weight=weight)[0] == 1).all()
    for _ in range(3000):
        assert marked(64)[0].sum() == 64


def test_pieces_are_no_smaller_than_asked_and_depend_on_nothing_else(four):
    assert (marked(100, least=40)[1] == 50).all()
    bounds = [marked(1000)[1] for _ in range(50)]
    assert all((b == bounds[0]).all() for b in bounds) and bounds[0].max() == 63  # 16 pieces for 4 threads


def test_the_team_wakes_after_a_sleep_and_sleeps_after_work(four):
    marked(64)
    for _ in range(5):
        time.sleep(0.02)
        before = time.process_time()
        time.sleep(0.05)
        assert time.process_time() - before < 0.04  # three threads that looked for work all the time would take 0.1
        seen, _ = marked(64, weight=100_000)
        assert (seen == 1).all()


def test_eight_threads_open_regions_at_once(four):
    wrong = []

    def work():
        for _ in range(300):
            seen, _ = marked(40, weight=50)
            if not (seen == 1).all():
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for t in workers:
        t.start()
    for t in workers:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in workers)


def test_a_region_inside_a_part_of_the_pool_is_one_piece(four):
    sizes = []
    threads.share(4, lambda i, j: sizes.append(marked(64)[1].min()))
    assert sizes == [64] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_team_of_its_own(four):
    marked(64)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            ok = all((marked(64, weight=5000)[0] == 1).all() for _ in range(50))
            os._exit(0 if ok else 1)
        deadline = time.time() + 30
        while not (done := os.waitpid(child, os.WNOHANG))[0] and time.time() < deadline:
            marked(64, weight=100)
        if not done[0]:
            os.kill(child, 9)
            pytest.fail("the child hung")
        assert os.waitstatus_to_exitcode(done[1]) == 0


def test_a_program_that_used_the_team_ends():
    code = ("import numpy as np, tinygen as tg; from tinygen.kernels import threads; tg.set_threads(3); "
            "a = np.ones((300, 300), np.float32); print(threads.matmul(a, a)[0, 0])")
    for wait in ("", "; import time; time.sleep(0.01)"):
        done = subprocess.run([sys.executable, "-c", code + wait], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "300.0\n", "")


def test_a_changed_kernel_makes_every_cache_stale(tmp_path):
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    source, index = tmp_path / "a" / "cpu.py", tmp_path / "a" / "__pycache__" / "cpu.f-1.nbi"
    source.write_text("x = 1")
    index.write_text("")
    assert team.forget_stale(tmp_path) == 1 and not index.exists()
    index.write_text("")
    assert team.forget_stale(tmp_path) == 0 and index.exists()
    source.write_text("x = 22")
    assert team.forget_stale(tmp_path) == 1
