// One RMSprop step of many arrays, moving average included, in one pass; see README.md. Element by element the
// operations of cpu.py in their order, each rounded once.
#include "multi.cuh"

// Rows: p, g, mean square, velocity, mean gradient (of the centred form), average.
extern "C" __global__ void __launch_bounds__(256) rmsprop(const unsigned long long* table, int arrays, const int* map,
    const long long* sizes, int first, const double* numbers, const double* report, double scale, double alpha,
    double eps, double momentum, double decay) {
  if (refused(report)) return;
  T* at[6];
  const int count = piece(at, table, arrays, map, sizes, first);
  const T rate = T(numbers[RATE]), follow = T(numbers[FOLLOW]), clip = scale_of(report, scale);
  const T keep = T(alpha), take = T(1.0 - alpha), small = T(eps), mu = T(momentum), l2 = T(decay);
  const bool centred = at[4] != nullptr;
  pass<0b111101>(at, count, [&](T (&x)[6]) {
    T d = add(mul(clip, x[1]), mul(l2, x[0])), variance;
    x[2] = variance = add(mul(keep, x[2]), mul(mul(take, d), d));
    if (centred) {
      x[4] = add(mul(keep, x[4]), mul(take, d));
      variance = sub(x[2], mul(x[4], x[4]));
      variance = variance > T(0) ? variance : T(0);
    }
    d = quotient(d, add(root_of(variance), small));
    if (momentum != 0.0) d = x[3] = add(mul(mu, x[3]), d);
    x[0] = sub(x[0], mul(rate, d));
    x[5] = add(x[5], mul(follow, sub(x[0], x[5])));
  });
}
