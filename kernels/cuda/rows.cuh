// Rows of numbers, each read from memory once: a team of LANES threads holds its row in registers between the passes.
//   LANES   threads of a team: a power of two up to 32 (teams of one warp then have neighbouring rows), or the block
//   VEC     numbers moved at once: 4 where rows are multiples of 4 long and begin at multiples of 16 bytes, else 1
//   HELD    such vectors that a thread holds; 0: rows too long for registers, which every pass reads again (VEC 1)
//   THREADS threads of a block
// rows.py chooses them by the length of a row. A team without a row of its own takes one of length 0.
#pragma once
#include "common.cuh"
#ifndef LANES
#define LANES 32
#define VEC 4
#define HELD 2
#define THREADS 128
#endif
constexpr int TEAMS = THREADS / LANES;
static_assert(LANES <= 32 || LANES == THREADS, "a team is part of a warp, or the block");
static_assert(HELD > 0 || VEC == 1, "rows that are not held are read one number at a time");

__device__ __forceinline__ int team_lane() { return threadIdx.x % LANES; }
__device__ __forceinline__ int team_of_block() { return threadIdx.x / LANES; }

__device__ __forceinline__ float team_sum(float v, float* slot) {
  if constexpr (LANES > 32) return block_sum(v, slot);
#pragma unroll
  for (int d = LANES / 2; d > 0; d >>= 1) v += __shfl_xor_sync(WARP, v, d);
  return v;
}
__device__ __forceinline__ float team_max(float v, float* slot) {
  if constexpr (LANES > 32) return block_max(v, slot, -INFINITY);
#pragma unroll
  for (int d = LANES / 2; d > 0; d >>= 1) { const float o = __shfl_xor_sync(WARP, v, d); v = o > v ? o : v; }
  return v;
}

template <int V> __device__ __forceinline__ void load_vector(float* v, const float* from) {
  if constexpr (V == 4) {
    const float4 f = *reinterpret_cast<const float4*>(from);
    v[0] = f.x; v[1] = f.y; v[2] = f.z; v[3] = f.w;
  } else {
    v[0] = *from;
  }
}
template <int V> __device__ __forceinline__ void store_vector(float* to, const float* v) {
  if constexpr (V == 4) *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
  else *to = v[0];
}

// This thread's share of a row.
struct Row {
  const float* at;
  float v[HELD ? HELD * VEC : 1];
  __device__ __forceinline__ Row(const float* row, int K) : at(row) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int k = (i * LANES + team_lane()) * VEC;
      if (k < K) load_vector<VEC>(v + i * VEC, row + k);
    }
  }
};
// f(k, the rows' numbers at k) for this thread's k.
template <class F, class... R> __device__ __forceinline__ void each(int K, F f, const R&... rows) {
  if constexpr (HELD > 0) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int k = (i * LANES + team_lane()) * VEC;
      if (k < K) {
#pragma unroll
        for (int j = 0; j < VEC; j++) f(k + j, rows.v[i * VEC + j]...);
      }
    }
  } else {
    for (int k = team_lane(); k < K; k += LANES) f(k, rows.at[k]...);
  }
}
// This thread's part of Σ f: vectors in pairs, then vector after vector; long rows in float64.
template <class F, class... R> __device__ __forceinline__ float each_sum(int K, F f, const R&... rows) {
  if constexpr (HELD > 0) {
    float s = 0.f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int k = (i * LANES + team_lane()) * VEC;
      if (k < K) {
        float t[VEC];
#pragma unroll
        for (int j = 0; j < VEC; j++) t[j] = f(k + j, rows.v[i * VEC + j]...);
        if constexpr (VEC == 4) s += (t[0] + t[1]) + (t[2] + t[3]);
        else s += t[0];
      }
    }
    return s;
  } else {
    double s = 0.0;
    for (int k = team_lane(); k < K; k += LANES) s += f(k, rows.at[k]...);
    return float(s);
  }
}
// to[k] = f(k, the rows' numbers at k)
template <class F, class... R> __device__ __forceinline__ void each_write(float* to, int K, F f, const R&... rows) {
  if constexpr (HELD > 0) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      const int k = (i * LANES + team_lane()) * VEC;
      if (k < K) {
        float t[VEC];
#pragma unroll
        for (int j = 0; j < VEC; j++) t[j] = f(k + j, rows.v[i * VEC + j]...);
        store_vector<VEC>(to + k, t);
      }
    }
  } else {
    for (int k = team_lane(); k < K; k += LANES) to[k] = f(k, rows.at[k]...);
  }
}
