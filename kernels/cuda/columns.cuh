// Sums down the columns of R rows of C numbers, in two stages and one order, without atomics.
//
// A block of 256 threads is L lanes (a power of two, ≤ 32) × 256/L rows; a lane has WIDE neighbouring columns, so that a
// warp reads whole lines. Blocks: blockIdx.x = (which · S + split) · chunks + chunk, a chunk being L·WIDE columns, a split
// `rows` rows. Eight rows are added in float32, their sums in float64; then the block's rows as a tree; then the splits.
#include "common.cuh"
#ifndef WIDE
#define WIDE 4
#endif

struct Strip { int split; long long which; int column, begin, end; bool there; };
__device__ __forceinline__ Strip strip_of(int R, int C, int S, int rows) {
  const int across = blockDim.x * WIDE, chunks = (C + across - 1) / across;
  const long long rest = blockIdx.x / chunks;
  const int column = (blockIdx.x % chunks * blockDim.x + threadIdx.x) * WIDE, split = rest % S;
  const long long begin = static_cast<long long>(split) * rows;
  return {split, rest / S, column, static_cast<int>(begin), static_cast<int>(min(begin + rows, static_cast<long long>(R))),
          column < C};
}
__device__ __forceinline__ void load(const float* from, float (&to)[WIDE]) {
  if constexpr (WIDE == 4) {
    const float4 f = *reinterpret_cast<const float4*>(from);
    to[0] = f.x, to[1] = f.y, to[2] = f.z, to[3] = f.w;
  } else {
    to[0] = from[0];
  }
}
__device__ __forceinline__ void store(float* to, const float (&from)[WIDE]) {
  if constexpr (WIDE == 4) *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  else to[0] = from[0];
}
// total[m][j] of the threads with threadIdx.y = 0: the sum over the strip's rows of what terms(row, v) puts in v[m][j]
template <int M, class Terms>
__device__ __forceinline__ void column_sums(const Strip& s, double (&total)[M][WIDE], Terms terms) {
  __shared__ double slot[256][WIDE];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int j = 0; j < WIDE; j++) total[m][j] = 0;
  const int stride = blockDim.y, at = threadIdx.y * blockDim.x + threadIdx.x;
  if (s.there)
    for (int r = s.begin + static_cast<int>(threadIdx.y); r < s.end; r += 8 * stride) {
      float run[M][WIDE] = {};
#pragma unroll
      for (int u = 0; u < 8; u++)
        if (r + u * stride < s.end) terms(r + u * stride, run);
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < WIDE; j++) total[m][j] += run[m][j];
    }
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int j = 0; j < WIDE; j++) slot[at][j] = total[m][j];
    __syncthreads();
    for (int half = stride / 2; half > 0; half /= 2) {
      if (static_cast<int>(threadIdx.y) < half)
#pragma unroll
        for (int j = 0; j < WIDE; j++) slot[at][j] += slot[at + half * blockDim.x][j];
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < WIDE; j++) total[m][j] = slot[at][j];
    __syncthreads();
  }
}
// The sum of S numbers `stride` apart from `from` on, in a block of (32, 8), a column a lane: all threads get it
__device__ __forceinline__ double over_splits(const double* from, int S, long long stride, bool there) {
  __shared__ double part[8][33];
  double sum = 0;
  if (there)
    for (int k = threadIdx.y; k < S; k += 8) sum += from[k * stride];
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (int k = 0; k < 8; k++) sum += part[k][threadIdx.x];
  __syncthreads();
  return sum;
}
