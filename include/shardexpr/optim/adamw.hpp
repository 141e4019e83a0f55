// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/adam_moments.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cstddef>

namespace shardexpr {

/// p <- p (1 - lr wd) - lr/(1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps), with
/// m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2.
/// Source:  Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
class AdamWUpdate {
 public:
  AdamWUpdate(const AdamW::Options& options, std::size_t step)
      : moments_{options, step},
        rate_{moments_.rate()},
        keep_{static_cast<float>(1.0 - static_cast<double>(options.learning_rate) *
                                           static_cast<double>(options.weight_decay))} {}

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
    p = multiply_add(-rate_, moments_.direction(g, m), keep_ * p);
  }

 private:
  detail::AdamMoments moments_;
  float rate_, keep_;
};

}  // namespace shardexpr
