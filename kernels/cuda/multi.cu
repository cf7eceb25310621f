// What an optimiser's step does beside the update: numbers put where kernels read them, the gradients' squares, norm
// and verdict, and the moving average of what no optimiser updates. See README.md of kernels/adam.
#include "multi.cuh"

extern "C" __global__ void __launch_bounds__(32) put_numbers(double* to, double a, double b, double c, double d,
    double e, double f, double g, double h) {
  if (threadIdx.x == 0) { to[0] = a; to[1] = b; to[2] = c; to[3] = d; to[4] = e; to[5] = f; to[6] = g; to[7] = h; }
}

// partial[i] = Σg² of piece i, in float64; the gradients are row 1
extern "C" __global__ void __launch_bounds__(256) squares(const unsigned long long* table, int arrays, const int* map,
    const long long* sizes, int first, double* partial) {
  __shared__ double slot[32];
  T* at[1];
  const int count = piece(at, table + arrays, arrays, map, sizes, first);
  double sum = 0;
  pass<0>(at, count, [&](T (&x)[1]) { sum = fma(double(x[0]), double(x[0]), sum); });
  sum = block_sum(sum, slot);
  if (threadIdx.x == 0) partial[first + blockIdx.x] = sum;
}

// One block. Array k's pieces are starts[k] … starts[k+1]−1: a warp sums an array, the block the arrays, in fixed
// orders. report: ‖g‖, min(1, limit/‖g‖), the number of arrays that are not finite; bad[k]: is array k one?
extern "C" __global__ void __launch_bounds__(1024) verdict(const double* partial, const int* starts, int arrays,
    double limit, unsigned char* bad, double* report) {
  __shared__ double slot[32];
  const int lane = threadIdx.x & 31;
  double total = 0, wrong = 0;
  for (int k = threadIdx.x >> 5; k < arrays; k += blockDim.x >> 5) {
    double sum = 0;
    for (int i = starts[k] + lane; i < starts[k + 1]; i += 32) sum += partial[i];
    sum = warp_sum(sum);
    const bool odd = !(fabs(sum) <= 1.7976931348623157e308);
    if (lane == 0) { bad[k] = odd; total += sum; wrong += odd; }
  }
  total = block_sum(total, slot);
  wrong = block_sum(wrong, slot);
  if (threadIdx.x == 0) {
    const double norm = sqrt(total), s = limit / (norm > 1e-12 ? norm : 1e-12);
    report[0] = norm; report[1] = s < 1.0 ? s : 1.0;
    report[2] = wrong > 0 ? wrong : fabs(total) <= 1.7976931348623157e308 ? 0.0 : 1.0;   // finite, but not their sum
  }
}

// Rows: average, value. average += (1 − decay)(value − average).
extern "C" __global__ void __launch_bounds__(256) average(const unsigned long long* table, int arrays, const int* map,
    const long long* sizes, int first, const double* numbers, const double* report) {
  if (refused(report)) return;
  T* at[2];
  const int count = piece(at, table, arrays, map, sizes, first);
  const T follow = T(numbers[FOLLOW]);
  pass<1>(at, count, [&](T (&x)[2]) { x[0] = add(x[0], mul(follow, sub(x[1], x[0]))); });
}
