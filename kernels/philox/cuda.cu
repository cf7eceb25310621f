// Philox4x32-10 and the draws made of it; see README.md. The same bits as cpu.py's: integers are integers everywhere,
// and each float64 operation is one of the intrinsics that round once and that no compiler contracts (elementary.py).
#include "common.cuh"

typedef unsigned long long u64;

// A key lies in device memory where `where` is given, so that a captured graph draws anew under each key put there.
__device__ __forceinline__ u64 the_key(u64 key, const u64* where) { return where ? *where : key; }

__device__ __forceinline__ uint4 block(u64 key, u64 index, u64 lane) {
  unsigned c0 = unsigned(index), c1 = unsigned(index >> 32), c2 = unsigned(lane), c3 = unsigned(lane >> 32);
  unsigned k0 = unsigned(key), k1 = unsigned(key >> 32);
#pragma unroll
  for (int i = 0; i < 10; i++) {
    const unsigned h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
    const unsigned h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0; c1 = l1; c2 = h0 ^ c3 ^ k1; c3 = l0;
    k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

// to the nearest float32, denormals too: the compiler's own conversion would flush them
__device__ __forceinline__ float to_float(double x) {
#ifdef HOSTCUDA
  return float(x);
#else
  float r; asm("cvt.rn.f32.f64 %0, %1;" : "=f"(r) : "d"(x)); return r;
#endif
}

// ---- ln, sin and cos as elementary.py defines them, operation by operation

__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }

constexpr double TWO_PI = 6.283185307179586, LN2_HI = 6.93147180369123816490e-01, LN2_LO = 1.90821492927058770002e-10;
constexpr double P1 = 1.57079632673412561417e00, P2 = 6.07710050630396597660e-11, P3 = 2.02226624879595063154e-21;
constexpr double L1 = 6.666666666666735130e-01, L2 = 3.999999999940941908e-01, L3 = 2.857142874366239149e-01;
constexpr double L4 = 2.222219843214978396e-01, L5 = 1.818357216161805012e-01, L6 = 1.531383769920937332e-01;
constexpr double L7 = 1.479819860510658591e-01;
constexpr double S1 = -1.66666666666666324348e-01, S2 = 8.33333333332248946124e-03, S3 = -1.98412698298579493134e-04;
constexpr double S4 = 2.75573137070700676789e-06, S5 = -2.50507602534068634195e-08, S6 = 1.58969099521155010221e-10;
constexpr double C1 = 4.16666666666666019037e-02, C2 = -1.38888888888741095749e-03, C3 = 2.48015872894767294178e-05;
constexpr double C4 = -2.75573143513906633035e-07, C5 = 2.08757232129817482790e-09, C6 = -1.13596475577881948265e-11;
constexpr long long SHIFT = 0x3FF0000000000000ll - 0x3FE6A09E00000000ll, ROOT = 0x3FE6A09E00000000ll;

// a + x·b
__device__ __forceinline__ double step(double a, double x, double b) { return add(a, mul(x, b)); }

__device__ __forceinline__ double ln(double u) {
  const long long bits = __double_as_longlong(u) + SHIFT;
  const double k = double((bits >> 52) - 1023);
  const double f = sub(__longlong_as_double((bits & 0x000FFFFFFFFFFFFFll) + ROOT), 1.0);
  const double s = __ddiv_rn(f, add(2.0, f)), z = mul(s, s), w = mul(z, z);
  const double odd = step(L1, w, step(L3, w, step(L5, w, L7))), even = step(L2, w, step(L4, w, L6));
  const double r = add(mul(z, odd), mul(w, even)), half = mul(mul(0.5, f), f);
  return add(add(sub(add(mul(s, add(half, r)), mul(k, LN2_LO)), half), f), mul(k, LN2_HI));
}

__device__ __forceinline__ void sincos_of(long long turn, double& sine, double& cosine) {
  const double angle = mul(TWO_PI, mul(double(turn), 0x1p-53));
  const int quadrant = int(((turn >> 50) + 1) >> 1);
  const double n = quadrant;
  const double a = sub(angle, mul(n, P1)), b = mul(n, P2), r = sub(a, b);
  const double rest = sub(mul(n, P3), sub(sub(a, r), b));
  const double x = sub(r, rest), y = sub(sub(r, x), rest);
  const double z = mul(x, x), w = mul(z, z), v = mul(z, x);
  double t = add(step(S2, z, step(S3, z, S4)), mul(mul(z, w), step(S5, z, S6)));
  const double sin = sub(x, sub(sub(mul(z, sub(mul(0.5, y), mul(v, t))), y), mul(v, S1)));
  t = add(mul(z, step(C1, z, step(C2, z, C3))), mul(mul(w, w), step(C4, z, step(C5, z, C6))));
  const double half = mul(0.5, z), h = sub(1.0, half);
  const double cos = add(h, add(sub(sub(1.0, h), half), sub(mul(z, t), mul(x, y))));
  sine = quadrant & 1 ? cos : sin;
  cosine = quadrant & 1 ? sin : cos;
  if (quadrant & 2) sine = -sine;
  if ((quadrant + 1) & 2) cosine = -cosine;
}

// the two normals of block j, in float64
__device__ __forceinline__ double2 pair(u64 key, u64 j) {
  const uint4 w = block(key, j, 0);
  const double u = mul(double((long long)((u64(w.x) << 21 | w.y >> 11) + 1)), 0x1p-53);
  double sine, cosine;
  sincos_of((long long)(u64(w.z) << 21 | w.w >> 11), sine, cosine);
  const double radius = __dsqrt_rn(mul(-2.0, ln(u)));
  return make_double2(mul(radius, cosine), mul(radius, sine));
}

// ---- draws: a thread makes 4 numbers (2 of 8 bytes) and stores them together

__device__ __forceinline__ u64 first_thread() { return u64(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ __forceinline__ void store4(float* out, long long n, long long i, float a, float b, float c, float d) {
  if (i + 4 <= n) {
    *reinterpret_cast<float4*>(out + i) = make_float4(a, b, c, d);
  } else {
    if (i < n) out[i] = a;
    if (i + 1 < n) out[i + 1] = b;
    if (i + 2 < n) out[i + 2] = c;
  }
}
__device__ __forceinline__ void store2(double* out, long long n, long long i, double a, double b) {
  if (i + 2 <= n) *reinterpret_cast<double2*>(out + i) = make_double2(a, b);
  else if (i < n) out[i] = a;
}

extern "C" __global__ void __launch_bounds__(256) normal_float(float* out, long long n, unsigned long long key,
    const unsigned long long* where) {
  const u64 t = first_thread();
  if (4 * t >= u64(n)) return;
  const u64 k = the_key(key, where);
  const double2 a = pair(k, 2 * t), b = pair(k, 2 * t + 1);
  store4(out, n, 4 * t, to_float(a.x), to_float(a.y), to_float(b.x), to_float(b.y));
}
extern "C" __global__ void __launch_bounds__(256) normal_double(double* out, long long n, unsigned long long key,
    const unsigned long long* where) {
  const u64 t = first_thread();
  if (2 * t >= u64(n)) return;
  const double2 a = pair(the_key(key, where), t);
  store2(out, n, 2 * t, a.x, a.y);
}

// low + span·u, at most top
__device__ __forceinline__ double within(double u, double low, double span, double top) {
  const double x = add(low, mul(span, u));
  return top < x ? top : x;
}
extern "C" __global__ void __launch_bounds__(256) uniform_float(float* out, long long n, unsigned long long key,
    const unsigned long long* where, double low, double span, double top) {
  const u64 t = first_thread();
  if (4 * t >= u64(n)) return;
  const uint4 w = block(the_key(key, where), t, 0);
  auto one = [&](unsigned bits) { return to_float(within(mul(double(int(bits >> 8)), 0x1p-24), low, span, top)); };
  store4(out, n, 4 * t, one(w.x), one(w.y), one(w.z), one(w.w));
}
extern "C" __global__ void __launch_bounds__(256) uniform_double(double* out, long long n, unsigned long long key,
    const unsigned long long* where, double low, double span, double top) {
  const u64 t = first_thread();
  if (4 * t >= u64(n)) return;
  const u64 k = the_key(key, where);
  const uint4 h = block(k, t, 0), l = block(k, t, 1);
  auto one = [&](unsigned hi, unsigned lo) {
    return within(mul(double((long long)(u64(hi) << 21 | lo >> 11)), 0x1p-53), low, span, top);
  };
  store2(out, n, 4 * t, one(h.x, l.x), one(h.y, l.y));
  store2(out, n, 4 * t + 2, one(h.z, l.z), one(h.w, l.w));
}

__device__ __forceinline__ u64 word(const uint4& w, int half) {
  return half ? u64(w.z) << 32 | w.w : u64(w.x) << 32 | w.y;
}

// a rejected number draws again from its own place in the next lane, whatever the others do
extern "C" __global__ void __launch_bounds__(256) integers(long long* out, long long n, unsigned long long key,
    const unsigned long long* where, long long low, unsigned long long span, unsigned long long reject) {
  const u64 t = first_thread();
  if (2 * t >= u64(n)) return;
  const u64 k = the_key(key, where);
  const uint4 first = block(k, t, 0);
  long long found[2];
  for (int half = 0; half < 2; half++) {
    u64 x = word(first, half);
    for (u64 lane = 1; x * span < reject; lane++) x = word(block(k, t, lane), half);
    found[half] = (long long)(u64(low) + __umul64hi(x, span));
  }
  out[2 * t] = found[0];
  if (2 * t + 1 < u64(n)) out[2 * t + 1] = found[1];
}

// ---- a permutation: the numbers 0 … n−1 in the order of 64 random bits each, the smaller first on a tie. That order
// is total, so that any sorting network gives the CPU's stable sort. Bitonic (Batcher 1968) over the next power of two:
// what fills up has the largest key and a larger number, and stays behind. TILE numbers at a time are sorted in shared
// memory.

constexpr int TILE = 1024;

__device__ __forceinline__ bool after(u64 a, long long i, u64 b, long long j) { return a > b || (a == b && i > j); }

// the distances below TILE of the merges of runs of `from` up to `to` numbers
__device__ void in_the_tile(u64* keys, long long* order, u64* k, long long* o, long long from, long long to) {
  const long long base = (long long)blockIdx.x * TILE;
  for (int i = threadIdx.x; i < TILE; i += blockDim.x) { k[i] = keys[base + i]; o[i] = order[base + i]; }
  __syncthreads();
  for (long long run = from; run <= to; run *= 2)
    for (int far = run / 2 < TILE / 2 ? int(run / 2) : TILE / 2; far > 0; far /= 2) {
      for (int t = threadIdx.x; t < TILE / 2; t += blockDim.x) {
        const int i = 2 * t - (t & (far - 1)), j = i + far;
        const bool down = ((base + i) & run) != 0;
        if (after(k[i], o[i], k[j], o[j]) != down) {
          const u64 a = k[i]; k[i] = k[j]; k[j] = a;
          const long long b = o[i]; o[i] = o[j]; o[j] = b;
        }
      }
      __syncthreads();
    }
  for (int i = threadIdx.x; i < TILE; i += blockDim.x) { keys[base + i] = k[i]; order[base + i] = o[i]; }
}

extern "C" __global__ void __launch_bounds__(256) sort_begin(unsigned long long* keys, long long* order, long long n,
    unsigned long long key, const unsigned long long* where) {
  __shared__ u64 k[TILE];
  __shared__ long long o[TILE];
  const u64 the = the_key(key, where);
  const long long base = (long long)blockIdx.x * TILE;
  for (int t = threadIdx.x; t < TILE / 2; t += blockDim.x) {
    const long long i = base + 2 * t;
    const uint4 w = block(the, u64(i) >> 1, 0);
    keys[i] = i < n ? word(w, 0) : ~0ull;
    keys[i + 1] = i + 1 < n ? word(w, 1) : ~0ull;
    order[i] = i; order[i + 1] = i + 1;
  }
  __syncthreads();
  in_the_tile(keys, order, k, o, 2, TILE);
}
extern "C" __global__ void __launch_bounds__(256) sort_far(unsigned long long* keys, long long* order, long long half,
    long long run, long long far) {
  const long long t = (long long)first_thread();
  if (t >= half) return;
  const long long i = 2 * t - (t & (far - 1)), j = i + far;
  const u64 a = keys[i], b = keys[j];
  const long long x = order[i], y = order[j];
  if (after(a, x, b, y) != ((i & run) != 0)) { keys[i] = b; keys[j] = a; order[i] = y; order[j] = x; }
}
extern "C" __global__ void __launch_bounds__(256) sort_near(unsigned long long* keys, long long* order, long long run) {
  __shared__ u64 k[TILE];
  __shared__ long long o[TILE];
  in_the_tile(keys, order, k, o, run, run);
}
