// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/adam_moments.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cstddef>

namespace shardexpr {

/// p <- p - lr/(1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps), with h = g + wd p,
/// m <- b1 m + (1 - b1) h and v <- b2 v + (1 - b2) h^2.
/// Source:  Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
class AdamUpdate {
 public:
  AdamUpdate(const Adam::Options& options, std::size_t step)
      : moments_{options, step}, rate_{moments_.rate()}, decay_{options.weight_decay} {}

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
    p = multiply_add(-rate_, moments_.direction(multiply_add(decay_, p, g), m), p);
  }

 private:
  detail::AdamMoments moments_;
  float rate_, decay_;
};

}  // namespace shardexpr
