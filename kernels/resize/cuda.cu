// Nearest-neighbour enlargement on a GPU: README.md. x N,H,W,C and y N,H·sh,W·sw,C, float32, as rows of images.
//
// A thread has WIDE (1 or 4) neighbouring channels of a pixel of the smaller image; a block rows of threads along W·C.
#include "common.cuh"
#ifndef WIDE
#define WIDE 4
#endif
struct alignas(4 * WIDE) Pixel { float v[WIDE]; };

struct Place { long long row; int w, c; bool there; };
// The grid: `across` blocks for a row of W·C/WIDE vectors, for each of the N·H rows.
__device__ __forceinline__ Place place_of(int W, int C) {
  const int vectors = W * (C / WIDE), across = (vectors + 255) / 256;
  const int i = blockIdx.x % across * 256 + threadIdx.x;
  return {static_cast<long long>(blockIdx.x) / across, i / (C / WIDE), i % (C / WIDE) * WIDE, i < vectors};
}
extern "C" __global__ void __launch_bounds__(256) nearest(const float* __restrict__ x, float* __restrict__ y, int W, int C, int sh, int sw) {
  const Place p = place_of(W, C);
  if (!p.there) return;
  const Pixel v = *reinterpret_cast<const Pixel*>(x + (p.row * W + p.w) * C + p.c);
  for (int i = 0; i < sh; i++)
    for (int j = 0; j < sw; j++)
      *reinterpret_cast<Pixel*>(y + ((p.row * sh + i) * W * sw + p.w * sw + j) * C + p.c) = v;
}
extern "C" __global__ void __launch_bounds__(256) block_sum(const float* __restrict__ g, float* __restrict__ x, int W, int C, int sh, int sw) {
  const Place p = place_of(W, C);
  if (!p.there) return;
  Pixel sum = {};
  for (int i = 0; i < sh; i++)
    for (int j = 0; j < sw; j++) {
      const Pixel v = *reinterpret_cast<const Pixel*>(g + ((p.row * sh + i) * W * sw + p.w * sw + j) * C + p.c);
#pragma unroll
      for (int k = 0; k < WIDE; k++) sum.v[k] += v.v[k];
    }
  *reinterpret_cast<Pixel*>(x + (p.row * W + p.w) * C + p.c) = sum;
}
