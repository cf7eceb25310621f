// Tiles of attention: how they lie in shared memory, how a block multiplies them, copies them in and writes them.
//   D          columns of a tile: d and dv filled up with zeros, 32, 64 or 128
//   PRECISION  of the products: 0 float32, 1 TF32, 2 bfloat16; sums and statistics are float32 in all
//   FOURS      1: rows of q, k, v begin at multiples of 16 bytes
#pragma once
#include "common.cuh"
#ifndef D
#define D 64
#define PRECISION 0
#define FOURS 1
#endif
constexpr int OWN = 64, OTHER = D > 64 ? 32 : 64;

// ---- tiles in shared memory: rows of D numbers, whose 16-byte pieces are permuted within the row so that every access
// below meets 32 different banks
__device__ __forceinline__ int piece(int row, int k4) { return row * D + ((k4 ^ ((row & 6) ^ (row & 1) * 5)) << 2); }
__device__ __forceinline__ int place(int row, int k) { return piece(row, k >> 2) + (k & 3); }

// ---- the products of a 64-row tile, and which of its numbers this thread has
#if PRECISION == 0
// 16×16 threads: thread (x, y) has rows 4y … 4y+3; of scores the columns x, x+16, …, of results runs of RUN columns.
constexpr int THREADS = 256, ROWS = 4, SPREAD = 16, RUN = D < 64 ? 2 : 4, P_PITCH = OTHER + 4;
template <int N> struct Tile {
  static constexpr int COLS = N / 16;
  float v[ROWS][COLS];
  __device__ __forceinline__ float& at(int i, int j) { return v[i][j]; }
};
__device__ __forceinline__ int lane_x() { return threadIdx.x & 15; }
__device__ __forceinline__ int row_of(int i) { return (threadIdx.x >> 4) * 4 + i; }
__device__ __forceinline__ int score_col(int j) { return lane_x() + 16 * j; }
__device__ __forceinline__ int result_col(int j) { return (j / RUN * 16 + lane_x()) * RUN + j % RUN; }

// s = A Bᵀ, A (64, D), B (OTHER, D)
__device__ __forceinline__ void scores(Tile<OTHER>& s, const float* A, const float* B) {
  constexpr int C = Tile<OTHER>::COLS;
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < C; j++) s.v[i][j] = 0.f;
#pragma unroll 1
  for (int k = 0; k < D / 4; k++) {
    float4 a[ROWS], b[C];
#pragma unroll
    for (int i = 0; i < ROWS; i++) a[i] = *reinterpret_cast<const float4*>(A + piece(row_of(i), k));
#pragma unroll
    for (int j = 0; j < C; j++) b[j] = *reinterpret_cast<const float4*>(B + piece(score_col(j), k));
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int j = 0; j < C; j++) {
        float t = s.v[i][j];
        t += a[i].x * b[j].x; t += a[i].y * b[j].y; t += a[i].z * b[j].z; t += a[i].w * b[j].w;
        s.v[i][j] = t;
      }
  }
}
// o += P B, P (64, OTHER) of all threads, B (OTHER, D). P goes through shared memory `room`: its rows are one half
// warp's to write and to read.
__device__ __forceinline__ void accumulate(Tile<D>& o, Tile<OTHER>& p, const float* B, float* room) {
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < Tile<OTHER>::COLS; j++) room[row_of(i) * P_PITCH + score_col(j)] = p.v[i][j];
  __syncwarp();
#pragma unroll 2
  for (int k = 0; k < OTHER; k += 4) {
    float a[ROWS][4];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const float4 f = *reinterpret_cast<const float4*>(room + row_of(i) * P_PITCH + k);
      a[i][0] = f.x; a[i][1] = f.y; a[i][2] = f.z; a[i][3] = f.w;
    }
#pragma unroll
    for (int t = 0; t < 4; t++) {
      float b[D / 16];
#pragma unroll
      for (int j = 0; j < D / 16; j += RUN) {
        const float* at = B + place(k + t, result_col(j));
        if constexpr (RUN == 4) {
          const float4 f = *reinterpret_cast<const float4*>(at);
          b[j] = f.x; b[j + 1] = f.y; b[j + 2] = f.z; b[j + 3] = f.w;
        } else {
          const float2 f = *reinterpret_cast<const float2*>(at);
          b[j] = f.x; b[j + 1] = f.y;
        }
      }
#pragma unroll
      for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < D / 16; j++) o.v[i][j] += a[i][t] * b[j];
    }
  }
  __syncwarp();
}
#else
// 4 warps of 16 rows each; lane (g, q) = (lane / 4, lane % 4) has rows g and g + 8, of every 8 columns 2q and 2q + 1:
// the tensor core's own layout, in which scores turn into the left factor of the next product where they are.
constexpr int THREADS = 128, ROWS = 2, SPREAD = 4, RUN = 2;
template <int N> struct Tile {
  static constexpr int COLS = N / 4;
  float v[N / 8][4];
  __device__ __forceinline__ float& at(int i, int j) { return v[j >> 1][i * 2 + (j & 1)]; }
};
__device__ __forceinline__ int lane_x() { return threadIdx.x & 3; }
__device__ __forceinline__ int row_of(int i) { return (threadIdx.x >> 5) * 16 + ((threadIdx.x & 31) >> 2) + 8 * i; }
__device__ __forceinline__ int score_col(int j) { return (j >> 1) * 8 + 2 * lane_x() + (j & 1); }
__device__ __forceinline__ int result_col(int j) { return score_col(j); }

// s = A Bᵀ. The sum over k may go in any order: a lane takes neighbours in k, by one load, where the instruction has
// k = q and q + 4 (TF32), or 2q, 2q + 1, 2q + 8, 2q + 9 (bfloat16).
__device__ __forceinline__ void scores(Tile<OTHER>& s, const float* A, const float* B) {
  const int g = (threadIdx.x & 31) >> 2, q = lane_x();
#pragma unroll
  for (int n = 0; n < OTHER / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) s.v[n][e] = 0.f;
#if PRECISION == 1
#pragma unroll 2
  for (int k = 0; k < D; k += 8) {
    const float2 r0 = *reinterpret_cast<const float2*>(A + place(row_of(0), k + 2 * q));
    const float2 r1 = *reinterpret_cast<const float2*>(A + place(row_of(1), k + 2 * q));
    const unsigned a[4] = {to_tf32(r0.x), to_tf32(r1.x), to_tf32(r0.y), to_tf32(r1.y)};
#pragma unroll
    for (int n = 0; n < OTHER / 8; n++) {
      const float2 c = *reinterpret_cast<const float2*>(B + place(n * 8 + g, k + 2 * q));
      const unsigned b[2] = {to_tf32(c.x), to_tf32(c.y)};
      mma_tf32(s.v[n], a, b);
    }
  }
#else
#pragma unroll 1
  for (int k = 0; k < D; k += 16) {
    const float4 r0 = *reinterpret_cast<const float4*>(A + piece(row_of(0), k / 4 + q));
    const float4 r1 = *reinterpret_cast<const float4*>(A + piece(row_of(1), k / 4 + q));
    const unsigned a[4] = {to_bf16x2(r0.x, r0.y), to_bf16x2(r1.x, r1.y), to_bf16x2(r0.z, r0.w), to_bf16x2(r1.z, r1.w)};
#pragma unroll
    for (int n = 0; n < OTHER / 8; n++) {
      const float4 c = *reinterpret_cast<const float4*>(B + piece(n * 8 + g, k / 4 + q));
      const unsigned b[2] = {to_bf16x2(c.x, c.y), to_bf16x2(c.z, c.w)};
      mma_bf16(s.v[n], a, b);
    }
  }
#endif
}
// o += P B, P as scores() leaves it.
__device__ __forceinline__ void accumulate(Tile<D>& o, Tile<OTHER>& p, const float* B, float*) {
  const int g = (threadIdx.x & 31) >> 2, q = lane_x();
  // where column n·8 + g lies in rows 2q and 2q + 1, by the last two bits of n: what is above them is not permuted
  int even[4], odd[4];
#pragma unroll
  for (int n = 0; n < 4; n++) { even[n] = place(2 * q, n * 8 + g); odd[n] = place(2 * q + 1, n * 8 + g); }
#if PRECISION == 1
#pragma unroll
  for (int t = 0; t < OTHER / 8; t++) {
    const unsigned a[4] = {to_tf32(p.v[t][0]), to_tf32(p.v[t][2]), to_tf32(p.v[t][1]), to_tf32(p.v[t][3])};
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      const float* at = B + t * 8 * D + (n & ~3) * 8;
      const unsigned b[2] = {to_tf32(at[even[n & 3]]), to_tf32(at[odd[n & 3]])};
      mma_tf32(o.v[n], a, b);
    }
  }
#else
#pragma unroll
  for (int t = 0; t < OTHER / 16; t++) {
    const unsigned a[4] = {
        to_bf16x2(p.v[2 * t][0], p.v[2 * t][1]), to_bf16x2(p.v[2 * t][2], p.v[2 * t][3]),
        to_bf16x2(p.v[2 * t + 1][0], p.v[2 * t + 1][1]), to_bf16x2(p.v[2 * t + 1][2], p.v[2 * t + 1][3])};
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      const float* at = B + t * 16 * D + (n & ~3) * 8;
      const unsigned b[2] = {to_bf16x2(at[even[n & 3]], at[odd[n & 3]]),
                             to_bf16x2(at[even[n & 3] + 8 * D], at[odd[n & 3] + 8 * D])};
      mma_bf16(o.v[n], a, b);
    }
  }
#endif
}
#endif

// Over the SPREAD threads that share rows.
__device__ __forceinline__ float row_sum(float v) {
#pragma unroll
  for (int m = SPREAD / 2; m > 0; m >>= 1) v += __shfl_xor_sync(WARP, v, m);
  return v;
}
__device__ __forceinline__ float row_max(float v) {
#pragma unroll
  for (int m = SPREAD / 2; m > 0; m >>= 1) { const float o = __shfl_xor_sync(WARP, v, m); v = o > v ? o : v; }
  return v;
}
template <int N> __device__ __forceinline__ void clear(Tile<N>& t) {
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int j = 0; j < Tile<N>::COLS; j++) t.at(i, j) = 0.f;
}
constexpr int FETCHES = FOURS ? 2 : 1;   // begun in a row
// Begin to copy R rows of `width` numbers; rows from `there` on and columns from `width` on become zeros.
template <int R> __device__ __forceinline__ void fetch(float* to, const float* from, int there, int width) {
#pragma unroll FETCHES
  for (int at = threadIdx.x; at < R * D / 4; at += THREADS) {
    const int row = at / (D / 4), k = at % (D / 4);
    const bool in = row < there;
#if FOURS
    const bool all = in && 4 * k < width;
    copy_async<16>(to + piece(row, k), all ? from + (long long)row * width + 4 * k : from, all);
#else
    for (int c = 0; c < 4; c++) {
      const bool one = in && 4 * k + c < width;
      copy_async<4>(to + piece(row, k) + c, one ? from + (long long)row * width + 4 * k + c : from, one);
    }
#endif
  }
}
// Rows of this block to (there, width) in memory, times factor of each thread's row.
__device__ __forceinline__ void write(float* to, Tile<D>& t, int there, int width, const float (&factor)[ROWS]) {
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const int row = row_of(i);
    if (row >= there) continue;
    float* out = to + (long long)row * width;
#pragma unroll
    for (int j = 0; j < Tile<D>::COLS; j += RUN) {
      const int c = result_col(j);
#if FOURS
      if (c < width) {
        if constexpr (RUN == 4)
          *reinterpret_cast<float4*>(out + c) = make_float4(t.at(i, j) * factor[i], t.at(i, j + 1) * factor[i],
                                                            t.at(i, j + 2) * factor[i], t.at(i, j + 3) * factor[i]);
        else
          *reinterpret_cast<float2*>(out + c) = make_float2(t.at(i, j) * factor[i], t.at(i, j + 1) * factor[i]);
      }
#else
      for (int e = 0; e < RUN; e++)
        if (c + e < width) out[c + e] = t.at(i, j + e) * factor[i];
#endif
    }
  }
}
