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
// else in i. KEPT: lines are worth their registers.

template <bool ALONG> struct Matrix {                  // (lines, ks) if ALONG, else (ks, lines), rows `pitch` apart
  static constexpr bool KEPT = true;
  static constexpr bool ALONG_K = ALONG;
  using Line = long long;                              // offsets, negative beyond the end
  using Step = long long;
  const real* p;
  int lines, ks;
  long long pitch;
  __device__ __forceinline__ Line line(int i) const { return i < lines ? (ALONG ? i * pitch : i) : -1; }
  __device__ __forceinline__ Step step(int k) const { return k < ks ? (ALONG ? k : k * pitch) : -1; }
  __device__ __forceinline__ bool at(Line l, Step s, const real*& at) const { at = p + (l + s); return (l | s) >= 0; }
};

// What the taps of a window see of an image (n, height, width, pitch), of whose channels `channels` are read, from p on.
// Pixel o = (n, oy, ox) of (…, oh, ow) and tap t = (ty, tx) of (…, across) meet at
// (oy·sy + y0 + ty·dy, ox·sx + x0 + tx·dx); a zero where that is no pixel of the image.
struct Pixel { int at, y, x; };                        // the number and place of the image's pixel that tap (0, 0) sees
struct Tap { const real* p; int at, y, x; };           // the channel in pixel 0; how far from there the tap lies
template <bool PIXELS, bool KEEP = true> struct Window {
  static constexpr bool KEPT = KEEP;
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
    return {(n * height + y) * width + x, o < pixels ? y : FAR, x};
  }
  __device__ __forceinline__ Tap tap(int k) const {
    const int t = by_channels(k), ty = by_across(t), y = ty * dy, x = (t - ty * across) * dx;
    return {p + (k - t * channels), y * width + x, k < taps * channels ? y : FAR, x};
  }
  __device__ __forceinline__ auto line(int i) const { if constexpr (PIXELS) return pixel(i); else return tap(i); }
  __device__ __forceinline__ auto step(int k) const { if constexpr (PIXELS) return tap(k); else return pixel(k); }
  __device__ __forceinline__ bool at(const Pixel& o, const Tap& t, const real*& p) const {
    p = t.p + static_cast<long long>(o.at + t.at) * pitch;
    return static_cast<unsigned>(o.y + t.y) < height && static_cast<unsigned>(o.x + t.x) < width;
  }
  __device__ __forceinline__ bool at(const Tap& t, const Pixel& o, const real*& p) const { return at(o, t, p); }
};

// The weights (kh, kw, lines, pitch), of whose last axis `channels` are read, for the input gradient: k runs over the
// taps first + ty·py + tx·px, ty and tx as in Window, and over the last axis; lines are the axis before it.
struct Turned {
  static constexpr bool KEPT = true;
  static constexpr bool ALONG_K = true;
  using Line = int;                                    // of w's third axis, negative beyond the end
  using Step = long long;
  const real* p;
  int lines, pitch, channels, taps, across, first, py, px;
  Divider by_channels, by_across;
  __device__ __forceinline__ Turned(const real* p, int lines, int pitch, int channels, int taps, int across, int first,
                                    int py, int px)
      : p(p), lines(lines), pitch(pitch), channels(channels), taps(taps), across(across), first(first), py(py), px(px),
        by_channels(channels), by_across(across) {}
  __device__ __forceinline__ Line line(int c) const { return c < lines ? c : -1; }
  __device__ __forceinline__ Step step(int k) const {
    const int t = by_channels(k), ty = by_across(t), tap = first + ty * py + (t - ty * across) * px;
    return k < taps * channels ? static_cast<long long>(tap) * lines * pitch + (k - t * channels) : -1;
  }
  __device__ __forceinline__ bool at(Line l, Step s, const real*& at) const {
    at = p + (static_cast<long long>(l) * pitch + s);
    return l >= 0 && s >= 0;
  }
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
  static constexpr int KEPT = !ALONG ? 1 : V > 1 && Map::KEPT ? COPIES : 0;  // single numbers: too many lines to keep,
  static constexpr int UNROLL = V > 1 ? COPIES : 2;               // and addresses to have at once
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
#pragma unroll UNROLL
      for (int i = 0; i < COPIES; i++) {
        const int line = other + i * APART;
        if constexpr (KEPT > 0) copy(tile + place<ALONG>(line, along), kept[i], step);
        else copy(tile + place<ALONG>(line, along), map.line(first + line), step);
      }
    } else {
#pragma unroll UNROLL
      for (int i = 0; i < COPIES; i++)
        copy(tile + place<ALONG>(along, other + i * APART), kept[0], map.step(k + other + i * APART));
    }
  }
  template <class Line, class Step>
  __device__ __forceinline__ void copy(real* to, const Line& line, const Step& step) const {
    const real* from;
    const bool there = map.at(line, step, from);
    if constexpr (TURNED) {
#pragma unroll 2
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
  // put(row, column, numbers) for runs of numbers of a row
  template <class Put> __device__ __forceinline__ void each(const Put& put) const {
#pragma unroll
    for (int i = 0; i < 4 * H; i++)
#pragma unroll
      for (int j = 0; j < 4 * H; j += 4) {
        const real v[4] = {sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]};
        put(row(i), column(j), v);
      }
  }
};

#if PRECISION > 0
// What the tensor cores take for x: rounded as by to_tf32, but the 13 bits that they do not look at are left as they are.
// cvt.rna is a comparison and a conditional sum in place, so that every operand of a product has to be moved to where the
// product wants it; this is one instruction on sm_90 and two on sm_80. The maximum keeps a NaN that overflows, 0x7fffffff,
// which is every NaN that a GPU computes, a NaN. (0xfffff000 and up, a NaN that nothing computes, would become zero.)
__device__ __forceinline__ unsigned entering_tf32(float x) {
#ifdef HOSTCUDA
  return to_tf32(x);
#else
  unsigned r;
  asm("{ .reg .s32 t; add.s32 t, %1, 4096; max.s32 %0, t, %1; }" : "=r"(r) : "r"(__float_as_uint(x)));
  return r;
#endif
}

// 128 threads: 2 × 2 warps, each a square of TILE / 2, in pieces of 16 × 8, the instruction's. Lane 4 g + q of a warp
// holds rows g of A's pieces and columns g of B's. Which of the tile's they are, and which of a step's k, is free as long
// as A and B agree on k: chosen so that shared memory is read by fours of whichever axis is contiguous.
//     k      q and q + 4 of the instruction are 4 q + 2 i and the next (TF32, i = 0, 1); 2 q … and 2 q + 8 …: 4 q … 4 q + 3
//     line   slot s of S: along k, 8 s + g; across, s % 4 + 4 g + 32 (s / 4)
template <bool A_ALONG_K, bool B_ALONG_K> struct Warps {
  static constexpr int S = TILE / 16;
  float sum[S / 2][S][4] = {};
  static __device__ __forceinline__ int g() { return (threadIdx.x & 31) >> 2; }
  static __device__ __forceinline__ int q() { return threadIdx.x & 3; }
  static __device__ __forceinline__ int down() { return (threadIdx.x >> 6) * (TILE / 2); }          // the warp's first
  static __device__ __forceinline__ int across() { return (threadIdx.x >> 5 & 1) * (TILE / 2); }    // row, and column

  static constexpr int E = PRECISION == 1 ? 4 : 2;     // registers for 4 numbers
  static __device__ __forceinline__ void enter(unsigned (&to)[E], float a, float b, float c, float d) {
    if constexpr (PRECISION == 1) {
      to[0] = entering_tf32(a); to[1] = entering_tf32(b); to[2] = entering_tf32(c); to[3] = entering_tf32(d);
    } else {
      to[0] = to_bf16x2(a, b); to[1] = to_bf16x2(c, d);
    }
  }
  // slots 4 h to 4 h + 3 of an operand, four k each: four loads of four numbers, either way. Beyond the thread's first
  // place, distances are known to the compiler: what place() exchanges are fours within 32 lines, by k / 4.
  template <bool ALONG> static __device__ __forceinline__ void four(unsigned (&to)[4][E], const float* tile, int first, int h) {
    const float* at = tile + place<ALONG>(first + (ALONG ? g() : 4 * g()), 4 * q());
    float4 f[4];
#pragma unroll
    for (int e = 0; e < 4; e++)
      f[e] = *reinterpret_cast<const float4*>(at + (ALONG ? (32 * h + 8 * e) * STEP : 32 * h + e * TILE));
    if constexpr (ALONG) {
#pragma unroll
      for (int s = 0; s < 4; s++) enter(to[s], f[s].x, f[s].y, f[s].z, f[s].w);
    } else {
      enter(to[0], f[0].x, f[1].x, f[2].x, f[3].x);
      enter(to[1], f[0].y, f[1].y, f[2].y, f[3].y);
      enter(to[2], f[0].z, f[1].z, f[2].z, f[3].z);
      enter(to[3], f[0].w, f[1].w, f[2].w, f[3].w);
    }
  }
  template <class A, class B> __device__ __forceinline__ void grow(const float* a, const float* b) {
    unsigned y[S / 4][4][E];
#pragma unroll
    for (int h = 0; h < S / 4; h++) four<B_ALONG_K>(y[h], b, across(), h);
#pragma unroll
    for (int h = 0; h < S / 4; h++) {                  // 32 rows at a time, for the sake of registers
      unsigned x[4][E];
      four<A_ALONG_K>(x, a, down(), h);
#pragma unroll
      for (int e = 0; e < E; e += 2)
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int j = 0; j < S; j++) {
            const unsigned rows[4] = {x[2 * i][e], x[2 * i + 1][e], x[2 * i][e + 1], x[2 * i + 1][e + 1]};
            const unsigned columns[2] = {y[j / 4][j % 4][e], y[j / 4][j % 4][e + 1]};
            if constexpr (PRECISION == 1) mma_tf32(sum[2 * h + i][j], rows, columns);
            else mma_bf16(sum[2 * h + i][j], rows, columns);
          }
    }
  }
  template <class Put> __device__ __forceinline__ void each(const Put& put) const {
#pragma unroll
    for (int s = 0; s < S; s++) {                      // slot s: the upper or lower half of piece s / 2
      const int row = down() + (A_ALONG_K ? 8 * s + g() : 32 * (s / 4) + 4 * g() + s % 4), i = s / 2, e = s % 2 * 2;
      if constexpr (B_ALONG_K) {
#pragma unroll
        for (int j = 0; j < S; j++) {
          const float v[2] = {sum[i][j][e], sum[i][j][e + 1]};
          put(row, across() + 8 * j + 2 * q(), v);
        }
      } else {
#pragma unroll
        for (int j = 0; j < S; j += 4)
#pragma unroll
          for (int c = 0; c < 2; c++) {
            const float v[4] = {sum[i][j][e + c], sum[i][j + 1][e + c], sum[i][j + 2][e + c], sum[i][j + 3][e + c]};
            put(row, across() + 8 * j + 4 * (2 * q() + c), v);
          }
      }
    }
  }
};
template <class A, class B> using Sums = Warps<A::ALONG_K, B::ALONG_K>;
#else
template <class A, class B> using Sums = Ordinary;
#endif

// ---- the block's work

// Writes runs of a row that begins at y[at]: y[at + n] = v + bias[n] + residual[at + n], n < columns.
struct Epilogue {
  real* y;
  const real *bias, *residual;
  int columns, pitch;                                  // of the result, from row to row
  template <int W> __device__ __forceinline__ void operator()(long long at, int n, const real (&v)[W]) const {
    const bool fours = sizeof(real) == 4 && ((columns | pitch) & 3) == 0;   // runs begin at multiples of their length
    if (fours && n < columns) {
      real sum[W];
#pragma unroll
      for (int e = 0; e < W; e++) sum[e] = v[e] + (bias ? bias[n + e] : 0) + (residual ? residual[at + n + e] : 0);
      store(y + at + n, sum);
      return;
    }
#pragma unroll
    for (int e = 0; e < W; e++)
      if (n + e < columns) y[at + n + e] = v[e] + (bias ? bias[n + e] : 0) + (residual ? residual[at + n + e] : 0);
  }
  static __device__ __forceinline__ void store(float* p, const float (&v)[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  }
  static __device__ __forceinline__ void store(float* p, const float (&v)[2]) {
    *reinterpret_cast<float2*>(p) = make_float2(v[0], v[1]);
  }
  static __device__ __forceinline__ void store(double* p, const double (&v)[4]) {
    for (int e = 0; e < 4; e++) p[e] = v[e];
  }
};

template <class Where> struct Inside {                 // the numbers of a tile that are numbers of C
  const Epilogue& out;
  const Where& where;
  int m0, n0, rows;
  template <int W> __device__ __forceinline__ void operator()(int m, int n, const real (&v)[W]) const {
    if (m0 + m < rows) out(where(m0 + m), n0 + n, v);
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
  Sums<A, B> sums;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) bring(s);
  for (int s = 0; s < steps; s++) {
    copy_wait<STAGES - 2>();
    __syncthreads();                                   // step s is there, and nobody reads s - 1 any more
    bring(s + STAGES - 1);
    const real* at = shared + s % STAGES * 2 * AREA;
    sums.template grow<A, B>(at, at + AREA);
  }
  sums.each(Inside<Where>{out, where, m0, n0, rows});
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
