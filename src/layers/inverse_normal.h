#pragma once

namespace decant::layers {

/// The x of which the standard normal distribution lies `p` below, 0 < p < 1: sqrt(2) erfinv(2p -
/// 1), to a few ulp.
double inverse_normal_cdf(double p);

}  // namespace decant::layers
