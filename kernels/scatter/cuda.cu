// Sums into places on a GPU, without atomics, and sums over rows: README.md.
//
// Defines: REAL, the numbers' type, float, double or long long; WIDE, columns a lane in the sums over rows.
#include "columns.cuh"
#ifndef REAL
#define REAL float
#endif
typedef REAL real;
typedef unsigned long long u64;

template <class N> struct Sum { typedef double type; };
template <> struct Sum<long long> { typedef long long type; };
typedef Sum<real>::type sum_t;

// ---- a stable sort of (place, number), as one key of 64 bits, by a bitonic network over the next power of two

constexpr int TILE = 1024;  // keys sorted in shared memory
__device__ __forceinline__ void in_the_tile(u64* keys, u64* k, long long from, long long to) {
  const long long base = static_cast<long long>(blockIdx.x) * TILE;
  for (long long run = from; run <= to; run *= 2)
    for (int far = run / 2 < TILE / 2 ? static_cast<int>(run / 2) : TILE / 2; far > 0; far /= 2) {
      __syncthreads();
      for (int t = threadIdx.x; t < TILE / 2; t += 256) {
        const int i = 2 * t - (t & (far - 1)), j = i + far;
        const u64 a = k[i], b = k[j];
        if ((a > b) != (((base + i) & run) != 0)) k[i] = b, k[j] = a;
      }
    }
  __syncthreads();
  for (int i = threadIdx.x; i < TILE; i += 256) keys[base + i] = k[i];
}
extern "C" __global__ void __launch_bounds__(256) sort_begin(const long long* __restrict__ ids, unsigned long long* __restrict__ keys, int m, long long n) {
  __shared__ u64 k[TILE];
  for (int t = threadIdx.x; t < TILE; t += 256) {
    const long long i = static_cast<long long>(blockIdx.x) * TILE + t;
    long long id = i < m ? ids[i] % n : 0;
    if (id < 0) id += n;
    k[t] = i < m ? static_cast<u64>(id) << 32 | static_cast<u64>(i) : ~0ull;
  }
  in_the_tile(keys, k, 2, TILE);
}
extern "C" __global__ void __launch_bounds__(256) sort_far(unsigned long long* keys, long long half, long long run, long long far) {
  const long long t = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (t >= half) return;
  const long long i = 2 * t - (t & (far - 1)), j = i + far;
  const u64 a = keys[i], b = keys[j];
  if ((a > b) != ((i & run) != 0)) keys[i] = b, keys[j] = a;
}
extern "C" __global__ void __launch_bounds__(256) sort_near(unsigned long long* keys, long long run) {
  __shared__ u64 k[TILE];
  const long long base = static_cast<long long>(blockIdx.x) * TILE;
  for (int i = threadIdx.x; i < TILE; i += 256) k[i] = keys[base + i];
  in_the_tile(keys, k, run, run);
}

// ---- sums of equal places: a warp takes 32 keys in a row, its lanes 32 columns. block (32, 8), grid (⌈F/32⌉ · ⌈chunks/8⌉)

struct Span { int chunk, column; bool there; };
__device__ __forceinline__ Span span_of(int m, int F) {
  const int across = (F + 31) / 32, chunk = blockIdx.x / across * 8 + threadIdx.y;
  const int column = blockIdx.x % across * 32 + threadIdx.x;
  return {chunk, column, chunk * 32 < m};
}
__device__ __forceinline__ unsigned place(const u64* keys, int m, int i) {  // none: one that no key has
  return i >= 0 && i < m ? static_cast<unsigned>(keys[i] >> 32) : 0xffffffffu;
}
// y[place] where a place's keys lie within a chunk; else to parts: [chunk][0] of those that began before it, [1] of those
// that go on after it (of a place that does both, [0])
extern "C" __global__ void __launch_bounds__(256) add_runs(const unsigned long long* __restrict__ keys, const real* __restrict__ rows, real* __restrict__ y, double* __restrict__ parts, int m, int F) {
  const Span s = span_of(m, F);
  if (!s.there) return;  // whole warps
  sum_t* part = reinterpret_cast<sum_t*>(parts) + 2ll * s.chunk * F;
  const int first = s.chunk * 32, count = min(32, m - first);
  const int i = first + static_cast<int>(threadIdx.x);
  const u64 mine = i < m ? keys[i] : ~0ull;
  const unsigned after = place(keys, m, first + 32);
  bool open = place(keys, m, first - 1) == place(keys, m, first);
  sum_t sum = 0;
  for (int e = 0; e < count; e++) {
    const u64 key = __shfl_sync(WARP, mine, e), next = __shfl_sync(WARP, mine, e + 1 < 32 ? e + 1 : 31);
    const unsigned id = static_cast<unsigned>(key >> 32);
    const bool last = e + 1 < count ? static_cast<unsigned>(next >> 32) != id : id != after;
    if (s.column < F) sum += rows[static_cast<long long>(key & 0xffffffffu) * F + s.column];
    if (last || e + 1 == count) {
      if (s.column < F) {
        if (open) part[s.column] = sum;
        else if (last) y[static_cast<long long>(id) * F + s.column] = static_cast<real>(sum);
        else part[F + s.column] = sum;
      }
      open = false;
      sum = 0;
    }
  }
}
// y[place] of the places whose keys begin in one chunk and go on in the next
extern "C" __global__ void __launch_bounds__(256) join_runs(const unsigned long long* __restrict__ keys, real* __restrict__ y, const double* __restrict__ parts, int m, int F) {
  const Span s = span_of(m, F);
  if (!s.there || s.column >= F) return;
  const sum_t* part = reinterpret_cast<const sum_t*>(parts);
  const int first = s.chunk * 32;
  const unsigned id = place(keys, m, first + 31);
  if (first + 32 >= m || place(keys, m, first + 32) != id) return;
  if (place(keys, m, first) == id && place(keys, m, first - 1) == id) return;  // began in an earlier chunk
  sum_t sum = part[(2ll * s.chunk + 1) * F + s.column];
  for (int k = s.chunk + 1; k * 32ll < m && place(keys, m, k * 32) == id; k++) sum += part[2ll * k * F + s.column];
  y[static_cast<long long>(id) * F + s.column] = static_cast<real>(sum);
}
// y[place] = the last of its values; kept[number] = 1 for that one, else 0. Either may be null.
extern "C" __global__ void __launch_bounds__(256) keep_last(const unsigned long long* __restrict__ keys, const real* __restrict__ values, real* __restrict__ y, bool* __restrict__ kept, int m) {
  const long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= m) return;
  const bool last = i + 1 == m || keys[i] >> 32 != keys[i + 1] >> 32;
  const long long k = static_cast<long long>(keys[i] & 0xffffffffu);
  if (y && last) y[keys[i] >> 32] = values[k];
  if (kept) kept[k] = last;
}

// ---- sums over the middle axis of A,R,C: float32

// parts: S,A,C; or, where nothing is split, y itself
extern "C" __global__ void __launch_bounds__(256, 4) sum_strips(const float* __restrict__ x, double* __restrict__ parts, float* __restrict__ y, int A, int R, int C, int S, int rows) {
  const Strip s = strip_of(R, C, S, rows);
  x += s.which * R * C + s.column;
  double total[1][WIDE];
  column_sums<1>(s, total, [&](int r, float(&run)[1][WIDE]) {
    float v[WIDE];
    load(x + static_cast<long long>(r) * C, v);
#pragma unroll
    for (int j = 0; j < WIDE; j++) run[0][j] += v[j];
  });
  if (threadIdx.y || !s.there) return;
#pragma unroll
  for (int j = 0; j < WIDE; j++) {
    if (parts) parts[(static_cast<long long>(s.split) * A + s.which) * C + s.column + j] = total[0][j];
    else y[s.which * C + s.column + j] = static_cast<float>(total[0][j]);
  }
}
// block (32, 8), grid ⌈n/32⌉, n = A·C
extern "C" __global__ void __launch_bounds__(256) sum_splits(const double* __restrict__ parts, float* __restrict__ y, int n, int S) {
  const int c = blockIdx.x * 32 + threadIdx.x;
  const double sum = over_splits(parts + c, S, n, c < n);
  if (threadIdx.y == 0 && c < n) y[c] = static_cast<float>(sum);
}
