// One step of gradient descent of many arrays, moving average included, in one pass; see README.md. Element by element
// the operations of cpu.py in their order, each rounded once.
#include "multi.cuh"

// Rows: p, g, velocity, average.
extern "C" __global__ void __launch_bounds__(256) sgd(const unsigned long long* table, int arrays, const int* map,
    const long long* sizes, int first, const double* numbers, const double* report, double scale, double momentum,
    bool nesterov, double decay) {
  if (refused(report)) return;
  T* at[4];
  const int count = piece(at, table, arrays, map, sizes, first);
  const T rate = T(numbers[RATE]), follow = T(numbers[FOLLOW]), clip = scale_of(report, scale);
  const T mu = T(momentum), l2 = T(decay);
  const bool begin = numbers[STEP] == 1.0;   // what lies in the velocity's memory is not looked at
  pass<0b1101>(at, count, [&](T (&x)[4]) {
    const T d = add(mul(clip, x[1]), mul(l2, x[0]));
    if (momentum != 0.0) {
      x[2] = add(mul(mu, begin ? T(0) : x[2]), d);
      x[0] = sub(x[0], mul(rate, nesterov ? add(d, mul(mu, x[2])) : x[2]));
    } else {
      x[0] = sub(x[0], mul(rate, d));
    }
    x[3] = add(x[3], mul(follow, sub(x[0], x[3])));
  });
}
