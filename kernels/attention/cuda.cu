// Attention, forward and backward, a tile of scores at a time: README.md. A block owns 64 rows (queries, or keys) and
// streams the other side's rows past them in tiles of OTHER, copied while the tile before is worked on.
// What is compiled in, and how tiles lie, are multiplied, copied and written: tile.cuh.
#include "tile.cuh"
constexpr float LOG2E = 1.4426950408889634f;

// Which pairs are visible: those inside, under `causal` with key ≤ query + Tk − Tq, and where the mask says so.
struct Sight {
  const unsigned char* mask;   // of this matrix, or null
  long long mi, mj;
  int Tq, Tk, causal;
  __device__ __forceinline__ bool sees(int i, int j) const {
    return i < Tq && j < Tk && (!causal || j <= i + (Tk - Tq)) && (!mask || mask[i * mi + j * mj]);
  }
  // all pairs of queries [i, i + I) and keys [j, j + J)
  __device__ __forceinline__ bool all(int i, int I, int j, int J) const {
    return !mask && i + I <= Tq && j + J <= Tk && (!causal || j + J - 1 <= i + (Tk - Tq));
  }
  __device__ __forceinline__ int keys(int i) const {   // how many keys the queries before i may see
    const int n = causal ? i + (Tk - Tq) : Tk;
    return n < 0 ? 0 : n < Tk ? n : Tk;
  }
};
#define SIGHT const Sight sight{mask ? mask + b / heads * mn + b % heads * mh : mask, mi, mj, Tq, Tk, causal}

// y (B, Tq, dv) and lse (B, Tq), natural, +inf where a query sees nothing. scale2 = scale·log₂e. Blocks: tiles of
// queries, the last (which sees most) first, of one matrix after the other.
extern "C" __global__ void __launch_bounds__(THREADS, 2) forward(
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const unsigned char* __restrict__ mask, long long mn, long long mh, long long mi, long long mj,
    float* __restrict__ y, double* __restrict__ lse, int heads, int Tq, int Tk, int d, int dv, int causal,
    float scale2) {
  DYNAMIC_SHARED(float, shared);
  float* Q = shared;
  float* K = Q + OWN * D;              // 2 tiles
  float* V = K + 2 * OTHER * D;        // 2 tiles
  float* room = V + 2 * OTHER * D;
  const int tiles = (Tq + OWN - 1) / OWN, i0 = (tiles - 1 - int(blockIdx.x % tiles)) * OWN;
  const long long b = blockIdx.x / tiles;
  SIGHT;
  q += (b * Tq + i0) * d; k += b * Tk * d; v += b * Tk * dv; y += (b * Tq + i0) * dv;
  const int keys = sight.keys(i0 + OWN < Tq ? i0 + OWN : Tq);

  fetch<OWN>(Q, q, Tq - i0, d);
  if (keys > 0) { fetch<OTHER>(K, k, Tk, d); fetch<OTHER>(V, v, Tk, dv); }
  copy_commit();
  Tile<D> o;
  clear(o);
  float top[ROWS], total[ROWS];   // of the row's scores in log₂; of this thread's columns
#pragma unroll
  for (int i = 0; i < ROWS; i++) { top[i] = -INFINITY; total[i] = 0.f; }
  for (int j0 = 0, now = 0; j0 < keys; j0 += OTHER, now ^= 1) {
    const int next = j0 + OTHER;
    if (next < keys) {
      fetch<OTHER>(K + (now ^ 1) * OTHER * D, k + (long long)next * d, Tk - next, d);
      fetch<OTHER>(V + (now ^ 1) * OTHER * D, v + (long long)next * dv, Tk - next, dv);
    }
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    Tile<OTHER> s;
    scores(s, Q, K + now * OTHER * D);
    const bool whole = sight.all(i0, OWN, j0, OTHER);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      float most = top[i];
#pragma unroll
      for (int j = 0; j < Tile<OTHER>::COLS; j++) {
        float t = s.at(i, j) * scale2;
        if (!whole && !sight.sees(i0 + row_of(i), j0 + score_col(j))) t = -INFINITY;
        s.at(i, j) = t;
        most = t > most ? t : most;
      }
      most = row_max(most);
      const float less = most == -INFINITY ? 0.f : most;   // nothing seen yet: e^(−inf − 0) = 0
      const float fade = exp2f(top[i] - less);
      top[i] = most;
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < Tile<OTHER>::COLS; j++) {
        s.at(i, j) = exp2f(s.at(i, j) - less);
        sum += s.at(i, j);
      }
      total[i] = total[i] * fade + sum;
#pragma unroll
      for (int j = 0; j < Tile<D>::COLS; j++) o.at(i, j) *= fade;
    }
    accumulate(o, s, V + now * OTHER * D, room);
    __syncthreads();   // before the tile is written over
  }
  copy_wait<0>();
  float inverse[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const float all = row_sum(total[i]);
    inverse[i] = all == 0.f ? 0.f : 1.f / all;
    const int row = i0 + row_of(i);
    if (row < Tq && lane_x() == 0)
      lse[b * Tq + row] = all == 0.f ? double(INFINITY) : (double(top[i]) + log2(double(all))) * 0.6931471805599453;
  }
  write(y, o, Tq - i0, dv, inverse);
}

// δ (rows,) = Σ g·y over dv, a warp a row.
extern "C" __global__ void __launch_bounds__(128) row_products(
    const float* __restrict__ g, const float* __restrict__ y, float* __restrict__ delta, long long rows, int dv) {
  const long long r = (long long)blockIdx.x * 4 + (threadIdx.x >> 5);
  if (r >= rows) return;
  float s = 0.f;
  for (int c = threadIdx.x & 31; c < dv; c += 32) s += g[r * dv + c] * y[r * dv + c];
  s = warp_sum(s);
  if ((threadIdx.x & 31) == 0) delta[r] = s;
}

// A log-sum-exp in log₂ as two floats: scores of thousands would leave too few digits in one. +inf for what is not
// there.
struct Level { float high, low; };
__device__ __forceinline__ Level level(const double* lse, bool there) {
  const double x = there ? *lse * 1.4426950408889634 : double(INFINITY);
  const float high = float(x);
  return {high, fabsf(high) < INFINITY ? float(x - double(high)) : 0.f};
}

// gq (B, Tq, d): a block has 64 queries, and makes their probabilities again from a tile of keys after the other.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backward_queries(
    const float* __restrict__ g, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const unsigned char* __restrict__ mask, long long mn, long long mh, long long mi, long long mj,
    const double* __restrict__ lse, const float* __restrict__ delta, float* __restrict__ gq, int heads, int Tq, int Tk,
    int d, int dv, int causal, float scale) {
  DYNAMIC_SHARED(float, shared);
  float* Q = shared;
  float* G = Q + OWN * D;
  float* K = G + OWN * D;              // 2 tiles
  float* V = K + 2 * OTHER * D;        // 2 tiles
  float* room = V + 2 * OTHER * D;
  const int tiles = (Tq + OWN - 1) / OWN, i0 = (tiles - 1 - int(blockIdx.x % tiles)) * OWN;
  const long long b = blockIdx.x / tiles;
  SIGHT;
  g += (b * Tq + i0) * dv; q += (b * Tq + i0) * d; k += b * Tk * d; v += b * Tk * dv; gq += (b * Tq + i0) * d;
  const int keys = sight.keys(i0 + OWN < Tq ? i0 + OWN : Tq);
  const float scale2 = scale * LOG2E;

  fetch<OWN>(Q, q, Tq - i0, d);
  fetch<OWN>(G, g, Tq - i0, dv);
  if (keys > 0) { fetch<OTHER>(K, k, Tk, d); fetch<OTHER>(V, v, Tk, dv); }
  copy_commit();
  Level at[ROWS];
  float mine[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const int row = i0 + row_of(i);
    const long long r = row < Tq ? b * Tq + row : 0;
    at[i] = level(lse + r, row < Tq);
    mine[i] = delta[r];
  }
  Tile<D> o;
  clear(o);
  for (int j0 = 0, now = 0; j0 < keys; j0 += OTHER, now ^= 1) {
    const int next = j0 + OTHER;
    if (next < keys) {
      fetch<OTHER>(K + (now ^ 1) * OTHER * D, k + (long long)next * d, Tk - next, d);
      fetch<OTHER>(V + (now ^ 1) * OTHER * D, v + (long long)next * dv, Tk - next, dv);
    }
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    Tile<OTHER> s, p;
    scores(s, Q, K + now * OTHER * D);
    scores(p, G, V + now * OTHER * D);
    const bool whole = sight.all(i0, OWN, j0, OTHER);
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int j = 0; j < Tile<OTHER>::COLS; j++) {
        const float e = exp2f((s.at(i, j) * scale2 - at[i].high) - at[i].low) * (p.at(i, j) - mine[i]);
        s.at(i, j) = whole || sight.sees(i0 + row_of(i), j0 + score_col(j)) ? e : 0.f;
      }
    accumulate(o, s, K + now * OTHER * D, room);
    __syncthreads();
  }
  copy_wait<0>();
  float factor[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) factor[i] = scale;
  write(gq, o, Tq - i0, d, factor);
}

// gk (B, Tk, d) and gv (B, Tk, dv): a block has 64 keys; scores are transposed, keys down and queries across.
extern "C" __global__ void __launch_bounds__(THREADS, D > 64 ? 1 : 2) backward_keys(
    const float* __restrict__ g, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const unsigned char* __restrict__ mask, long long mn, long long mh, long long mi, long long mj,
    const double* __restrict__ lse, const float* __restrict__ delta, float* __restrict__ gk, float* __restrict__ gv,
    int heads, int Tq, int Tk, int d, int dv, int causal, float scale) {
  DYNAMIC_SHARED(float, shared);
  float* K = shared;
  float* V = K + OWN * D;
  float* Q = V + OWN * D;              // 2 tiles
  float* G = Q + 2 * OTHER * D;        // 2 tiles
  float* high = G + 2 * OTHER * D;     // 2 tiles of each number a query
  float* low = high + 2 * OTHER;
  float* less = low + 2 * OTHER;
  float* room = less + 2 * OTHER;
  const int tiles = (Tk + OWN - 1) / OWN, j0 = int(blockIdx.x % tiles) * OWN;
  const long long b = blockIdx.x / tiles;
  SIGHT;
  g += b * Tq * dv; q += b * Tq * d; k += (b * Tk + j0) * d; v += (b * Tk + j0) * dv;
  gk += (b * Tk + j0) * d; gv += (b * Tk + j0) * dv; lse += b * Tq; delta += b * Tq;
  const float scale2 = scale * LOG2E;
  int begin = causal ? j0 - (Tk - Tq) : 0;   // the first query that sees a key of the block
  begin = begin < 0 ? 0 : begin / OTHER * OTHER;

  auto fetch_queries = [&](int i0, int to) {
    fetch<OTHER>(Q + to * OTHER * D, q + (long long)i0 * d, Tq - i0, d);
    fetch<OTHER>(G + to * OTHER * D, g + (long long)i0 * dv, Tq - i0, dv);
    if (int(threadIdx.x) < OTHER) {
      const int i = i0 + threadIdx.x, t = to * OTHER + threadIdx.x;
      const Level l = level(lse + (i < Tq ? i : 0), i < Tq);
      high[t] = l.high;
      low[t] = l.low;
      less[t] = i < Tq ? delta[i] : 0.f;
    }
  };
  fetch<OWN>(K, k, Tk - j0, d);
  fetch<OWN>(V, v, Tk - j0, dv);
  if (begin < Tq) fetch_queries(begin, 0);
  copy_commit();
  Tile<D> ok, ov;
  clear(ok);
  clear(ov);
  for (int i0 = begin, now = 0; i0 < Tq; i0 += OTHER, now ^= 1) {
    if (i0 + OTHER < Tq) fetch_queries(i0 + OTHER, now ^ 1);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    const float *Qn = Q + now * OTHER * D, *Gn = G + now * OTHER * D;
    Tile<OTHER> s, p;
    scores(s, K, Qn);
    const bool whole = sight.all(i0, OTHER, j0, OWN);
#pragma unroll
    for (int j = 0; j < Tile<OTHER>::COLS; j++) {
      const int c = score_col(j), t = now * OTHER + c;
      const float h = high[t], l = low[t];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const float e = exp2f((s.at(i, j) * scale2 - h) - l);
        s.at(i, j) = whole || sight.sees(i0 + c, j0 + row_of(i)) ? e : 0.f;
      }
    }
    accumulate(ov, s, Gn, room);
    scores(p, V, Gn);
#pragma unroll
    for (int j = 0; j < Tile<OTHER>::COLS; j++) {
      const float t = less[now * OTHER + score_col(j)];
#pragma unroll
      for (int i = 0; i < ROWS; i++) s.at(i, j) *= p.at(i, j) - t;
    }
    accumulate(ok, s, Qn, room);
    __syncthreads();
  }
  copy_wait<0>();
  float one[ROWS], factor[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) { one[i] = 1.f; factor[i] = scale; }
  write(gv, ov, Tk - j0, dv, one);
  write(gk, ok, Tk - j0, d, factor);
}

// For heads wider than a tile: whole scores s (B, rows, Tk) of the queries i0, … become scale·s, −inf where hidden.
extern "C" __global__ void __launch_bounds__(256) hide(
    float* __restrict__ s, const unsigned char* __restrict__ mask, long long mn, long long mh, long long mi,
    long long mj, long long size, int heads, int b0, int i0, int rows, int Tq, int Tk, int causal, float scale) {
  for (long long at = (long long)blockIdx.x * 256 + threadIdx.x; at < size; at += (long long)gridDim.x * 256) {
    const int j = int(at % Tk), i = i0 + int(at / Tk % rows);
    const long long b = b0 + at / Tk / rows;
    SIGHT;
    s[at] = sight.sees(i, j) ? s[at] * scale : -INFINITY;
  }
}
