"""The CUDA kernels' tiny tests again, built with the sanitizers: AddressSanitizer and UBSan see what leaves its array,
ThreadSanitizer sees a barrier that is missing; and a proof that it does."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from tinygen.kernels import cuda
from tinygen.kernels.cuda import host

TESTS = Path(__file__).parent
FILES = sorted(p.name for p in TESTS.glob("test_cuda_*.py") if "\n@pytest.mark.tiny" in p.read_text())


def _library(kind):
    """The sanitizer's library, which must be loaded before all others; skips where there is none."""
    if host.compiler() is None:
        pytest.skip("no C++ compiler")
    name = {"address": "libasan.so", "thread": "libtsan.so"}[kind]
    found = subprocess.run([host.compiler(), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"{host.compiler()} has no {name}")
    return found


@cache
def _fixed_places():
    """A prefix that keeps memory where it always is: placed at random, it may lie where ThreadSanitizer has its own."""
    try:
        works = subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode == 0
        return ("setarch", "-R") if works else ()
    except OSError:
        return ()


def _run(kind, *command, **more):
    quiet = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66 report_signal_unsafe=0",
             "HOSTCUDA_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    fixed = _fixed_places() if kind == "thread" else ()
    env = {**os.environ, **quiet, "TINYGEN_HOSTCUDA": kind, "LD_PRELOAD": _library(kind), **more}
    return subprocess.run([*fixed, sys.executable, *command], capture_output=True, text=True, cwd=TESTS.parent, env=env,
                          timeout=600)


@pytest.mark.parametrize("file", FILES)
def test_clean(file):
    """Under either, side by side: most of it is compiling."""
    tiny = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "tiny and not gpu", f"tests/{file}")
    kinds = ("address", "thread")
    for kind in kinds:
        _library(kind)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda kind: _run(kind, *tiny), kinds))
    for kind, done in zip(kinds, answers):
        said = f"{kind}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, said[-6000:]
        assert re.search(r"\d+ passed", said) and "WARNING: ThreadSanitizer" not in said, said[-6000:]


PLANTED = """
import numpy as np, sys
from pathlib import Path
from tinygen.kernels import cuda
from tinygen.kernels.cuda import emulated as xp
cuda.use(xp)
cuda.KERNELS = Path(sys.argv[1])
x, y = xp.asarray(np.arange(64, dtype=np.float32)), xp.zeros(64, np.float32)
cuda.launch("planted/cuda.cu", sys.argv[2], (1,), 64, (x, y))
print("finished", y.get()[0])
"""
FAULTS = """
#include "common.cuh"
extern "C" __global__ void mirror(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void past_the_end(const float* x, float* y) { y[threadIdx.x + 1] = x[threadIdx.x]; }
extern "C" __global__ void past_the_tile(const float* x, float* y) {
  __shared__ float s[63];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void crooked(const float* x, float* y) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x + 1);
}
extern "C" __global__ void parted(const float* x, float* y) {
  if (threadIdx.x < 32) __syncthreads(); else y[threadIdx.x] = warp_sum(x[threadIdx.x]);
  if (threadIdx.x == 40) __syncthreads();
}
"""


@pytest.fixture
def planted(tmp_path):
    """Runs a kernel of FAULTS, edited, in a process of its own, under a sanitizer."""
    (tmp_path / "planted").mkdir()

    def run(kind, kernel, text=FAULTS):
        (tmp_path / "planted" / "cuda.cu").write_text(text)
        return _run(kind, "-c", PLANTED, str(tmp_path), kernel)

    return run


def test_a_missing_barrier_is_a_race(planted):
    """With its barrier the kernel is clean; without it ThreadSanitizer names both lines."""
    assert "finished 63" in (clean := planted("thread", "mirror")).stdout
    assert "ThreadSanitizer" not in clean.stderr
    text = FAULTS.replace("  __syncthreads();\n  y[threadIdx.x] = s[63", "  y[threadIdx.x] = s[63")
    found = planted("thread", "mirror", text)
    assert "data race" in found.stderr
    assert {"planted/cuda.cu:5", "planted/cuda.cu:6"} <= set(re.findall(r"planted/cuda\.cu:\d+", found.stderr))


@pytest.mark.parametrize("kernel, said", [
    ("past_the_end", "heap-buffer-overflow"),
    ("past_the_tile", "overflow|out of bounds"),
    ("crooked", "misaligned address"),
])
def test_faults_are_found(planted, kernel, said):
    found = planted("address", kernel)
    assert found.returncode != 0 and re.search(said, found.stderr), found.stderr[-3000:]
    assert "planted/cuda.cu:" in found.stderr


def test_threads_that_part_at_a_barrier_are_reported(planted):
    found = planted("address", "parted")
    assert "hostcuda:" in found.stderr, found.stderr[-2000:]


MUTANT = """
import sys
from pathlib import Path
import pytest
from tinygen.kernels import cuda
cuda.KERNELS = Path(sys.argv[1])
sys.exit(pytest.main(["-q", "-s", "-x", "-p", "no:cacheprovider", "-m", "tiny and not gpu", sys.argv[2]]))
"""


def _barriers(name):
    """Where in the text, headers included, the block waits for itself."""
    return [m.start() for m in re.finditer(r"__syncthreads\(\);", cuda.source(f"{name}/cuda.cu"))]


def _without(name, k, tmp_path):
    """The tiny tests of a kernel whose k-th barrier is taken out, under ThreadSanitizer."""
    text, at = cuda.source(f"{name}/cuda.cu"), _barriers(name)[k]
    (tmp_path / name).mkdir()
    (tmp_path / name / "cuda.cu").write_text(text[:at] + text[at + len("__syncthreads();"):])
    return _run("thread", "-c", MUTANT, str(tmp_path), f"tests/test_cuda_{name}.py")


@pytest.mark.parametrize("name", ["group_norm", "softmax"])
def test_a_barrier_taken_from_a_real_kernel_is_missed(name, tmp_path):
    found = _without(name, len(_barriers(name)) - 1, tmp_path)
    assert "data race" in found.stdout + found.stderr, (found.stdout + found.stderr)[-3000:]


KERNELS = [p.parent.name for p in sorted(cuda.KERNELS.glob("*/cuda.cu")) if f"test_cuda_{p.parent.name}.py" in FILES]


@pytest.mark.slow
@pytest.mark.parametrize("name, k", [(name, k) for name in KERNELS for k in range(len(_barriers(name)))])
def test_every_barrier_is_missed(name, k, tmp_path):
    """Each of them, one at a time: a race, or a wrong result."""
    found = _without(name, k, tmp_path)
    assert found.returncode != 0 or "data race" in found.stdout + found.stderr, f"barrier {k} of {name} is not missed"
