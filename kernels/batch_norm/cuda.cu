// Batch norm on a GPU: README.md, "On a GPU". x, y, g: M rows of C channels, float32; parts of sums and statistics double.
#include "columns.cuh"

// parts: 2,S,C: Σ (a − a0) and Σ (a − a0)·(x − x0), a = x and a0 = x0 the first row (g null), or a = g, a0 = 0 and x0 the
// rounded mean
extern "C" __global__ void __launch_bounds__(256, 2) sums(const float* __restrict__ x, const float* __restrict__ g, const double* __restrict__ mean, double* __restrict__ parts, int M, int C, int S, int rows) {
  const Strip s = strip_of(M, C, S, rows);
  float x0[WIDE] = {};
  if (s.there) {
    if (g) for (int j = 0; j < WIDE; j++) x0[j] = static_cast<float>(mean[s.column + j]);
    else load(x + s.column, x0);
  }
  double total[2][WIDE];
  column_sums<2>(s, total, [&](int r, float(&run)[2][WIDE]) {
    const long long at = static_cast<long long>(r) * C + s.column;
    float v[WIDE], a[WIDE];
    load(x + at, v);
    if (g) load(g + at, a);
#pragma unroll
    for (int j = 0; j < WIDE; j++) {
      const float d = v[j] - x0[j], e = g ? a[j] : d;
      run[0][j] += e;
      run[1][j] += e * d;
    }
  });
  if (threadIdx.y || !s.there) return;
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int j = 0; j < WIDE; j++) parts[(static_cast<long long>(m) * S + s.split) * C + s.column + j] = total[m][j];
}

// One of (32, 8) threads a channel, grid ⌈C/32⌉. constants: 4,C: x0, ka, kx, k0 for combine.
extern "C" __global__ void __launch_bounds__(256) finish_forward(const double* __restrict__ parts, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, double* __restrict__ mean, double* __restrict__ rstd, float* __restrict__ mean_out, float* __restrict__ var_out, float* __restrict__ constants, int M, int C, int S, double eps) {
  const int c = blockIdx.x * 32 + threadIdx.x;
  const double one = over_splits(parts + c, S, C, c < C) / M;
  const double two = over_splits(parts + static_cast<long long>(S) * C + c, S, C, c < C) / M;
  if (threadIdx.y || c >= C) return;
  double var = two - one * one;
  if (var < 0) var = 0;  // NaN stays NaN
  const double m = x[c] + one, r = 1 / sqrt(var + eps), scale = r * w[c];
  mean[c] = m;
  rstd[c] = r;
  mean_out[c] = static_cast<float>(m);
  var_out[c] = static_cast<float>(var);
  constants[c] = static_cast<float>(m);
  constants[C + c] = 0;
  constants[2 * C + c] = static_cast<float>(scale);
  constants[3 * C + c] = static_cast<float>(b[c] - (m - static_cast<float>(m)) * scale);
}
extern "C" __global__ void __launch_bounds__(256) finish_backward(const double* __restrict__ parts, const float* __restrict__ w, const double* __restrict__ mean, const double* __restrict__ rstd, const float* __restrict__ g_mean, const float* __restrict__ g_var, float* __restrict__ gw, float* __restrict__ gb, float* __restrict__ constants, int M, int C, int S) {
  const int c = blockIdx.x * 32 + threadIdx.x;
  const double one = over_splits(parts + c, S, C, c < C);
  const double two = over_splits(parts + static_cast<long long>(S) * C + c, S, C, c < C);
  if (threadIdx.y || c >= C) return;
  const double e = mean[c] - static_cast<float>(mean[c]), r = rstd[c], scale = r * w[c];
  const double along = (two - e * one) * r, slope = 2.0 * g_var[c] / M - scale * r * along / M;
  gw[c] = static_cast<float>(along);
  gb[c] = static_cast<float>(one);
  constants[c] = static_cast<float>(mean[c]);
  constants[C + c] = static_cast<float>(scale);
  constants[2 * C + c] = static_cast<float>(slope);
  constants[3 * C + c] = static_cast<float>((g_mean[c] - scale * one) / M - e * slope);
}
// y = a·ka + (x − x0)·kx + k0; a null: without it. A thread keeps its columns: blocks as in column_sums.
extern "C" __global__ void __launch_bounds__(256, 4) combine(const float* __restrict__ a, const float* __restrict__ x, const float* __restrict__ constants, float* __restrict__ y, int M, int C, int S, int rows) {
  const Strip s = strip_of(M, C, S, rows);
  if (!s.there) return;
  float x0[WIDE], ka[WIDE], kx[WIDE], k0[WIDE];
  load(constants + s.column, x0);
  load(constants + C + s.column, ka);
  load(constants + 2 * C + s.column, kx);
  load(constants + 3 * C + s.column, k0);
#pragma unroll 4
  for (int r = s.begin + static_cast<int>(threadIdx.y); r < s.end; r += blockDim.y) {
    const long long at = static_cast<long long>(r) * C + s.column;
    float v[WIDE], g[WIDE] = {};
    load(x + at, v);
    if (a) load(a + at, g);
#pragma unroll
    for (int j = 0; j < WIDE; j++) v[j] = (a ? g[j] * ka[j] : 0.0f) + (v[j] - x0[j]) * kx[j] + k0[j];
    store(y + at, v);
  }
}
