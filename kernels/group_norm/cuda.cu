// Group norm (+ SiLU) on a GPU: README.md, "On a GPU". x, y, g: N,P,C float32 in rows of C channels; statistics double.
//
// A block holds a tile, some positions of K neighbouring channels of one sample: each thread WIDE neighbouring channels
// at `held` positions. forward and backward: the tile is all positions of whole groups, in shared memory, so that x is
// read once. For slabs that no block can hold: moments, merge, apply and pulls, merge_pulls, spread.
//
// Defines: WIDE, 1 or 4 channels a thread; SILU, 0 or 1.
#include "common.cuh"
#ifndef WIDE
#define WIDE 4
#endif
#ifndef SILU
#define SILU 1
#endif

constexpr int MOST = 256;    // channels of a tile
constexpr int THREADS = 256, HELD = 8;  // where slabs are cut: threads of a block, positions a thread at most
constexpr int ROOM = THREADS * (WIDE + 1);

struct Tile {
  int channels, lane, row, rows;  // of the block; this thread's first channel and position; positions a pass
  bool active;
};
__device__ __forceinline__ Tile tile_of(int channels) {
  const int lanes = (channels + WIDE - 1) / WIDE, rows = static_cast<int>(blockDim.x) / lanes, row = threadIdx.x / lanes;
  return {channels, static_cast<int>(threadIdx.x) % lanes * WIDE, row, rows, row < rows};
}
__device__ __forceinline__ void load(const float* from, float (&to)[WIDE]) {
  if constexpr (WIDE == 4) {
    const float4 f = *reinterpret_cast<const float4*>(from);
    to[0] = f.x, to[1] = f.y, to[2] = f.z, to[3] = f.w;
  } else {
    for (int j = 0; j < WIDE; j++) to[j] = from[j];
  }
}
__device__ __forceinline__ void store(float* to, const float (&from)[WIDE]) {
  if constexpr (WIDE == 4) *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  else for (int j = 0; j < WIDE; j++) to[j] = from[j];
}
// σ(t); for t → ±∞ it is 1 and 0, never NaN
__device__ __forceinline__ float sigmoid(float t) { return __fdividef(1.0f, 1.0f + __expf(-t)); }

// channel[m][c] = Σ of s[m] over the block's threads that hold channel c, in one order. Ends with a barrier.
template <int M>
__device__ __forceinline__ void channel_sums(const float (&s)[M][WIDE], const Tile& t, float* room,
                                             double (*channel)[MOST]) {
  const int K = t.channels, pitch = K + 1, plane = t.rows * pitch;
  if (t.active)
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int j = 0; j < WIDE; j++)
        if (WIDE == 1 || t.lane + j < K) room[m * plane + t.row * pitch + t.lane + j] = s[m][j];
  __syncthreads();
  if (t.rows <= 32) {
#pragma unroll 1
    for (int i = threadIdx.x; i < M * K; i += blockDim.x) {
      const int m = i / K, c = i - m * K;
      double sum = 0;
#pragma unroll 2
      for (int r = 0; r < t.rows; r++) sum += room[m * plane + r * pitch + c];
      channel[m][c] = sum;
    }
  } else {  // a warp for each sum
#pragma unroll 1
    for (int i = threadIdx.x >> 5; i < M * K; i += blockDim.x / 32) {
      const int m = i / K, c = i - m * K;
      double sum = 0;
#pragma unroll 2
      for (int r = threadIdx.x & 31; r < t.rows; r += 32) sum += room[m * plane + r * pitch + c];
      sum = warp_sum(sum);
      if ((threadIdx.x & 31) == 0) channel[m][c] = sum;
    }
  }
  __syncthreads();
}
// Σ of a[k·width + i]·(w ? w[…] : 1) over a group's channels, by a warp: all lanes get it
__device__ __forceinline__ double group_sum(const double* a, const float* w, int k, int width) {
  double sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x & 31; i < width; i += 32)
    sum += w ? a[k * width + i] * w[k * width + i] : a[k * width + i];
  return warp_sum(sum);
}
// What a channel makes of x: t = (x − centre)·a + shift, in shared memory; centre + e is the group's exact mean.
struct Lines { float centre[MOST], a[MOST], shift[MOST]; };
struct Line { float centre[WIDE], a[WIDE], shift[WIDE]; };
__device__ __forceinline__ float normed(float x, const Line& l, int j) { return (x - l.centre[j]) * l.a[j] + l.shift[j]; }
__device__ __forceinline__ float gradient_in(float g, float t) {  // of y for t: README, h
  if (!SILU) return g;
  const float s = sigmoid(t);
  return g * (s * (1.0f + t * (1.0f - s)));
}
__device__ __forceinline__ float value_out(float t) { return SILU ? t * sigmoid(t) : t; }

// A tile's x into a thread's own places in shared memory, blockDim.x·WIDE apart, zeros beyond the last position; to be
// waited for
__device__ __forceinline__ void copy_tile(float* to, const float* x, int C, int positions, int held,
                                          const Tile& t) {
  const long long step = static_cast<long long>(t.rows) * C;
  x += static_cast<long long>(t.row) * C + t.lane;
#pragma unroll 4
  for (int u = 0; u < held; u++, x += step, to += blockDim.x * WIDE)
    copy_async<4 * WIDE>(to, x, t.active && t.row + u * t.rows < positions);
  copy_commit();
}
__device__ __forceinline__ double one_over_root(double variance, double eps) {
  const double v = (variance < 0 ? 0.0 : variance) + eps;  // NaN stays NaN
  double r = rsqrtf(static_cast<float>(v));  // Newton's steps from there: a fraction of the registers of 1 / sqrt(v)
  for (int k = 0; k < 2; k++) r *= 1.5 - 0.5 * v * r * r;
  return r;
}

// ---- a slab in one block. grid: N · C/K, the chunks of a sample next to each other; K a multiple of width, share
// 1/(P·width)

// Dynamic shared memory: the tile, in which x waits, and 2·blockDim.x·(WIDE + 1) floats.
extern "C" __global__ void __launch_bounds__(512, 2) forward(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, float* __restrict__ y, double* __restrict__ mean, double* __restrict__ rstd, int P, int C, int K, int width, int held, double share, double eps) {
  DYNAMIC_SHARED(float, tile);
  __shared__ double channel[2][MOST];
  __align__(16) __shared__ float centre[MOST], scale[MOST], shift[MOST];
  const int chunks = C / K, n = blockIdx.x / chunks, first = blockIdx.x % chunks * K, own = K / width;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const long long at = static_cast<long long>(n) * P * C + first;
  const Tile t = tile_of(K);
  float* room = tile + held * blockDim.x * WIDE;
  const float* mine = tile + threadIdx.x * WIDE;  // a thread's own places: no other looks at them
  copy_tile(tile + threadIdx.x * WIDE, x + at, C, P, held, t);
  copy_wait<0>();
  {
    float s[1][WIDE] = {};
#pragma unroll 4
    for (int u = 0; u < held; u++) {  // zeros beyond the last position
      float v[WIDE];
      load(mine + u * blockDim.x * WIDE, v);
#pragma unroll
      for (int j = 0; j < WIDE; j++) s[0][j] += v[j];
    }
    channel_sums<1>(s, t, room, channel);
  }
#pragma unroll 1
  for (int k = warp; k < own; k += blockDim.x / 32) {
    const double m = group_sum(channel[0], nullptr, k, width) * share;
    for (int i = lane; i < width; i += 32) centre[k * width + i] = static_cast<float>(m);
  }
  __syncthreads();
  float c[WIDE];
  load(centre + t.lane, c);
  {
    float s[2][WIDE] = {};
#pragma unroll 4
    for (int u = 0; u < held; u++)
      if (t.active && t.row + u * t.rows < P) {
        float v[WIDE];
        load(mine + u * blockDim.x * WIDE, v);
#pragma unroll
        for (int j = 0; j < WIDE; j++) {
          const float d = v[j] - c[j];
          s[0][j] += d;
          s[1][j] += d * d;
        }
      }
    channel_sums<2>(s, t, room, channel);
  }
#pragma unroll 1
  for (int k = warp; k < own; k += blockDim.x / 32) {
    const double e = group_sum(channel[0], nullptr, k, width) * share;
    const double r = one_over_root(group_sum(channel[1], nullptr, k, width) * share - e * e, eps);
    for (int i = k * width + lane; i < (k + 1) * width; i += 32) {
      scale[i] = static_cast<float>(r) * w[first + i];
      shift[i] = b[first + i] - static_cast<float>(e) * scale[i];
    }
    if (lane == 0) {
      const long long g = static_cast<long long>(n) * (C / width) + first / width + k;
      mean[g] = centre[k * width] + e;
      rstd[g] = r;
    }
  }
  __syncthreads();
  float a[WIDE], level[WIDE];
  load(scale + t.lane, a);
  load(shift + t.lane, level);
  const long long step = static_cast<long long>(t.rows) * C;
  y += at + static_cast<long long>(t.row) * C + t.lane;
#pragma unroll 4
  for (int u = 0; u < held; u++, y += step)
    if (t.active && t.row + u * t.rows < P) {
      float v[WIDE];
      load(mine + u * blockDim.x * WIDE, v);
#pragma unroll
      for (int j = 0; j < WIDE; j++) v[j] = value_out((v[j] - c[j]) * a[j] + level[j]);
      store(y, v);
    }
}

// The block's channels' lines, mean and rstd being the sample's, first its first channel. Ends with a barrier.
__device__ __forceinline__ Line line_of(Lines& all, const double* mean, const double* rstd, const float* w,
                                        const float* b, int first, int width, const Tile& t) {
#pragma unroll 1
  for (int i = threadIdx.x; i < t.channels; i += blockDim.x) {
    const int c = first + i, k = c / width;
    const double m = mean[k];
    all.centre[i] = static_cast<float>(m);
    all.a[i] = static_cast<float>(rstd[k]) * w[c];
    all.shift[i] = b[c] - static_cast<float>(m - all.centre[i]) * all.a[i];
  }
  __syncthreads();
  Line l;
  load(all.centre + t.lane, l.centre);
  load(all.a + t.lane, l.a);
  load(all.shift + t.lane, l.shift);
  return l;
}

// gw, gb: N,C, a sample's share. Dynamic shared memory: two tiles, in which g, then h, and x wait,
// and 2·blockDim.x·(WIDE + 1) floats.
extern "C" __global__ void __launch_bounds__(512, 2) backward(const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, const double* __restrict__ mean, const double* __restrict__ rstd, float* __restrict__ gx, double* __restrict__ gw, double* __restrict__ gb, int P, int C, int K, int width, int held, double share) {
  DYNAMIC_SHARED(float, h);
  __shared__ double channel[2][MOST];
  __align__(16) __shared__ Lines lines;
  __align__(16) __shared__ float slope[MOST], constant[MOST];
  const int chunks = C / K, n = blockIdx.x / chunks, first = blockIdx.x % chunks * K, own = K / width;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, groups = C / width;
  const long long at = static_cast<long long>(n) * P * C + first;
  const Tile t = tile_of(K);
  const int places = held * blockDim.x * WIDE;
  float *mine = h + threadIdx.x * WIDE, *room = h + 2 * places;  // a thread's own places, as are those of x: no other looks at them
  const float* own_x = mine + places;
  copy_tile(mine, g + at, C, P, held, t);
  copy_tile(mine + places, x + at, C, P, held, t);
  const long long of = static_cast<long long>(n) * groups;
  const Line l = line_of(lines, mean + of, rstd + of, w, b, first, width, t);
  copy_wait<0>();
  float s[2][WIDE] = {};
#pragma unroll 4
  for (int u = 0; u < held; u++)
    if (t.active && t.row + u * t.rows < P) {
      float v[WIDE], q[WIDE];
      load(own_x + u * blockDim.x * WIDE, v);
      load(mine + u * blockDim.x * WIDE, q);
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        q[j] = gradient_in(q[j], normed(v[j], l, j));
        s[0][j] += q[j];
        s[1][j] += q[j] * (v[j] - l.centre[j]);
      }
      if (SILU) store(mine + u * blockDim.x * WIDE, q);
    }
  channel_sums<2>(s, t, room, channel);
#pragma unroll 1
  for (int c = threadIdx.x; c < K; c += blockDim.x) {
    const double m = mean[of + (first + c) / width], e = m - static_cast<float>(m);
    gb[static_cast<long long>(n) * C + first + c] = channel[0][c];
    channel[1][c] = rstd[of + (first + c) / width] * (channel[1][c] - e * channel[0][c]);
    gw[static_cast<long long>(n) * C + first + c] = channel[1][c];
  }
  __syncthreads();
#pragma unroll 1
  for (int k = warp; k < own; k += blockDim.x / 32) {
    const double c1 = group_sum(channel[0], w + first, k, width), c2 = group_sum(channel[1], w + first, k, width);
    const double m = mean[of + first / width + k], r = rstd[of + first / width + k];
    const double e = m - static_cast<float>(m), along = r * r * (c2 * share);
#pragma unroll 1
    for (int i = k * width + lane; i < (k + 1) * width; i += 32) {
      slope[i] = static_cast<float>(along);
      constant[i] = static_cast<float>(r * (c1 * share) - e * along);
    }
  }
  __syncthreads();
  float along[WIDE], level[WIDE];
  load(slope + t.lane, along);
  load(constant + t.lane, level);
  const long long step = static_cast<long long>(t.rows) * C;
  gx += at + static_cast<long long>(t.row) * C + t.lane;
#pragma unroll 4
  for (int u = 0; u < held; u++, gx += step)
    if (t.active && t.row + u * t.rows < P) {
      float v[WIDE], q[WIDE];
      load(own_x + u * blockDim.x * WIDE, v);
      load(mine + u * blockDim.x * WIDE, q);
#pragma unroll
      for (int j = 0; j < WIDE; j++) q[j] = l.a[j] * q[j] - level[j] - (v[j] - l.centre[j]) * along[j];
      store(gx, q);
    }
}

// totals[i][c] = Σ over n of parts[i][n][c]; i = 0, 1. block (32, 8), grid (⌈C / 32⌉, 2)
extern "C" __global__ void __launch_bounds__(256) totals(const double* __restrict__ parts, float* __restrict__ out, int N, int C) {
  __shared__ double part[8][33];
  const int c = blockIdx.x * 32 + threadIdx.x;
  const double* from = parts + static_cast<long long>(blockIdx.y) * N * C;
  double sum = 0;
  if (c < C)
#pragma unroll 4
    for (int n = threadIdx.y; n < N; n += 8) sum += from[static_cast<long long>(n) * C + c];
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < C) {
    for (int k = 1; k < 8; k++) sum += part[k][threadIdx.x];
    out[blockIdx.y * C + c] = static_cast<float>(sum);
  }
}

// ---- a slab in many blocks. grid: N · S · ⌈C/K⌉; a tile is positions s·rows…(s + 1)·rows of K channels (the last of a
// row: what is left; a multiple of WIDE), whatever the groups

// A tile's x: v[u], zeros beyond the last position
__device__ __forceinline__ void load_tile(const float* x, int C, int positions, const Tile& t, float (&v)[HELD][WIDE]) {
  const long long step = static_cast<long long>(t.rows) * C;
  x += static_cast<long long>(t.row) * C + t.lane;
#pragma unroll
  for (int u = 0; u < HELD; u++, x += step) {
    if (t.active && t.row + u * t.rows < positions) load(x, v[u]);
    else
#pragma unroll
      for (int j = 0; j < WIDE; j++) v[u][j] = 0.0f;
  }
}
// Σ v
__device__ __forceinline__ void add_up(const float (&v)[HELD][WIDE], float (&s)[1][WIDE]) {
#pragma unroll
  for (int j = 0; j < WIDE; j++) {
    s[0][j] = 0;
#pragma unroll
    for (int u = 0; u < HELD; u++) s[0][j] += v[u][j];
  }
}
// v − centre in v's place, and Σ of it and of its squares
__device__ __forceinline__ void centred(float (&v)[HELD][WIDE], const float (&centre)[WIDE], int positions, const Tile& t,
                                        float (&s)[2][WIDE]) {
#pragma unroll
  for (int j = 0; j < WIDE; j++) s[0][j] = s[1][j] = 0;
#pragma unroll
  for (int u = 0; u < HELD; u++) {
    const bool there = t.active && t.row + u * t.rows < positions;
#pragma unroll
    for (int j = 0; j < WIDE; j++) {
      const float d = there ? v[u][j] - centre[j] : 0.0f;
      v[u][j] = d;
      s[0][j] += d;
      s[1][j] += d * d;
    }
  }
}
struct Part {
  Tile t;
  int first, positions, n, split;
  long long at;
};
__device__ __forceinline__ Part part_of(int P, int C, int K, int S, int rows) {
  const int chunks = (C + K - 1) / K, first = blockIdx.x % chunks * K, split = blockIdx.x / chunks % S;
  const int n = blockIdx.x / chunks / S, from = split * rows;
  return {tile_of(min(K, C - first)), first, min(rows, P - from), n, split,
          (static_cast<long long>(n) * P + from) * C + first};
}
// one, two: N,S,C: a tile's mean of each channel, and its sum of squares about that
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) moments(const float* __restrict__ x, double* __restrict__ one, double* __restrict__ two, int P, int C, int K, int S, int rows) {
  __shared__ float room[2 * ROOM];
  __shared__ double channel[2][MOST];
  __align__(16) __shared__ float centre[MOST];
  const Part part = part_of(P, C, K, S, rows);
  const Tile& t = part.t;
  float v[HELD][WIDE], c[WIDE];
  load_tile(x + part.at, C, part.positions, t, v);
  {
    float s[1][WIDE];
    add_up(v, s);
    channel_sums<1>(s, t, room, channel);
  }
#pragma unroll 1
  for (int k = threadIdx.x; k < t.channels; k += THREADS) centre[k] = static_cast<float>(channel[0][k] / part.positions);
  __syncthreads();
  load(centre + t.lane, c);
  float s[2][WIDE];
  centred(v, c, part.positions, t, s);
  channel_sums<2>(s, t, room, channel);
#pragma unroll 1
  for (int k = threadIdx.x; k < t.channels; k += THREADS) {
    const long long i = (static_cast<long long>(part.n) * S + part.split) * C + part.first + k;
    const double e = channel[0][k] / part.positions;
    one[i] = centre[k] + e;
    two[i] = channel[1][k] - channel[0][k] * e;
  }
}
// grid: N · groups
extern "C" __global__ void __launch_bounds__(256) merge(const double* __restrict__ one, const double* __restrict__ two, double* __restrict__ mean, double* __restrict__ rstd, int P, int C, int S, int rows, int width, double eps) {
  __shared__ double slot[32];
  const int groups = C / width, n = blockIdx.x / groups, first = blockIdx.x % groups * width;
  const long long at = static_cast<long long>(n) * S * C + first;
  const double count = static_cast<double>(P) * width;
  double sum = 0;
  for (int i = threadIdx.x; i < S * width; i += 256) {
    const int s = i / width;
    sum += one[at + static_cast<long long>(s) * C + i % width] * min(rows, P - s * rows);
  }
  const double m = block_sum(sum, slot) / count;
  sum = 0;
  for (int i = threadIdx.x; i < S * width; i += 256) {
    const int s = i / width;
    const long long j = at + static_cast<long long>(s) * C + i % width;
    sum += two[j] + (one[j] - m) * (one[j] - m) * min(rows, P - s * rows);
  }
  const double squares = block_sum(sum, slot);
  if (threadIdx.x == 0) {
    mean[blockIdx.x] = m;
    rstd[blockIdx.x] = one_over_root(squares / count, eps);
  }
}
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) apply(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, const double* __restrict__ mean, const double* __restrict__ rstd, float* __restrict__ y, int P, int C, int K, int S, int rows, int width) {
  __align__(16) __shared__ Lines lines;
  const Part part = part_of(P, C, K, S, rows);
  const Tile& t = part.t;
  float v[HELD][WIDE];
  load_tile(x + part.at, C, part.positions, t, v);
  const long long of = static_cast<long long>(part.n) * (C / width);
  const Line l = line_of(lines, mean + of, rstd + of, w, b, part.first, width, t);
#pragma unroll
  for (int u = 0; u < HELD; u++) {
    const int p = t.row + u * t.rows;
    if (t.active && p < part.positions) {
      float out[WIDE];
#pragma unroll
      for (int j = 0; j < WIDE; j++) out[j] = value_out(normed(v[u][j], l, j));
      store(y + part.at + static_cast<long long>(p) * C + t.lane, out);
    }
  }
}
// one, two: N,S,C: a tile's Σ h and Σ h·(x − centre) of each channel
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) pulls(const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, const double* __restrict__ mean, const double* __restrict__ rstd, double* __restrict__ one, double* __restrict__ two, int P, int C, int K, int S, int rows, int width) {
  __shared__ float room[2 * ROOM];
  __shared__ double channel[2][MOST];
  __align__(16) __shared__ Lines lines;
  const Part part = part_of(P, C, K, S, rows);
  const Tile& t = part.t;
  const long long of = static_cast<long long>(part.n) * (C / width);
  float v[HELD][WIDE], s[2][WIDE];
  load_tile(x + part.at, C, part.positions, t, v);
  const Line l = line_of(lines, mean + of, rstd + of, w, b, part.first, width, t);
#pragma unroll
  for (int j = 0; j < WIDE; j++) s[0][j] = s[1][j] = 0;
#pragma unroll
  for (int u = 0; u < HELD; u++) {
    const int p = t.row + u * t.rows;
    if (t.active && p < part.positions) {
      float q[WIDE];
      load(g + part.at + static_cast<long long>(p) * C + t.lane, q);
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        const float h = gradient_in(q[j], normed(v[u][j], l, j));
        s[0][j] += h;
        s[1][j] += h * (v[u][j] - l.centre[j]);
      }
    }
  }
  channel_sums<2>(s, t, room, channel);
#pragma unroll 1
  for (int k = threadIdx.x; k < t.channels; k += THREADS) {
    const long long i = (static_cast<long long>(part.n) * S + part.split) * C + part.first + k;
    one[i] = channel[0][k];
    two[i] = channel[1][k];
  }
}
// gw, gb: N,C, a sample's share; slope, constant: N,groups. grid: N · groups
extern "C" __global__ void __launch_bounds__(256, 1) merge_pulls(const double* __restrict__ one, const double* __restrict__ two, const float* __restrict__ w, const double* __restrict__ mean, const double* __restrict__ rstd, double* __restrict__ gw, double* __restrict__ gb, float* __restrict__ slope, float* __restrict__ constant, int P, int C, int S, int width) {
  __shared__ double share[2][8];
  const int groups = C / width, n = blockIdx.x / groups, first = blockIdx.x % groups * width;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const double r = rstd[blockIdx.x], e = mean[blockIdx.x] - static_cast<float>(mean[blockIdx.x]);
  double c1 = 0, c2 = 0;
  for (int c = first + warp; c < first + width; c += 8) {
    double h = 0, hd = 0;
    for (int s = lane; s < S; s += 32) {
      const long long i = (static_cast<long long>(n) * S + s) * C + c;
      h += one[i];
      hd += two[i];
    }
    h = warp_sum(h);
    hd = r * (warp_sum(hd) - e * h);
    if (lane == 0) {
      gb[static_cast<long long>(n) * C + c] = h;
      gw[static_cast<long long>(n) * C + c] = hd;
    }
    c1 += w[c] * h;
    c2 += w[c] * hd;
  }
  if (lane == 0) {
    share[0][warp] = c1;
    share[1][warp] = c2;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const double count = static_cast<double>(P) * width;
    for (int k = 1; k < 8; k++) {
      c1 += share[0][k];
      c2 += share[1][k];
    }
    const double along = r * r * (c2 / count);
    slope[blockIdx.x] = static_cast<float>(along);
    constant[blockIdx.x] = static_cast<float>(r * (c1 / count) - e * along);
  }
}
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) spread(const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, const double* __restrict__ mean, const double* __restrict__ rstd, const float* __restrict__ slope, const float* __restrict__ constant, float* __restrict__ gx, int P, int C, int K, int S, int rows, int width) {
  __align__(16) __shared__ Lines lines;
  const Part part = part_of(P, C, K, S, rows);
  const Tile& t = part.t;
  const long long of = static_cast<long long>(part.n) * (C / width);
  float v[HELD][WIDE], along[WIDE], level[WIDE];
  load_tile(x + part.at, C, part.positions, t, v);
  const Line l = line_of(lines, mean + of, rstd + of, w, b, part.first, width, t);
#pragma unroll
  for (int j = 0; j < WIDE; j++) {
    along[j] = slope[of + (part.first + t.lane + j) / width];
    level[j] = constant[of + (part.first + t.lane + j) / width];
  }
#pragma unroll
  for (int u = 0; u < HELD; u++) {
    const int p = t.row + u * t.rows;
    if (t.active && p < part.positions) {
      float q[WIDE];
      load(g + part.at + static_cast<long long>(p) * C + t.lane, q);
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        const float h = gradient_in(q[j], normed(v[u][j], l, j));
        q[j] = l.a[j] * h - level[j] - (v[u][j] - l.centre[j]) * along[j];
      }
      store(gx + part.at + static_cast<long long>(p) * C + t.lane, q);
    }
  }
}
