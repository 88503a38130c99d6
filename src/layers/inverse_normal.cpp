#include "layers/inverse_normal.h"

#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace decant::layers {

double inverse_normal_cdf(double p) {
  DECANT_ASSERT(p > 0 && p < 1, "a quantile is asked for a probability between 0 and 1");
  // The lower tail, so that erfc keeps its digits; the density is symmetric.
  if (p > 0.5) return -inverse_normal_cdf(1 - p);
  // The leading term of the tail's expansion puts the start within a few tenths; Newton steps on
  // the logarithm of the distribution converge from there (it is concave, and nearly linear in the
  // tail).
  double x = -std::sqrt(-2 * std::log(2 * p));
  for (int i = 0; i < 60; ++i) {
    const double below = 0.5 * std::erfc(-x / std::numbers::sqrt2);
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
    const double step = (std::log(below) - std::log(p)) * below / density;
    x -= step;
    if (std::fabs(step) <= 1e-16 * (1 + std::fabs(x))) break;
  }
  return x;
}

}  // namespace decant::layers
