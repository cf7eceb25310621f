"""The machinery under the CUDA kernels: sources, signatures, launches, and the device that g++ emulates."""

import numpy as np
import pytest

from tinygen.kernels import cuda
from tinygen.kernels.cuda import emulated, host, signatures_of

SOURCE = """
#include "common.cuh"
// extern "C" __global__ void not_this(int n) {
extern "C" __global__ void __launch_bounds__(64) rows(const float* __restrict__ x, float* y, int n, float s) {
  __shared__ float slot[32];
  DYNAMIC_SHARED(float, tile);
  for (int i = threadIdx.x * 4; i < n; i += blockDim.x * 4) copy_async<16>(tile + i, x + blockIdx.x * n + i);
  copy_commit();
#ifndef NO_WAIT
  copy_wait<0>();
#endif
  __syncthreads();
  float v = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) v += tile[i];
  v = block_sum(v, slot);
  if (threadIdx.x == 0) y[blockIdx.x] = v * s;
}
extern "C" __global__ void product(const float* a, const float* b, float* y, int bf16) {  // 16×16 by 16×8, one warp
  const int g = threadIdx.x / 4, q = threadIdx.x % 4;
  float d[4] = {};
  if (bf16) {
    unsigned A[4], B[2];
    for (int i = 0; i < 4; i++) {
      const float* at = a + (g + i % 2 * 8) * 16 + 2 * q + i / 2 * 8;
      A[i] = to_bf16x2(at[0], at[1]);
    }
    for (int i = 0; i < 2; i++) B[i] = to_bf16x2(b[(2 * q + 8 * i) * 8 + g], b[(2 * q + 8 * i + 1) * 8 + g]);
    mma_bf16(d, A, B);
  } else {
    for (int k = 0; k < 16; k += 8) {
      unsigned A[4], B[2];
      for (int i = 0; i < 4; i++) A[i] = to_tf32(a[(g + i % 2 * 8) * 16 + k + q + i / 2 * 4]);
      for (int i = 0; i < 2; i++) B[i] = to_tf32(b[(k + q + 4 * i) * 8 + g]);
      mma_tf32(d, A, B);
    }
  }
  for (int e = 0; e < 4; e++) y[(g + e / 2 * 8) * 8 + 2 * q + e % 2] = d[e];
}
"""


@pytest.fixture
def path(xp, tmp_path, monkeypatch):
    """A source of its own among the kernels."""
    folder = tmp_path / "try"
    folder.mkdir()
    (folder / "cuda.cu").write_text(SOURCE)
    monkeypatch.setattr(cuda, "KERNELS", tmp_path)
    for cached in (cuda.source, cuda._function):
        cached.cache_clear()
    yield "try/cuda.cu"
    for cached in (cuda.source, cuda._function):
        cached.cache_clear()


def test_the_declaration_is_read(path):
    kernels = cuda.signatures(path)
    assert set(kernels) == {"rows", "product"}
    assert kernels["rows"].threads == "64"
    assert [(p.ctype, p.pointer, p.name) for p in kernels["rows"].parameters] == [
        ("float", True, "x"), ("float", True, "y"), ("int", False, "n"), ("float", False, "s")]
    with pytest.raises(TypeError, match="'half'"):
        signatures_of('extern "C" __global__ void f(half* x) {')


def test_headers_are_in_the_text(path):
    text = cuda.source(path)
    assert "block_sum(T v, T* slot)" in text and '#include "common.cuh"' not in text
    assert '#include "hostcuda.hpp"' in text  # that one only g++ reads


@pytest.mark.tiny
def test_shared_memory_copies_and_sums(path, xp):
    x = np.random.default_rng(0).standard_normal((5, 128)).astype(np.float32)
    y = cuda.empty((5,), np.float32)
    cuda.launch(path, "rows", (5,), 64, (xp.asarray(x), y, 128, 2.0), shared=512)
    np.testing.assert_allclose(xp.asnumpy(y), 2 * x.sum(1, dtype=np.float64), rtol=1e-5)


def test_tensor_core_products(path, xp):
    r = np.random.default_rng(1)
    a, b = r.standard_normal((16, 16)).astype(np.float32), r.standard_normal((16, 8)).astype(np.float32)
    for bf16, error in ((0, 2e-3), (1, 2e-2)):
        y = cuda.empty((16, 8), np.float32)
        cuda.launch(path, "product", (1,), 32, (xp.asarray(a), xp.asarray(b), y, bf16))
        found = abs(xp.asnumpy(y) - a.astype(np.float64) @ b).max() / abs(a @ b).max()
        assert 1e-5 < found < error  # it rounds, and by as much as it should


def test_arguments_are_checked(path, xp):
    x, y = xp.zeros((5, 128), np.float32), cuda.empty((5,), np.float32)
    run = lambda *args, **how: cuda.launch(path, "rows", (5,), 64, args, shared=512, **how)
    with pytest.raises(TypeError, match="x needs a device array, not a numpy.ndarray"):
        run(np.zeros((5, 128), np.float32), y, 128, 1.0)
    with pytest.raises(TypeError, match="x is float\\*, and was given an array of float64"):
        run(x.astype(np.float64), y, 128, 1.0)
    with pytest.raises(ValueError, match="not C-contiguous"):
        run(x.T, y, 128, 1.0)
    with pytest.raises(TypeError, match="takes 4 arguments"):
        run(x, y, 128)
    with pytest.raises(ValueError, match="65535"):
        cuda.launch(path, "rows", (1, 70000), 64, (x, y, 128, 1.0))
    cuda.launch(path, "rows", (0,), 64, (x, y, 128, 1.0))  # nothing to do


def test_reading_before_the_copy_has_come_shows(path, xp):
    if xp is not emulated:
        pytest.skip("of the emulator")
    x, y = xp.zeros((1, 128), np.float32), cuda.empty((1,), np.float32)
    cuda.launch(path, "rows", (1,), 64, (x, y, 128, 1.0), shared=512, NO_WAIT=1)
    assert np.isnan(xp.asnumpy(y)).all()


def test_a_source_that_does_not_compile_says_why(tmp_path):
    text = 'extern "C" __global__ void f(int n) { undeclared(n); }'
    with pytest.raises(host.BuildError, match="undeclared"):
        host.build_text(f'#include "hostcuda.hpp"\n{text}', signatures_of(text))


class TestEmulatedArrays:
    """CuPy's rules, kept by the stand-in."""

    x = emulated.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))

    def test_it_meets_no_numpy_array(self):
        for wrong in (lambda: self.x + np.ones(3, np.float32), lambda: emulated.concatenate([self.x, np.ones((1, 3))]),
                      lambda: np.ones(3, np.float32) + self.x):
            with pytest.raises(TypeError, match="Unsupported type"):
                wrong()
        with pytest.raises(TypeError, match="Implicit conversion"):
            np.asarray(self.x, dtype=np.float64)

    def test_it_computes(self):
        y = (self.x * 2 + 1).sum(axis=1)
        assert isinstance(y, emulated.ndarray) and y.get().tolist() == [9, 27]
        assert isinstance(self.x.max(), emulated.ndarray) and float(self.x.max()) == 5
        assert self.x.dtype == np.float32 and (self.x * 2.5).dtype == np.float32
        z = self.x.copy()
        z[0] = 7
        z += 1
        assert z.get().tolist() == [[8, 8, 8], [4, 5, 6]] and self.x.get()[0, 0] == 0

    def test_float_sums_in_any_order_are_refused(self):
        with pytest.raises(TypeError, match="float atomics"):
            np.add.at(self.x, emulated.asarray([0, 0]), 1.0)

    def test_unknown_names(self):
        with pytest.raises(AttributeError, match="FUNCTIONS"):
            emulated.fancy_new_function()
        with pytest.raises(AttributeError, match="METHODS"):
            self.x.ptp()

    def test_the_names_are_cupys(self):
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed: its names were not compared")
        assert not [n for n in emulated.FUNCTIONS if not hasattr(cupy, n)]
        assert not [n for n in emulated.TYPES if not hasattr(cupy, n)]
        assert not [n for n in emulated.CUSOLVER if not hasattr(cupy.linalg, n)]
        assert not [n for n in emulated.METHODS if not hasattr(cupy.ndarray, n)]


class TestEmulatedCapture:
    """A captured graph: nothing happens before the launch, and everything then."""

    def test_launch_does_it(self):
        x = emulated.asarray(np.arange(4, dtype=np.float32))
        with emulated.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            y = x * 2
            y[0] = 5
            x += 1
            graph = stream.end_capture()
        assert np.isnan(y.get()).all() and x.get().tolist() == [0, 1, 2, 3]
        graph.launch()
        assert y.get().tolist() == [5, 2, 4, 6] and x.get().tolist() == [1, 2, 3, 4]
        graph.launch()
        assert y.get().tolist() == [5, 4, 6, 8]

    @pytest.mark.parametrize("what", [
        lambda x: x.get(), lambda x: x.item(), lambda x: float(x.sum()), lambda x: bool(x[0] > 0),
        lambda x: emulated.asarray(np.ones(3)), lambda x: x @ x, lambda x: x[x > 0], lambda x: emulated.nonzero(x),
        lambda x: x[np.array([0, 1])]])  # fmt: skip
    def test_what_a_graph_cannot_hold(self, what):
        x = emulated.asarray(np.arange(4, dtype=np.float32))
        with emulated.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                with pytest.raises(emulated.CaptureError, match="a CUDA graph cannot hold it"):
                    what(x)
            finally:
                stream.end_capture()
