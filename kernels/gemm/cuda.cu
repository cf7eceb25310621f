// y[b] = a[b] b[b] + bias: the tiles of tile.cuh on plain matrices. README.md draws them.
#include "tile.cuh"

#ifndef A_ALONG   // rows of a contiguous; else its columns: a is given transposed
#define A_ALONG 1
#endif
#ifndef B_ALONG   // columns of b contiguous: b is given transposed; else its rows
#define B_ALONG 0
#endif

// a: (M, K) or (K, M), b: (K, N) or (N, K), y: (batch, M, N), all contiguous; batch_a, batch_b: numbers from one matrix
// to the next, 0 for one that all share. Blocks: x over batch, rows and columns of tiles, columns fastest; y over slices
// of k, each of which writes a y of its own, `part` numbers apart.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm(const real* __restrict__ a, const real* __restrict__ b,
    const real* __restrict__ bias, real* __restrict__ y, int M, int N, int K, long long batch_a, long long batch_b,
    long long part) {
  const int across = (N + TILE - 1) / TILE, down = (M + TILE - 1) / TILE;
  const int tile = blockIdx.x % (across * down), n0 = tile % across * TILE, m0 = tile / across * TILE;
  const long long one = blockIdx.x / (across * down);
  const Matrix<A_ALONG> A{a + one * batch_a, M, K, A_ALONG ? K : M};
  const Matrix<B_ALONG> B{b + one * batch_b, N, K, B_ALONG ? K : N};
  const Epilogue out{y, bias, nullptr, N, N};
  product(A, B, out, [&](int m) { return blockIdx.y * part + (one * M + m) * N; }, m0, n0, M, K);
}
