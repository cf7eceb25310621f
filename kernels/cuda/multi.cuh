// Many arrays as one long row, in pieces of PIECE numbers, a block each: what the optimisers' kernels share. A table in
// device memory has a row of addresses for each role (parameter, gradient, …), 0 where there is none; see multi.py.
#include "common.cuh"

#ifndef REAL
#define REAL float
#endif
typedef REAL T;
typedef unsigned long long u64;

constexpr int PIECE = 4096, PACK = 16 / int(sizeof(T));
struct alignas(16) Pack { T v[PACK]; };

// operations that round once and are never contracted: the CPU's bits
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float quotient(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ float root_of(float a) { return __fsqrt_rn(a); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double quotient(double a, double b) { return __ddiv_rn(a, b); }
__device__ __forceinline__ double root_of(double a) { return __dsqrt_rn(a); }

// This block's piece: at[r] is where it begins in row r's array, or null; returns how many numbers it has.
template <int ROWS>
__device__ __forceinline__ int piece(T* (&at)[ROWS], const u64* table, int arrays, const int* map,
                                     const long long* sizes, int first) {
  const int k = map[2 * (first + blockIdx.x)];
  const long long begin = (long long)map[2 * (first + blockIdx.x) + 1] * PIECE, rest = sizes[k] - begin;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    T* a = reinterpret_cast<T*>(table[(long long)r * arrays + k]);
    at[r] = a ? a + begin : nullptr;
  }
  return rest < PIECE ? int(rest) : PIECE;
}

// f(x) for each number, x[r] of row r; then those rows are stored whose bit is set in WRITES. 16 bytes at a time where
// every array begins at a multiple of 16 bytes, and so each piece of it.
template <unsigned WRITES, int ROWS, class F>
__device__ __forceinline__ void pass(T* const (&at)[ROWS], int count, F f) {
  u64 bits = 0;
#pragma unroll
  for (int r = 0; r < ROWS; r++) bits |= reinterpret_cast<u64>(at[r]);
  const int packs = bits % 16 == 0 ? count / PACK : 0;
  for (int i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack x[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (at[r]) x[r] = reinterpret_cast<const Pack*>(at[r])[i];
#pragma unroll
    for (int l = 0; l < PACK; l++) {
      T one[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) one[r] = at[r] ? x[r].v[l] : T(0);
      f(one);
#pragma unroll
      for (int r = 0; r < ROWS; r++) x[r].v[l] = one[r];
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if ((WRITES >> r & 1) && at[r]) reinterpret_cast<Pack*>(at[r])[i] = x[r];
  }
  for (int i = packs * PACK + threadIdx.x; i < count; i += blockDim.x) {
    T one[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) one[r] = at[r] ? at[r][i] : T(0);
    f(one);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if ((WRITES >> r & 1) && at[r]) at[r][i] = one[r];
  }
}

// What `verdict` (multi.cu) has found of a step's gradients: their norm, what they are scaled by, how many arrays of
// them are not finite. No report: all is well, and the scale is what the host said.
__device__ __forceinline__ bool refused(const double* report) { return report && report[2] != 0.0; }
__device__ __forceinline__ T scale_of(const double* report, double scale) { return T(report ? report[1] : scale); }

// The numbers that change from step to step, written by the host before each: learning rate, number of the step, 1 −
// the average's decay, and the kernel's own.
enum { RATE, STEP, FOLLOW, OWN };
