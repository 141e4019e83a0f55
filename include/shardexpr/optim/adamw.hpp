// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cmath>
#include <cstddef>

namespace shardexpr {

/// p <- p (1 - lr wd) - lr/(1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps), with
/// m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2.
/// Source:  Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
class AdamWUpdate {
 public:
  AdamWUpdate(const AdamW::Options& options, std::size_t step)
      : beta1_{options.beta1},
        beta2_{options.beta2},
        gain1_{static_cast<float>(1.0 - static_cast<double>(options.beta1))},
        gain2_{static_cast<float>(1.0 - static_cast<double>(options.beta2))},
        epsilon_{options.epsilon},
        keep_{static_cast<float>(1.0 - static_cast<double>(options.learning_rate) *
                                           static_cast<double>(options.weight_decay))} {
    const double t = static_cast<double>(step);
    rate_ = static_cast<float>(static_cast<double>(options.learning_rate) /
                               (1.0 - std::pow(static_cast<double>(options.beta1), t)));
    unbias2_ =
        static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(static_cast<double>(options.beta2), t)));
  }

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
    m[0] = multiply_add(beta1_, m[0], gain1_ * g);
    m[1] = multiply_add(beta2_, m[1], (gain2_ * g) * g);
    const float deviation = multiply_add(__builtin_sqrtf(m[1]), unbias2_, epsilon_);
    p = multiply_add(-rate_, m[0] / deviation, keep_ * p);
  }

 private:
  float beta1_, beta2_, gain1_, gain2_, epsilon_, keep_;
  float rate_ = 0, unbias2_ = 0;
};

}  // namespace shardexpr
