// The three passes of a convolution as tiles of a product whose left factor is never written down (tile.cuh), and as
// plain sums for groups too narrow for tiles. README.md has the index maps and draws the tiles.
//
// x (N, H, W, C), w (kh, kw, C/groups, F), y and g (N, OH, OW, F). Blocks of the tiled kernels: x over groups (and
// phases), rows and columns of tiles, columns fastest; y over slices of k, each with a result of its own, `part` apart.
#include "tile.cuh"

// y = conv(x, w) + bias + residual: M = N·OH·OW pixels, N = F, K = kh·kw·C.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_forward(const real* __restrict__ x,
    const real* __restrict__ w, const real* __restrict__ bias, const real* __restrict__ residual, real* __restrict__ y,
    int N, int H, int W, int C, int F, int kh, int kw, int OH, int OW, int groups, int sh, int sw, int top, int left,
    int dh, int dw, long long part) {
  const int c = C / groups, f = F / groups, M = N * OH * OW, K = kh * kw * c;
  const int across = (f + TILE - 1) / TILE, down = (M + TILE - 1) / TILE;
  const int tile = blockIdx.x % (across * down), n0 = tile % across * TILE, m0 = tile / across * TILE;
  const int group = blockIdx.x / (across * down), f0 = group * f;
  const Window<true> A(x + group * c, H, W, C, c, M, kh * kw, OH, OW, kw, sh, sw, -top, -left, dh, dw);
  const Matrix<false> B{w + f0, f, K, F};
  const Epilogue out{y, bias ? bias + f0 : nullptr, residual, f, F};
  product(A, B, out, [&](int m) { return blockIdx.y * part + static_cast<long long>(m) * F + f0; }, m0, n0, M, K);
}

// Of one axis of the input gradient: the pixels i = phase + stride·a hear from the outputs o = a + origin + t·apart by
// the taps first + t·period, t < taps (README, "The stride's phases").
struct Phase {
  int first, period, taps, origin, apart, size;
  __device__ __forceinline__ Phase(int phase, int length, int kernel, int stride, int dilation, int before) {
    int a = stride, b = dilation;
    while (b) { const int r = a % b; a = b; b = r; }   // a: their greatest common divisor
    period = stride / a;
    first = 0;
    while (first < period && (phase + before - first * dilation) % stride) first++;
    taps = first < period && first < kernel ? (kernel - 1 - first) / period + 1 : 0;
    origin = (phase + before - first * dilation) / stride;
    apart = -(dilation / a);
    size = phase < length ? (length - 1 - phase) / stride + 1 : 0;
  }
};

// gx = the adjoint of conv in x, of g, + bias: a convolution of step 1 for each of the sh·sw phases of the pixels of gx.
// M = pixels of the phase, N = C, K = its taps · F.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_input_grad(const real* __restrict__ g,
    const real* __restrict__ w, const real* __restrict__ bias, const real* __restrict__ residual, real* __restrict__ gx,
    int N, int H, int W, int C, int F, int kh, int kw, int OH, int OW, int groups, int sh, int sw, int top, int left,
    int dh, int dw, long long part) {
  const int c = C / groups, f = F / groups;
  const int most = N * ((H + sh - 1) / sh) * ((W + sw - 1) / sw);
  const int across = (c + TILE - 1) / TILE, down = (most + TILE - 1) / TILE;
  int block = blockIdx.x;
  const int n0 = block % across * TILE; block /= across;
  const int m0 = block % down * TILE; block /= down;
  const int phase = block % (sh * sw), group = block / (sh * sw), py = phase / sw, px = phase % sw;
  const Phase v(py, H, kh, sh, dh, top), u(px, W, kw, sw, dw, left);
  const int M = N * v.size * u.size, taps = v.taps * u.taps, K = taps * f;
  if (m0 >= M) return;
  const int columns = u.taps > 0 ? u.taps : 1;
  const Window<true, TENSOR> A(g + group * f, OH, OW, F, f, M, taps, v.size, u.size, columns, 1, 1, v.origin, u.origin, v.apart,
                       u.apart);
  const Turned B(w + group * f, c, F, f, taps, columns, v.first * kw + u.first, v.period * kw, u.period);
  __shared__ long long row[TILE];                      // of gx, for the tile's pixels: not to be kept in registers
  if (threadIdx.x < TILE) {
    const int m = m0 + threadIdx.x, line = A.by_ow(m), n = A.by_oh(line);
    const int i = py + sh * (line - n * v.size), j = px + sw * (m - line * u.size);
    row[threadIdx.x] = blockIdx.y * part + ((static_cast<long long>(n) * H + i) * W + j) * C + group * c;
  }
  __syncthreads();
  const Epilogue out{gx, bias ? bias + group * c : nullptr, residual, c, C};
  product(A, B, out, [&](int m) { return row[m - m0]; }, m0, n0, M, K);
}

// gw = the adjoint of conv in w: M = kh·kw·C, N = F, K = N·OH·OW pixels.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_weight_grad(const real* __restrict__ x,
    const real* __restrict__ g, real* __restrict__ gw, int N, int H, int W, int C, int F, int kh, int kw, int OH, int OW,
    int groups, int sh, int sw, int top, int left, int dh, int dw, long long part) {
  const int c = C / groups, f = F / groups, M = kh * kw * c, K = N * OH * OW;
  const int across = (f + TILE - 1) / TILE, down = (M + TILE - 1) / TILE;
  const int tile = blockIdx.x % (across * down), n0 = tile % across * TILE, m0 = tile / across * TILE;
  const int group = blockIdx.x / (across * down), f0 = group * f;
  const Window<false> A(x + group * c, H, W, C, c, K, kh * kw, OH, OW, kw, sh, sw, -top, -left, dh, dw);
  const Matrix<false> B{g + f0, f, K, F};
  const Epilogue out{gw, nullptr, nullptr, f, F};
  product(A, B, out, [&](int m) { return blockIdx.y * part + static_cast<long long>(m) * F + f0; }, m0, n0, M, K);
}

// ---- plain sums, a thread for each result: depthwise, and other groups of a few channels

// Which line of `channels` numbers, and which of them, is this thread's: 256 a block, by divisions of 32 bits.
struct Mine {
  int line, channel;
  __device__ __forceinline__ explicit Mine(int channels) {
    const unsigned lap = blockIdx.x / channels, i = blockIdx.x % channels * 256 + threadIdx.x;
    line = lap * 256 + i / channels;
    channel = i % channels;
  }
};

__device__ __forceinline__ real entered(real v) {      // a factor as the tensor cores would see it
#if PRECISION == 1
  return __uint_as_float(to_tf32(v));
#elif PRECISION == 2
  return __uint_as_float(to_bf16x2(v, 0.0f) << 16);
#else
  return v;
#endif
}

extern "C" __global__ void __launch_bounds__(256, 4) direct_forward(const real* __restrict__ x, const real* __restrict__ w,
    const real* __restrict__ bias, const real* __restrict__ residual, real* __restrict__ y, int N, int H, int W, int C,
    int F, int kh, int kw, int OH, int OW, int groups, int sh, int sw, int top, int left, int dh, int dw) {
  const Mine mine(F);
  if (mine.line >= N * OH * OW) return;
  const int f = mine.channel, c = C / groups, c0 = f / (F / groups) * c, ox = mine.line % OW, oy = mine.line / OW % OH;
  const long long n = mine.line / OW / OH, at = static_cast<long long>(mine.line) * F + f;
  real s = 0;
  for (int ky = 0; ky < kh; ky++) {
    const int iy = oy * sh + ky * dh - top;
    if (iy < 0 || iy >= H) continue;
    for (int kx = 0; kx < kw; kx++) {
      const int ix = ox * sw + kx * dw - left;
      if (ix < 0 || ix >= W) continue;
      const real *seen = x + ((n * H + iy) * W + ix) * C + c0, *weight = w + static_cast<long long>(ky * kw + kx) * c * F + f;
      for (int i = 0; i < c; i++) s += entered(seen[i]) * entered(weight[static_cast<long long>(i) * F]);
    }
  }
  if (bias) s += bias[f];
  if (residual) s += residual[at];
  y[at] = s;
}

extern "C" __global__ void __launch_bounds__(256, 4) direct_input_grad(const real* __restrict__ g, const real* __restrict__ w,
    const real* __restrict__ bias, const real* __restrict__ residual, real* __restrict__ gx, int N, int H, int W, int C,
    int F, int kh, int kw, int OH, int OW, int groups, int sh, int sw, int top, int left, int dh, int dw) {
  const Mine mine(C);
  if (mine.line >= N * H * W) return;
  const int channel = mine.channel, c = C / groups, f = F / groups, f0 = channel / c * f, ix = mine.line % W;
  const int iy = mine.line / W % H;
  const long long n = mine.line / W / H, at = static_cast<long long>(mine.line) * C + channel;
  real s = 0;
  for (int ky = 0; ky < kh; ky++) {
    const int oy = iy + top - ky * dh;
    if (oy < 0 || oy % sh || oy / sh >= OH) continue;
    for (int kx = 0; kx < kw; kx++) {
      const int ox = ix + left - kx * dw;
      if (ox < 0 || ox % sw || ox / sw >= OW) continue;
      const real *seen = g + ((n * OH + oy / sh) * OW + ox / sw) * F + f0;
      const real *weight = w + (static_cast<long long>(ky * kw + kx) * c + channel % c) * F + f0;
      for (int i = 0; i < f; i++) s += entered(seen[i]) * entered(weight[i]);
    }
  }
  if (bias) s += bias[channel];
  if (residual) s += residual[at];
  gx[at] = s;
}

// Blocks: x over the weights, y over slices of the lines (n, oy) of g.
extern "C" __global__ void __launch_bounds__(256, 4) direct_weight_grad(const real* __restrict__ x, const real* __restrict__ g,
    real* __restrict__ gw, int N, int H, int W, int C, int F, int kh, int kw, int OH, int OW, int groups, int sh, int sw,
    int top, int left, int dh, int dw, long long part) {
  const Mine mine(F);
  const int c = C / groups, f = mine.channel, channel = f / (F / groups) * c + mine.line % c;
  const int kx = mine.line / c % kw, ky = mine.line / c / kw;
  if (ky >= kh) return;
  const int share = (N * OH + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * share, end = min(begin + share, N * OH);
  real s = 0;
  for (int line = begin; line < end; line++) {
    const int iy = line % OH * sh + ky * dh - top;
    if (iy < 0 || iy >= H) continue;
    const real* seen = x + (static_cast<long long>(line / OH) * H + iy) * W * C + channel;
    const real* by = g + static_cast<long long>(line) * OW * F + f;
    for (int ox = 0; ox < OW; ox++) {
      const int ix = ox * sw + kx * dw - left;
      if (ix >= 0 && ix < W) s += entered(seen[static_cast<long long>(ix) * C]) * entered(by[static_cast<long long>(ox) * F]);
    }
  }
  gw[blockIdx.y * part + static_cast<long long>(mine.line) * F + f] = s;
}
