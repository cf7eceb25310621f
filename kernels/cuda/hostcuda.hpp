// hostcuda.hpp: run CUDA C++ kernels on a CPU, one fiber a CUDA thread. C++20, x86-64, GCC or Clang.
//
// A block's threads are fibers of one OS thread; blocks are spread over OS threads. __shared__ is static thread_local;
// barriers and shuffles park a fiber until the others have come, and a set of fibers that can never go on is reported
// with the block, the thread and the reason. Under AddressSanitizer every access is checked; under ThreadSanitizer
// fibers count as threads and barriers as the only order among them, so that a missing __syncthreads() is a race that
// names both lines. What it cannot show: bank conflicts, coalescing, occupancy, time; races between blocks; masks of
// warp operations (the whole warp takes part).
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <type_traits>
#include <vector>
#include <sys/mman.h>

#if defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define HC_ASAN 1
#  endif
#endif
#ifdef __SANITIZE_ADDRESS__
#  define HC_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#  define HC_TSAN 1
#endif
#ifdef HC_ASAN
extern "C" void __sanitizer_start_switch_fiber(void**, const void*, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
extern "C" void __asan_poison_memory_region(void const volatile*, size_t);
extern "C" void __asan_unpoison_memory_region(void const volatile*, size_t);
#endif
#ifdef HC_TSAN
extern "C" void* __tsan_get_current_fiber(); extern "C" void* __tsan_create_fiber(unsigned);
extern "C" void __tsan_destroy_fiber(void*); extern "C" void __tsan_switch_to_fiber(void*, unsigned);
extern "C" void __tsan_acquire(void*); extern "C" void __tsan_release(void*);
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __constant__ static
#define __shared__ static thread_local
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(hostcuda::blk->dyn)

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct dim3 { unsigned x, y, z; constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {} };

#ifdef HC_TSAN
#  define HC_NOTSAN __attribute__((no_sanitize("thread")))
#else
#  define HC_NOTSAN
#endif
namespace hostcuda {
#if defined(HC_ASAN) || defined(HC_TSAN)
constexpr size_t kStack = 256 * 1024;   // per CUDA thread; red zones make frames larger
#else
constexpr size_t kStack = 64 * 1024;
#endif
struct Fiber;
struct Warp { char tag[2]; uint32_t alive = 0, at = 0; uint64_t gen = 0; alignas(16) unsigned char slot[2][32][64]; };
struct Block {
  dim3 bidx, bdim, gdim; unsigned char* dyn = nullptr; size_t dyn_bytes = 0;
  unsigned alive = 0, arrived = 0; uint64_t gen = 0; int red = 0, red_next = 0;
  Fiber* fib = nullptr; Warp* warps = nullptr; unsigned nthreads = 0, nwarps = 0; const std::function<void()>* body = nullptr;
  char tag[2], tag_start, tag_end;   // addresses for TSan's happens-before edges
  void* main_sp = nullptr; bool diverged = false;
#ifdef HC_ASAN
  const void* main_stack = nullptr; size_t main_size = 0; void* main_fake = nullptr;
#endif
#ifdef HC_TSAN
  void* main_tsan = nullptr;
#endif
};
struct Fiber {
  void* sp = nullptr; char* stack = nullptr; dim3 tid; unsigned lin = 0, lane = 0; Warp* w = nullptr; bool done = true;
  const uint64_t* wp = nullptr; uint64_t wv = 0; const char* why = "";   // parked until *wp != wv
  struct Copy { void* to; const void* from; int bytes, valid; };         // cp.async: done no sooner than it is waited for
  std::vector<std::vector<Copy>> groups{1};                              // the last one is open
#ifdef HC_ASAN
  void* fake = nullptr;
#endif
#ifdef HC_TSAN
  void* tsan = nullptr;
#endif
};
static thread_local volatile char here_;   // of this library alone, as blk and cur, being inline, need not be
inline thread_local Block* blk = nullptr;
inline thread_local Fiber* cur = nullptr;

__attribute__((naked, noinline)) inline void hc_switch(void** /*save*/, void* /*load*/) {
  asm volatile("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
               "movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
               "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
HC_NOTSAN inline void to_main(bool last) {             // fiber -> scheduler
  Fiber* f = cur; (void)last;
#ifdef HC_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &f->fake, blk->main_stack, blk->main_size);
#endif
#ifdef HC_TSAN
  __tsan_switch_to_fiber(blk->main_tsan, 1);  // 1 = no synchronisation: keeps CUDA threads concurrent for TSan
#endif
  hc_switch(&f->sp, blk->main_sp);
#ifdef HC_ASAN
  __sanitizer_finish_switch_fiber(f->fake, &blk->main_stack, &blk->main_size);
#endif
}
HC_NOTSAN inline void to_fiber(Fiber* f) {             // scheduler -> fiber
  cur = f;
#ifdef HC_ASAN
  __sanitizer_start_switch_fiber(&blk->main_fake, f->stack, kStack);
#endif
#ifdef HC_TSAN
  __tsan_switch_to_fiber(f->tsan, 1);
#endif
  hc_switch(&blk->main_sp, f->sp);
#ifdef HC_ASAN
  __sanitizer_finish_switch_fiber(blk->main_fake, nullptr, nullptr);
#endif
}
[[noreturn]] HC_NOTSAN inline void fiber_entry() {
#ifdef HC_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &blk->main_stack, &blk->main_size);
#endif
#ifdef HC_TSAN
  __tsan_acquire(&blk->tag_start);
#endif
  (*blk->body)();
  Fiber* f = cur; Block* b = blk;
#ifdef HC_TSAN
  __tsan_release(&b->tag_end);
#endif
  f->done = true; f->w->alive &= ~(1u << f->lane); b->alive--;
  if (f->w->alive && (f->w->at & f->w->alive) == f->w->alive) { f->w->at = 0; f->w->gen++; }
  if (b->alive && b->arrived == b->alive) { b->arrived = 0; b->gen++; b->diverged = true; }
  to_main(true);
  __builtin_unreachable();
}
HC_NOTSAN inline void arm(Fiber* f) {                  // fresh stack whose first switch lands in fiber_entry
  void** top = reinterpret_cast<void**>(f->stack + kStack - (f->lin * 192) % 8192) - 2;   // stagger: avoid L1 set conflicts
  f->wp = nullptr; f->groups.assign(1, {});
  *--top = nullptr; *--top = reinterpret_cast<void*>(&fiber_entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  f->sp = top; f->done = false;
}
HC_NOTSAN inline void park(const uint64_t* p, uint64_t v, const char* why) {
  Fiber* f = cur;
  if (*p != v) return;
  f->wp = p; f->wv = v; f->why = why; to_main(false); f->wp = nullptr;
}
HC_NOTSAN inline void sync_block() {
  Block* b = blk; const uint64_t g = b->gen;
#ifdef HC_TSAN
  __tsan_release(&b->tag[g & 1]);
#endif
  if (++b->arrived == b->alive) { b->arrived = 0; b->red = b->red_next; b->red_next = 0; b->gen++; }
  park(&b->gen, g, "__syncthreads");
#ifdef HC_TSAN
  __tsan_acquire(&b->tag[g & 1]);
#endif
}
HC_NOTSAN inline void sync_warp(unsigned mask = 0xffffffffu) {
  Warp* w = cur->w; const uint64_t g = w->gen; (void)mask;   // whole-warp convergence is assumed
#ifdef HC_TSAN
  __tsan_release(&w->tag[g & 1]);
#endif
  w->at |= 1u << cur->lane;
  if ((w->at & w->alive) == w->alive) { w->at = 0; w->gen++; }
  park(&w->gen, g, "warp-synchronous operation");
#ifdef HC_TSAN
  __tsan_acquire(&w->tag[g & 1]);
#endif
}
template <class T> HC_NOTSAN T exchange(T v, int src) {
  static_assert(sizeof(T) <= 64); Warp* w = cur->w;
  auto* s = w->slot[w->gen & 1];                        // two generations: one barrier per exchange is enough
  const bool there = (w->alive >> (src & 31)) & 1;      // asked before the barrier: behind it a lane may have ended
  *reinterpret_cast<T*>(s[cur->lane]) = v; sync_warp();
  return there ? *reinterpret_cast<T*>(s[src & 31]) : v;
}
// run one block on the calling OS thread
HC_NOTSAN inline void run_block(Block& b, dim3 bidx, size_t dyn) {
  const unsigned n = b.bdim.x * b.bdim.y * b.bdim.z;
  b.bidx = bidx; b.alive = n; b.arrived = 0; b.dyn_bytes = dyn; b.diverged = false;
  for (unsigned i = 0; i < b.nwarps; i++) { b.warps[i].alive = b.warps[i].at = 0; b.warps[i].gen = 0; }
  for (unsigned i = 0; i < n; i++) {
    Fiber* f = &b.fib[i]; f->lin = i; f->lane = i & 31; f->w = &b.warps[i >> 5];
    f->tid = dim3(i % b.bdim.x, i / b.bdim.x % b.bdim.y, i / (b.bdim.x * b.bdim.y));
    f->w->alive |= 1u << f->lane; arm(f);
  }
  blk = &b;
#ifdef HC_ASAN
  if (b.dyn) std::memset(b.dyn, 0xff, dyn);   // poison: uninitialised shared memory reads NaN
#endif
#ifdef HC_TSAN
  b.main_tsan = __tsan_get_current_fiber(); __tsan_release(&b.tag_start);
#endif
  while (b.alive) {
    bool moved = false;
    for (unsigned w0 = 0; w0 < n; w0 += 32) {           // drain one warp before the next: shuffles stay in L1
      for (bool again = true; again;) {
        again = false;
        for (unsigned i = w0; i < (n < w0 + 32 ? n : w0 + 32); i++) {
          Fiber* f = &b.fib[i];
          if (!f->done && !(f->wp && *f->wp == f->wv)) { to_fiber(f); again = moved = true; }
        }
      }
    }
    if (!moved) {
      for (Fiber* f = b.fib; f < b.fib + n; f++) if (!f->done) {
        std::fprintf(stderr, "hostcuda: deadlock in block (%u,%u,%u): thread %u of %u waits at %s\n", bidx.x, bidx.y, bidx.z, f->lin, n, f->why);
        std::abort();
      }
    }
  }
#ifdef HC_TSAN
  __tsan_acquire(&b.tag_end);
#endif
  if (b.diverged) { std::fprintf(stderr, "hostcuda: thread exited while others waited at __syncthreads (block %u,%u,%u)\n", bidx.x, bidx.y, bidx.z); }
  blk = nullptr; cur = nullptr;
}
inline void launch(dim3 grid, dim3 block, size_t dyn, const std::function<void()>& body) {
  const size_t nblk = size_t(grid.x) * grid.y * grid.z; const unsigned n = block.x * block.y * block.z;
  const char* e = std::getenv("HOSTCUDA_THREADS"); unsigned nt = e ? std::atoi(e) : std::thread::hardware_concurrency();
  nt = std::max(1u, std::min<unsigned>(nt, nblk)); std::atomic<size_t> next{0};
  auto worker = [&] {
    here_ = 1;   // the kernels' __shared__ memory is made now, not by the fiber that touches it first: TSan saw a race
    Block b; b.bdim = block; b.gdim = grid; b.body = &body; b.nthreads = n; b.nwarps = (n + 31) / 32;
    std::vector<Fiber> fibers(n); std::vector<Warp> warps(b.nwarps); b.fib = fibers.data(); b.warps = warps.data();
    char* pool = static_cast<char*>(mmap(nullptr, kStack * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (unsigned i = 0; i < n; i++) {
      fibers[i].stack = pool + kStack * i;
#ifdef HC_TSAN
      fibers[i].tsan = __tsan_create_fiber(0);
#endif
    }
    if (dyn) b.dyn = static_cast<unsigned char*>(std::aligned_alloc(128, (dyn + 127) / 128 * 128));
    for (size_t k; (k = next.fetch_add(1)) < nblk;)
      run_block(b, dim3(k % grid.x, k / grid.x % grid.y, k / (size_t(grid.x) * grid.y)), dyn);
#ifdef HC_TSAN
    for (auto& f : fibers) __tsan_destroy_fiber(f.tsan);
#endif
    std::free(b.dyn); munmap(pool, kStack * n);
  };
  if (nt == 1) { worker(); return; }
  std::vector<std::thread> ts; for (unsigned i = 0; i < nt; i++) ts.emplace_back(worker);
  for (auto& t : ts) t.join();
}
// warp-collective: every lane sees every lane's value, 64 bytes apart
template <class T> HC_NOTSAN const unsigned char* gather(const T& v) {
  static_assert(sizeof(T) <= 64); Warp* w = cur->w; auto* s = w->slot[w->gen & 1];
  *reinterpret_cast<T*>(s[cur->lane]) = v; sync_warp(); return s[0];
}
// cp.async of `bytes`, the last bytes - valid of them zeros. Before the wait the target holds NaNs: who reads too early
// shows. Copies that nobody waits for are never made.
inline void copy_later(void* to, const void* from, int bytes, int valid) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes)) {
    std::fprintf(stderr, "hostcuda: cp.async of %d bytes to %p from %p: not aligned\n", bytes, to, from); std::abort();
  }
  std::memset(to, 0xff, bytes);
  cur->groups.back().push_back({to, from, bytes, valid});
}
inline void copies_commit() { cur->groups.emplace_back(); }
inline void copies_wait(int pending) {   // all but the last `pending` committed groups
  auto& g = cur->groups;
  while (int(g.size()) - 1 > pending) {
    for (auto& c : g.front()) { if (c.valid) std::memcpy(c.to, c.from, c.valid); std::memset(static_cast<char*>(c.to) + c.valid, 0, c.bytes - c.valid); }
    g.erase(g.begin());
  }
}
inline void check_bounds(int most, dim3 b, const char* kernel, int = 0) {
  if (int(b.x * b.y * b.z) > most) { std::fprintf(stderr, "hostcuda: %s: %u threads a block, bounded by %d\n", kernel, b.x * b.y * b.z, most); std::abort(); }
}
}  // namespace hostcuda

#define threadIdx (hostcuda::cur->tid)
#define blockIdx (hostcuda::blk->bidx)
#define blockDim (hostcuda::blk->bdim)
#define gridDim (hostcuda::blk->gdim)
constexpr int warpSize = 32;
inline void __syncthreads() { hostcuda::sync_block(); }
inline int __syncthreads_or(int p) { hostcuda::blk->red_next |= (p != 0); hostcuda::sync_block(); int r = hostcuda::blk->red; hostcuda::sync_block(); return r; }
inline void __syncwarp(unsigned m = ~0u) { hostcuda::sync_warp(m); }
inline unsigned __activemask() { return hostcuda::cur->w->alive; }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
template <class T> T __shfl_sync(unsigned, T v, int src, int w = 32) { int l = hostcuda::cur->lane; return hostcuda::exchange(v, (l & ~(w - 1)) | (src & (w - 1))); }
template <class T> T __shfl_xor_sync(unsigned, T v, int m, int w = 32) { int l = hostcuda::cur->lane, s = l ^ m; return hostcuda::exchange(v, (s & ~(w - 1)) > l ? l : s); }
template <class T> T __shfl_down_sync(unsigned, T v, unsigned d, int w = 32) { int l = hostcuda::cur->lane; return hostcuda::exchange(v, (l & (w - 1)) + int(d) < w ? l + int(d) : l); }
template <class T> T __shfl_up_sync(unsigned, T v, unsigned d, int w = 32) { int l = hostcuda::cur->lane; return hostcuda::exchange(v, (l & (w - 1)) >= int(d) ? l - int(d) : l); }
inline unsigned __ballot_sync(unsigned, int p) { unsigned r = 0; for (int i = 0; i < 32; i++) { const bool there = (hostcuda::cur->w->alive >> i) & 1; int q = hostcuda::exchange(p, i); if (there && q) r |= 1u << i; } return r; }
template <class T> T atomicAdd(T* p, T v) { return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed); }
template <class T> T atomicMax(T* p, T v) { std::atomic_ref<T> a(*p); T o = a.load(); while (o < v && !a.compare_exchange_weak(o, v)) {} return o; }
template <class T> T atomicCAS(T* p, T c, T v) { std::atomic_ref<T>(*p).compare_exchange_strong(c, v); return c; }
template <class T> T __ldg(const T* p) { return *p; }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline int __float_as_int(float f) { int u; std::memcpy(&u, &f, 4); return u; }
inline float __int_as_float(int u) { float f; std::memcpy(&f, &u, 4); return f; }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __logf(float x) { return std::log(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
inline long long __double_as_longlong(double x) { long long u; std::memcpy(&u, &x, 8); return u; }
inline double __longlong_as_double(long long u) { double x; std::memcpy(&x, &u, 8); return x; }
inline double __longlong_as_double(unsigned long long u) { double x; std::memcpy(&x, &u, 8); return x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, T v) { *p = v; }
template <class T> void __stcg(T* p, T v) { *p = v; }
using std::min; using std::max; using std::isfinite; using std::isnan; using std::isinf;
