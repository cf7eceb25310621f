// One Adam or AdamW step of many arrays, moving average included, in one pass; see README.md. Element by element the
// operations of cpu.py in their order, each rounded once.
#include "multi.cuh"

// Rows: p, g, m, v, average. Own numbers: lr/(1−β₁ᵗ), 1/√(1−β₂ᵗ), what p is multiplied by (decoupled decay).
extern "C" __global__ void __launch_bounds__(256) adam(const unsigned long long* table, int arrays, const int* map,
    const long long* sizes, int first, const double* numbers, const double* report, double scale, double beta1,
    double beta2, double eps, double decay) {
  if (refused(report)) return;
  T* at[5];
  const int count = piece(at, table, arrays, map, sizes, first);
  const T b1 = T(beta1), a1 = T(1.0 - beta1), b2 = T(beta2), a2 = T(1.0 - beta2), small = T(eps), l2 = T(decay);
  const T rate = T(numbers[OWN]), root = T(numbers[OWN + 1]), shrink = T(numbers[OWN + 2]);
  const T clip = scale_of(report, scale), follow = T(numbers[FOLLOW]);
  pass<0b11101>(at, count, [&](T (&x)[5]) {
    const T g = add(mul(clip, x[1]), mul(l2, x[0]));
    x[2] = add(mul(b1, x[2]), mul(a1, g));
    x[3] = add(mul(b2, x[3]), mul(mul(a2, g), g));
    x[0] = sub(mul(shrink, x[0]), quotient(mul(rate, x[2]), add(mul(root_of(x[3]), root), small)));
    x[4] = add(x[4], mul(follow, sub(x[0], x[4])));
  });
}
