// A product of matrices, C = A B: a block of threads computes one TILE × TILE piece of C, STEP columns of A and rows of
// B at a time, through shared memory, STAGES steps ahead of itself. What A, B and C *are* is said by maps from indices
// to addresses; four of them make a matrix product and the three passes of a convolution (drawn in gemm/README.md):
//
//     pass              A[m, k]                            B[k, n]                        C[m, n]
//     product           Matrix   rows of a                 Matrix  columns of b           rows
//     conv forward      Window   m: pixels, k: taps of x   Matrix  rows of w              rows of y
//     conv input grad   Window   m: pixels, k: taps of g   Turned  w, f along k           pixels of gx, one phase
//     conv weight grad  Window   m: taps, k: pixels of x   Matrix  rows of g              rows of gw
//
// Defines choose a build: TILE 128 or 64; PRECISION 0 (REAL on the ordinary cores), 1 (TF32) or 2 (bfloat16: both on
// the tensor cores); VA, VB: numbers of A and of B that one copy moves, 4 where memory is contiguous by fours, else 1.
#include "common.cuh"

#ifndef REAL
#define REAL float
#endif
#ifndef TILE
#define TILE 64
#endif
#ifndef PRECISION
#define PRECISION 0
#endif
#ifndef VA
#define VA 1
#endif
#ifndef VB
#define VB 1
#endif
typedef REAL real;

constexpr bool TENSOR = PRECISION > 0;
constexpr int THREADS = TENSOR ? 128 : 256;
constexpr int BLOCKS = 2;                              // that share a multiprocessor: 255 registers a thread, or 128
constexpr int STEP = TENSOR || TILE == 64 ? 16 : 8;
constexpr int STAGES = 4;
constexpr int PAD = TENSOR ? 0 : 4;
constexpr int AREA = STEP * (TILE + PAD);              // numbers of shared memory for an operand of a step
constexpr int FAR = 1 << 29;                           // a coordinate that no image has

// n / d for 0 <= n < 2³¹, by a multiplication (Granlund & Montgomery 1994, fig. 4.1).
struct Divider {
  unsigned d, magic, shift;
  __device__ __forceinline__ explicit Divider(int by) : d(by), shift(0) {
    while ((1ull << shift) < d) shift++;
    magic = static_cast<unsigned>(((1ull << 32) * ((1ull << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ int operator()(int n) const {
    return static_cast<int>((__umulhi(n, magic) + static_cast<unsigned>(n)) >> shift);
  }
};

// ---- maps. line(i): what is known of row i of A, or column i of B, before the loop; step(k): of k; at(line, step, p):
// whether they have a number in memory, or a zero; p is its address. ALONG_K: neighbours in memory are neighbours in k,
// else in i.

template <bool ALONG> struct Matrix {                  // (lines, ks) if ALONG, else (ks, lines), rows `pitch` apart
  static constexpr bool ALONG_K = ALONG;
  using Line = const real*;
  using Step = long long;
  const real* p;
  int lines, ks;
  long long pitch;
  __device__ __forceinline__ Line line(int i) const { return i < lines ? p + (ALONG ? i * pitch : i) : nullptr; }
  __device__ __forceinline__ Step step(int k) const { return k < ks ? (ALONG ? k : k * pitch) : -1; }
  __device__ __forceinline__ bool at(Line l, Step s, const real*& p) const { p = l + s; return l && s >= 0; }
};

// What the taps of a window see of an image (n, height, width, pitch), of whose channels `channels` are read, from p on.
// Pixel o = (n, oy, ox) of (…, oh, ow) and tap t = (ty, tx) of (…, across) meet at
// (oy·sy + y0 + ty·dy, ox·sx + x0 + tx·dx); a zero where that is no pixel of the image.
struct Pixel { const real* p; int y, x; };             // what tap (0, 0) sees
struct Tap { int y, x; long long offset; };            // how far from there a tap and channel lie
template <bool PIXELS> struct Window {
  static constexpr bool ALONG_K = PIXELS;              // channels are contiguous, and count as a part of the tap
  const real* p;
  int height, width, pitch, channels, pixels, taps, oh, ow, across, sy, sx, y0, x0, dy, dx;
  Divider by_ow, by_oh, by_channels, by_across;
  __device__ __forceinline__ Window(const real* p, int height, int width, int pitch, int channels, int pixels, int taps,
                                    int oh, int ow, int across, int sy, int sx, int y0, int x0, int dy, int dx)
      : p(p), height(height), width(width), pitch(pitch), channels(channels), pixels(pixels), taps(taps), oh(oh), ow(ow),
        across(across), sy(sy), sx(sx), y0(y0), x0(x0), dy(dy), dx(dx),
        by_ow(ow), by_oh(oh), by_channels(channels), by_across(across) {}
  __device__ __forceinline__ Pixel pixel(int o) const {
    const int row = by_ow(o), n = by_oh(row);
    const int y = (row - n * oh) * sy + y0, x = (o - row * ow) * sx + x0;
    return {p + ((static_cast<long long>(n) * height + y) * width + x) * pitch, o < pixels ? y : FAR, x};
  }
  __device__ __forceinline__ Tap tap(int k) const {
    const int t = by_channels(k), ty = by_across(t), y = ty * dy, x = (t - ty * across) * dx;
    return {k < taps * channels ? y : FAR, x, (static_cast<long long>(y) * width + x) * pitch + (k - t * channels)};
  }
  __device__ __forceinline__ auto line(int i) const { if constexpr (PIXELS) return pixel(i); else return tap(i); }
  __device__ __forceinline__ auto step(int k) const { if constexpr (PIXELS) return tap(k); else return pixel(k); }
  __device__ __forceinline__ bool at(const Pixel& o, const Tap& t, const real*& p) const {
    p = o.p + t.offset;
    return static_cast<unsigned>(o.y + t.y) < height && static_cast<unsigned>(o.x + t.x) < width;
  }
  __device__ __forceinline__ bool at(const Tap& t, const Pixel& o, const real*& p) const { return at(o, t, p); }
};

// The weights (kh, kw, lines, pitch), of whose last axis `channels` are read, for the input gradient: k runs over the
// taps first + ty·py + tx·px, ty and tx as in Window, and over the last axis; lines are the axis before it.
struct Turned {
  static constexpr bool ALONG_K = true;
  using Line = const real*;
  using Step = long long;
  const real* p;
  int lines, pitch, channels, taps, across, first, py, px;
  Divider by_channels, by_across;
  __device__ __forceinline__ Turned(const real* p, int lines, int pitch, int channels, int taps, int across, int first,
                                    int py, int px)
      : p(p), lines(lines), pitch(pitch), channels(channels), taps(taps), across(across), first(first), py(py), px(px),
        by_channels(channels), by_across(across) {}
  __device__ __forceinline__ Line line(int c) const { return c < lines ? p + static_cast<long long>(c) * pitch : nullptr; }
  __device__ __forceinline__ Step step(int k) const {
    const int t = by_channels(k), ty = by_across(t), tap = first + ty * py + (t - ty * across) * px;
    return k < taps * channels ? static_cast<long long>(tap) * lines * pitch + (k - t * channels) : -1;
  }
  __device__ __forceinline__ bool at(Line l, Step s, const real*& p) const { p = l + s; return l && s >= 0; }
};

// ---- shared memory. Where number (line, k) of an operand lies, so that nobody waits for a bank (gemm/README.md).

template <bool ALONG> __device__ __forceinline__ int place(int line, int k) {
  if constexpr (!TENSOR) return k * (TILE + PAD) + line;
  else if constexpr (ALONG) return line * STEP + k;
  else return k * TILE + (((line >> 2) ^ (k >> 2 << 1)) << 2 | (line & 3));
}

// Brings steps of an operand. A thread keeps to one place along the contiguous axis and goes through the other: along k
// it meets one k and several lines, whose decoding is kept from step to step; across, one line and several k.
template <class Map, int V> struct Copier {
  static constexpr bool ALONG = Map::ALONG_K;
  static constexpr bool TURNED = ALONG && !TENSOR;     // the ordinary cores want k outermost: copied number by number
  static constexpr int RUN = (ALONG ? STEP : TILE) / V, APART = THREADS / RUN, COPIES = TILE * STEP / V / THREADS;
  static constexpr int KEPT = !ALONG ? 1 : V > 1 ? COPIES : 0;    // single numbers: too many lines to keep
  static_assert(COPIES * V * THREADS == TILE * STEP, "every thread copies as much");
  const Map& map;
  const int first, along, other;
  decltype(map.line(0)) kept[KEPT ? KEPT : 1];

  __device__ __forceinline__ Copier(const Map& map, int first)
      : map(map), first(first), along(threadIdx.x % RUN * V), other(threadIdx.x / RUN) {
#pragma unroll
    for (int i = 0; i < KEPT; i++) kept[i] = map.line(first + (ALONG ? other + i * APART : along));
  }
  __device__ __forceinline__ void operator()(real* tile, int k) const {
    if constexpr (ALONG) {
      const auto step = map.step(k + along);
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const int line = other + i * APART;
        if constexpr (KEPT > 0) copy(tile + place<ALONG>(line, along), kept[i], step);
        else copy(tile + place<ALONG>(line, along), map.line(first + line), step);
      }
    } else {
#pragma unroll
      for (int i = 0; i < COPIES; i++)
        copy(tile + place<ALONG>(along, other + i * APART), kept[0], map.step(k + other + i * APART));
    }
  }
  template <class Line, class Step>
  __device__ __forceinline__ void copy(real* to, const Line& line, const Step& step) const {
    const real* from;
    const bool there = map.at(line, step, from);
    if constexpr (TURNED) {
#pragma unroll
      for (int e = 0; e < V; e++) copy_async<static_cast<int>(sizeof(real))>(to + e * (TILE + PAD), from + e, there);
    } else {
      copy_async<V * static_cast<int>(sizeof(real))>(to, from, there);
    }
  }
};

// ---- the sums that a thread keeps: which rows and columns, and how they grow by a step

struct Ordinary {   // 256 threads; a thread has 4 rows and 4 columns of each TILE / 64 halves, a warp 4 × 8 such threads
  static constexpr int H = TILE / 64;
  real sum[4 * H][4 * H] = {};
  __device__ __forceinline__ int row(int i) const {
    return (threadIdx.x >> 6) * 16 + ((threadIdx.x & 31) >> 3) * 4 + (i & 3) + (i >> 2) * 64;
  }
  __device__ __forceinline__ int column(int j) const {
    return (threadIdx.x >> 5 & 1) * 32 + (threadIdx.x & 7) * 4 + (j & 3) + (j >> 2) * 64;
  }
  template <class A, class B> __device__ __forceinline__ void grow(const real* a, const real* b) {
#pragma unroll
    for (int k = 0; k < STEP; k++) {
      real u[4 * H], v[4 * H];
#pragma unroll
      for (int h = 0; h < H; h++) {
        four(u + 4 * h, a + place<A::ALONG_K>(row(4 * h), k));
        four(v + 4 * h, b + place<B::ALONG_K>(column(4 * h), k));
      }
#pragma unroll
      for (int i = 0; i < 4 * H; i++)
#pragma unroll
        for (int j = 0; j < 4 * H; j++) sum[i][j] += u[i] * v[j];
    }
  }
  static __device__ __forceinline__ void four(float* v, const float* p) {
    const float4 f = *reinterpret_cast<const float4*>(p);
    v[0] = f.x; v[1] = f.y; v[2] = f.z; v[3] = f.w;
  }
  static __device__ __forceinline__ void four(double* v, const double* p) {
    const double2 lo = reinterpret_cast<const double2*>(p)[0], hi = reinterpret_cast<const double2*>(p)[1];
    v[0] = lo.x; v[1] = lo.y; v[2] = hi.x; v[3] = hi.y;
  }
  // put(row, column, numbers) for runs of 4 numbers of a row
  template <class Put> __device__ __forceinline__ void each(const Put& put) const {
#pragma unroll
    for (int i = 0; i < 4 * H; i++)
#pragma unroll
      for (int j = 0; j < 4 * H; j += 4) put(row(i), column(j), sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]);
  }
};

// ---- the block's work

// Adds to the result's address what belongs to it and writes it: y[at + n] = v + bias[n] + residual[at + n].
struct Epilogue {
  real* y;
  const real *bias, *residual;
  int columns;
  bool fours;                                          // rows begin, and end, at multiples of four numbers
  __device__ __forceinline__ Epilogue(real* y, const real* bias, const real* residual, int columns, long long pitch)
      : y(y), bias(bias), residual(residual), columns(columns), fours(sizeof(real) == 4 && columns % 4 == 0 && pitch % 4 == 0) {}
  __device__ __forceinline__ void one(long long at, int n, real v) const {
    if (n >= columns) return;
    if (bias) v += bias[n];
    if (residual) v += residual[at + n];
    y[at + n] = v;
  }
  __device__ __forceinline__ void four(long long at, int n, real a, real b, real c, real d) const {
    if constexpr (sizeof(real) == 4) if (fours) {
      if (n >= columns) return;
      if (bias) { a += bias[n]; b += bias[n + 1]; c += bias[n + 2]; d += bias[n + 3]; }
      if (residual) {
        const float4 r = *reinterpret_cast<const float4*>(residual + at + n);
        a += r.x; b += r.y; c += r.z; d += r.w;
      }
      *reinterpret_cast<float4*>(y + at + n) = make_float4(a, b, c, d);
      return;
    }
    one(at, n, a); one(at, n + 1, b); one(at, n + 2, c); one(at, n + 3, d);
  }
};

// The tile of C at (m0, n0), of `rows` rows, K long: this slice's share of k (blockIdx.y of gridDim.y). where(m): the
// offset of row m in y.
template <class A, class B, class Where>
__device__ __forceinline__ void product(const A& a, const B& b, const Epilogue& out, const Where& where, int m0, int n0,
                                        int rows, int K) {
  DYNAMIC_SHARED(real, shared);
  const int all = (K + STEP - 1) / STEP, share = (all + gridDim.y - 1) / gridDim.y;
  const int begin = blockIdx.y * share, steps = min(share, all - begin);  // may be none for the last slices
  const Copier<A, VA> bring_a(a, m0);
  const Copier<B, VB> bring_b(b, n0);
  auto bring = [&](int s) {
    if (s < steps) {
      real* at = shared + s % STAGES * 2 * AREA;
      bring_a(at, (begin + s) * STEP);
      bring_b(at + AREA, (begin + s) * STEP);
    }
    copy_commit();                                     // empty at the end: the count of groups stays that of steps
  };
  Ordinary sums;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) bring(s);
  for (int s = 0; s < steps; s++) {
    copy_wait<STAGES - 2>();
    __syncthreads();                                   // step s is there, and nobody reads s - 1 any more
    bring(s + STAGES - 1);
    const real* at = shared + s % STAGES * 2 * AREA;
    sums.template grow<A, B>(at, at + AREA);
  }
  sums.each([&](int m, int n, auto... v) {
    if (m0 + m >= rows) return;
    out.four(where(m0 + m), n0 + n, v...);
  });
}

// y[i] = Σ_s parts[s, i] in order, + bias + residual: the end of a product that was computed in slices of k. i runs
// over rows of `columns` numbers.
extern "C" __global__ void __launch_bounds__(256) sum_slices(const real* __restrict__ parts, const real* __restrict__ bias,
    const real* __restrict__ residual, real* __restrict__ y, long long size, int columns, int slices) {
  const long long i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= size) return;
  real v = 0;
  for (int s = 0; s < slices; s++) v += parts[s * size + i];
  if (bias) v += bias[i % columns];
  if (residual) v += residual[i];
  y[i] = v;
}
