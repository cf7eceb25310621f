// Softmax, its logarithm and cross-entropy over rows of K numbers: README.md, eq. 1-4. A team of threads has a row.
#include "rows.cuh"

struct Shift { float top, total; };
// The largest number of the row, 0 where that is infinite, and Σ e^(x − largest).
__device__ __forceinline__ Shift shift(const Row& x, int K, float* slot) {
  float top = -INFINITY;
  each(K, [&](int, float v) { top = v > top ? v : top; }, x);
  top = team_max(top, slot);
  top = fabsf(top) < INFINITY ? top : 0.f;
  return {top, team_sum(each_sum(K, [&](int, float v) { return expf(v - top); }, x), slot)};
}
#define ROW                                                                   \
  __shared__ float slot[32];                                                  \
  const long long r = (long long)blockIdx.x * TEAMS + team_of_block();        \
  const int n = r < R ? K : 0;                                                \
  const long long at = r < R ? r * K : 0

extern "C" __global__ void __launch_bounds__(THREADS) softmax(
    const float* __restrict__ x, float* __restrict__ y, long long R, int K, int log) {
  ROW;
  const Row row(x + at, n);
  const Shift s = shift(row, n, slot);
  const float total = s.total == 0.f ? 1.f : s.total;
  if (log) {
    const float less = logf(total);
    each_write(y + at, n, [&](int, float v) { return (v - s.top) - less; }, row);
  } else {
    const float inverse = 1.f / total;
    each_write(y + at, n, [&](int, float v) { return expf(v - s.top) * inverse; }, row);
  }
}
extern "C" __global__ void __launch_bounds__(THREADS) softmax_pull(
    const float* __restrict__ g, const float* __restrict__ y, float* __restrict__ gx, long long R, int K) {
  ROW;
  const Row a(g + at, n), p(y + at, n);
  const float dot = team_sum(each_sum(n, [](int, float u, float v) { return u * v; }, a, p), slot);
  each_write(gx + at, n, [&](int, float u, float v) { return v * (u - dot); }, a, p);
}
extern "C" __global__ void __launch_bounds__(THREADS) log_softmax_pull(
    const float* __restrict__ g, const float* __restrict__ y, float* __restrict__ gx, long long R, int K) {
  ROW;
  const Row a(g + at, n), b(y + at, n);
  const float whole = team_sum(each_sum(n, [](int, float u) { return u; }, a), slot);
  each_write(gx + at, n, [&](int, float u, float v) { return u - expf(v) * whole; }, a, b);
}
// A label that is no class has the loss NaN: nothing is read outside the row.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy(
    const float* __restrict__ x, const long long* __restrict__ labels, float* __restrict__ y,
    float* __restrict__ tops, float* __restrict__ totals, long long R, int K) {
  ROW;
  const Row row(x + at, n);
  const Shift s = shift(row, n, slot);
  if (r < R && team_lane() == 0) {
    const long long label = labels[r];
    const bool there = 0 <= label && label < K;
    tops[r] = s.top;
    totals[r] = s.total;
    y[r] = there ? logf(s.total) + (s.top - x[at + label]) : INFINITY - INFINITY;
  }
}
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_pull(
    const float* __restrict__ g, const float* __restrict__ x, const long long* __restrict__ labels,
    const float* __restrict__ tops, const float* __restrict__ totals, float* __restrict__ gx, long long R, int K) {
  const long long r = (long long)blockIdx.x * TEAMS + team_of_block();
  if (r >= R) return;
  const Row row(x + r * K, K);
  const float top = tops[r], total = totals[r], whole = g[r], scale = whole / (total == 0.f ? 1.f : total);
  const long long label = labels[r];
  each_write(gx + r * K, K, [&](int k, float v) { return expf(v - top) * scale - (k == label ? whole : 0.f); }, row);
}
