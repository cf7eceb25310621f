// What the CUDA kernels share: reductions of a warp and a block, tensor-core products, asynchronous copies.
// Every instruction written in PTX has a twin for the host, by the lane layouts of the PTX manual.
#ifdef HOSTCUDA
#include "hostcuda.hpp"
#else
#define DYNAMIC_SHARED(T, name) \
  extern __shared__ __align__(16) unsigned char dynamic_shared_[]; T* name = reinterpret_cast<T*>(dynamic_shared_)
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#endif

constexpr unsigned WARP = 0xffffffffu;

// ---- reductions, in a fixed order: the same bits on every run

template <class T> __device__ __forceinline__ T warp_sum(T v) {   // every lane gets the sum
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(WARP, v, d);
  return v;
}
template <class T> __device__ __forceinline__ T warp_max(T v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) { T o = __shfl_xor_sync(WARP, v, d); v = o > v ? o : v; }
  return v;
}
// Every thread of the block gets the sum. blockDim.x a multiple of 32, at most 1024; `slot`: 32 numbers of shared
// memory that nobody else uses. Ends with a barrier behind it, so that it may be called again at once.
template <class T> __device__ __forceinline__ T block_sum(T v, T* slot) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = warp_sum(v);
  if (lane == 0) slot[warp] = v;
  __syncthreads();
  v = warp_sum(lane < warps ? slot[lane] : T(0));
  __syncthreads();
  return v;
}
template <class T> __device__ __forceinline__ T block_max(T v, T* slot, T least) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = warp_max(v);
  if (lane == 0) slot[warp] = v;
  __syncthreads();
  v = warp_max(lane < warps ? slot[lane] : least);
  __syncthreads();
  return v;
}

// ---- rounding to the tensor cores' formats

// TF32: float32 with 10 bits of mantissa, rounded to nearest, ties away from zero (cvt.rna), as a float's bits.
__device__ __forceinline__ unsigned to_tf32(float x) {
#ifdef HOSTCUDA
  unsigned u = __float_as_uint(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
#else
  unsigned r; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x)); return r;
#endif
}
// Two bfloat16, rounded to nearest even, in one register: `lo` in the low half.
__device__ __forceinline__ unsigned to_bf16x2(float lo, float hi) {
#ifdef HOSTCUDA
  auto one = [](float x) -> unsigned {
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  };
  return one(lo) | one(hi) << 16;
#else
  unsigned r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r;
#endif
}

// ---- products of a warp on the tensor cores; g = lane / 4, q = lane % 4

// D (16×8) += A (16×8) B (8×8), TF32 in, float32 sums.
// a: A[g][q], A[g+8][q], A[g][q+4], A[g+8][q+4]; b: B[q][g], B[q+4][g]; d: D[g][2q], D[g][2q+1], D[g+8][2q], D[g+8][2q+1]
__device__ __forceinline__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef HOSTCUDA
  struct AB { unsigned a[4], b[2]; } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const unsigned char* all = hostcuda::gather(mine);
  auto lane = [&](int l) -> const AB& { return *reinterpret_cast<const AB*>(all + 64 * l); };
  const int g = hostcuda::cur->lane >> 2, q = hostcuda::cur->lane & 3;
  for (int e = 0; e < 4; e++) {
    const int row = g + (e >> 1) * 8, col = 2 * q + (e & 1);
    float s = d[e];
    for (int k = 0; k < 8; k++)
      s += __uint_as_float(lane((row & 7) * 4 + (k & 3)).a[(row >> 3) + 2 * (k >> 2)]) *
           __uint_as_float(lane(col * 4 + (k & 3)).b[k >> 2]);
    d[e] = s;
  }
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// D (16×8) += A (16×16) B (16×8), bfloat16 in, float32 sums; a register holds two neighbours in k, the first low.
// a: A[g][2q..], A[g+8][2q..], A[g][2q+8..], A[g+8][2q+8..]; b: B[2q..][g], B[2q+8..][g]; d as above
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef HOSTCUDA
  struct AB { unsigned a[4], b[2]; } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const unsigned char* all = hostcuda::gather(mine);
  auto lane = [&](int l) -> const AB& { return *reinterpret_cast<const AB*>(all + 64 * l); };
  auto half = [](unsigned r, int k) { return __uint_as_float(k & 1 ? r & 0xffff0000u : r << 16); };
  const int g = hostcuda::cur->lane >> 2, q = hostcuda::cur->lane & 3;
  for (int e = 0; e < 4; e++) {
    const int row = g + (e >> 1) * 8, col = 2 * q + (e & 1);
    float s = d[e];
    for (int k = 0; k < 16; k++)
      s += half(lane((row & 7) * 4 + (k & 7) / 2).a[(row >> 3) + 2 * (k >> 3)], k) *
           half(lane(col * 4 + (k & 7) / 2).b[k >> 3], k);
    d[e] = s;
  }
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// ---- copies from global to shared memory that run while the block computes (sm_80 and later)

// BYTES (4, 8 or 16) to `to`, both ends aligned to it; valid = 0 writes zeros and reads nothing.
template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool valid = true) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
#ifdef HOSTCUDA
  hostcuda::copy_later(to, from, BYTES, valid ? BYTES : 0);
#else
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int n = valid ? BYTES : 0;
  if constexpr (BYTES == 16)   // past the L1 cache: the tile is read once
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(BYTES), "r"(n) : "memory");
#endif
}
// Close the group of copies begun since the last commit.
__device__ __forceinline__ void copy_commit() {
#ifdef HOSTCUDA
  hostcuda::copies_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Wait until all of this thread's groups but the last PENDING are there; other threads' copies need a barrier besides.
template <int PENDING> __device__ __forceinline__ void copy_wait() {
#ifdef HOSTCUDA
  hostcuda::copies_wait(PENDING);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
