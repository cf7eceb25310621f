// The activations on a GPU, one pass over memory each: README.md for the formulas. n numbers, float32.
//
// A thread has four numbers at a time, WAYS of these 256 threads apart, all loaded before the first is used.
#include "common.cuh"

constexpr int WAYS = 2;

// y[i] = f(a[i], b[i]); b may be a itself
template <class F> __device__ __forceinline__ void pass(const float* a, const float* b, float* y, long long n, F f) {
  const long long first = (static_cast<long long>(blockIdx.x) * WAYS * 256 + threadIdx.x) * 4;
  float4 u[WAYS], v[WAYS];
#pragma unroll
  for (int k = 0; k < WAYS; k++) {
    const long long i = first + k * 1024;
    if (i + 4 <= n) {
      u[k] = *reinterpret_cast<const float4*>(a + i);
      v[k] = *reinterpret_cast<const float4*>(b + i);
    }
  }
#pragma unroll
  for (int k = 0; k < WAYS; k++) {
    const long long i = first + k * 1024;
    if (i + 4 <= n)
      *reinterpret_cast<float4*>(y + i) = make_float4(f(u[k].x, v[k].x), f(u[k].y, v[k].y), f(u[k].z, v[k].z), f(u[k].w, v[k].w));
    else
      for (long long j = i; j < n; j++) y[j] = f(a[j], b[j]);
  }
}
__device__ __forceinline__ float square(float x) { return fminf(x * x, 1e4f); }  // past |x| = 100 σ has long been 0 or 1
// Φ(−z), z ≥ 0, of e = e^(−z²/2): README eq. 5
__device__ __forceinline__ float tail(float z, float e) {
  const float t = 1.0f / (1.0f + 0.344f * z);
  float p = -2.7922904223e-02f * t + 1.4413409537e-01f;
  p = p * t - 2.7160458414e-01f;
  p = p * t + 1.9017124934e-01f;
  p = p * t - 3.8960152222e-02f;
  p = p * t + 1.1248399096e-01f;
  p = p * t + 1.1684080020e-01f;
  p = p * t + 1.3763791001e-01f;
  p = p * t + 1.3721960040e-01f;
  return p * (t * e);
}

extern "C" __global__ void __launch_bounds__(256) gated(const float* __restrict__ x, float* __restrict__ y, long long n, float linear, float cubic) {
  pass(x, x, y, n, [=](float a, float) { return a / (1.0f + expf(-a * (linear + cubic * square(a)))); });
}
extern "C" __global__ void __launch_bounds__(256) gated_slope(const float* __restrict__ g, const float* __restrict__ x, float* __restrict__ y, long long n, float linear, float cubic) {
  pass(g, x, y, n, [=](float c, float a) {
    const float s = square(a), v = a * (linear + cubic * s), e = expf(-fabsf(v)), high = 1.0f / (1.0f + e), low = e * high;
    return c * ((v > 0 ? high : low) + a * (linear + 3.0f * cubic * s) * (high * low));
  });
}
extern "C" __global__ void __launch_bounds__(256) gelu(const float* __restrict__ x, float* __restrict__ y, long long n) {
  pass(x, x, y, n, [=](float a, float) {
    const float q = tail(fabsf(a), expf(-0.5f * (a * a)));
    return a * (a > 0 ? 1.0f - q : q);
  });
}
extern "C" __global__ void __launch_bounds__(256) gelu_slope(const float* __restrict__ g, const float* __restrict__ x, float* __restrict__ y, long long n) {
  pass(g, x, y, n, [=](float c, float a) {
    const float e = expf(-0.5f * (a * a)), q = tail(fabsf(a), e);
    return c * ((a > 0 ? 1.0f - q : q) + a * (0.3989422804f * e));
  });
}
extern "C" __global__ void __launch_bounds__(256) gate(const float* __restrict__ x, const float* __restrict__ by, float* __restrict__ y, long long n, float slope) {
  pass(x, by, y, n, [=](float a, float b) { return a * (b > 0 ? 1.0f : slope); });
}
extern "C" __global__ void __launch_bounds__(256) relu(const float* __restrict__ x, float* __restrict__ y, long long n) {
  pass(x, x, y, n, [=](float a, float) { return a <= 0 ? 0.0f : a; });
}
