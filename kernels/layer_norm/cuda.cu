// Layer norm over rows of C numbers: README.md, eq. 1-4. A team of threads has a row; see rows.cuh.
#include "rows.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) forward(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, float* __restrict__ y,
    float* __restrict__ mean, float* __restrict__ rstd, long long R, int C, float eps) {
  __shared__ float slot[32];
  const long long r = (long long)blockIdx.x * TEAMS + team_of_block(), at = r < R ? r * C : 0;
  const int n = r < R ? C : 0;
  const Row row(x + at, n);
  const float first = team_sum(each_sum(n, [](int, float v) { return v; }, row), slot) / C;
  // what rounding left out of the mean: it matters where the mean is far from 0
  const float rest = team_sum(each_sum(n, [&](int, float v) { return v - first; }, row), slot) / C;
  const float squares = team_sum(each_sum(n, [&](int, float v) { return (v - first) * (v - first); }, row), slot) / C;
  const float m = first + rest, s = 1.f / sqrtf(fmaxf(squares - rest * rest, 0.f) + eps);
  if (r < R && team_lane() == 0) { mean[r] = m; rstd[r] = s; }
  each_write(y + at, n, [&](int k, float v) { return (v - m) * s * w[k] + b[k]; }, row);
}

// gx of all rows and, where rows are held, this block's part of gw and gb: part (2, blocks, C). A team takes the rows
// from its own on, a whole grid of teams further each time; its columns' sums stay in registers until the end, where
// the teams add theirs up in order.
extern "C" __global__ void __launch_bounds__(THREADS) backward(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ w,
    const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ gx, float* __restrict__ part,
    long long R, int C) {
  __shared__ float slot[32];
  DYNAMIC_SHARED(float, sums);
  float aw[HELD ? HELD * VEC : 1] = {}, ab[HELD ? HELD * VEC : 1] = {};
  const long long step = (long long)gridDim.x * TEAMS;
  for (long long first = (long long)blockIdx.x * TEAMS; first < R; first += step) {   // as often for every team
    const long long r = first + team_of_block(), at = r < R ? r * C : 0;
    const int n = r < R ? C : 0;
    const float m = n ? mean[r] : 0.f, s = n ? rstd[r] : 0.f;
    const Row a(g + at, n), row(x + at, n);
    const float a1 = team_sum(each_sum(n, [&](int k, float u) { return u * w[k]; }, a), slot) / C;
    const float a2 = team_sum(
        each_sum(n, [&](int k, float u, float v) { return u * w[k] * ((v - m) * s); }, a, row), slot) / C;
    each_write(gx + at, n, [&](int k, float u, float v) { return s * (u * w[k] - a1 - (v - m) * s * a2); }, a, row);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      if ((i * LANES + team_lane()) * VEC < n) {
#pragma unroll
        for (int j = i * VEC; j < (i + 1) * VEC; j++) {
          aw[j] += a.v[j] * ((row.v[j] - m) * s);
          ab[j] += a.v[j];
        }
      }
    }
  }
  if constexpr (HELD > 0) {
#pragma unroll 1
    for (int t = 0; t < TEAMS; t++) {
      if (team_of_block() == t) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
          const int k = (i * LANES + team_lane()) * VEC;
          if (k < C) {
#pragma unroll
            for (int j = 0; j < VEC; j++) {
              sums[k + j] = (t ? sums[k + j] : 0.f) + aw[i * VEC + j];
              sums[C + k + j] = (t ? sums[C + k + j] : 0.f) + ab[i * VEC + j];
            }
          }
        }
      }
      __syncthreads();
    }
    for (int k = threadIdx.x; k < C; k += THREADS) {
      part[(long long)blockIdx.x * C + k] = sums[k];
      part[((long long)gridDim.x + blockIdx.x) * C + k] = sums[C + k];
    }
  }
}

// The parts of gw and gb where rows are too long to be held: block (c, p) adds up every gridDim.y-th row from p on.
extern "C" __global__ void __launch_bounds__(128) columns(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ rstd, float* __restrict__ part, long long R, int C) {
  const int c = blockIdx.x * 128 + threadIdx.x;
  if (c >= C) return;
  float aw = 0.f, ab = 0.f;
  for (long long r = blockIdx.y; r < R; r += gridDim.y) {
    const float u = g[r * C + c];
    aw += u * ((x[r * C + c] - mean[r]) * rstd[r]);
    ab += u;
  }
  part[(long long)blockIdx.y * C + c] = aw;
  part[((long long)gridDim.y + blockIdx.y) * C + c] = ab;
}

// gw, gb (2, C) from `parts` parts each; blockIdx.y is which of the two. 8 warps take every eighth part of 32 columns.
extern "C" __global__ void __launch_bounds__(256) total(
    const float* __restrict__ part, float* __restrict__ gwb, int parts, int C) {
  __shared__ double sums[8][32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = blockIdx.x * 32 + lane;
  const float* from = part + (long long)blockIdx.y * parts * C;
  double s = 0.0;
  if (c < C)
    for (int p = warp; p < parts; p += 8) s += from[(long long)p * C + c];
  sums[warp][lane] = s;
  __syncthreads();
  if (warp == 0 && c < C) {
    for (int p = 1; p < 8; p++) s += sums[p][lane];
    gwb[(long long)blockIdx.y * C + c] = float(s);
  }
}
