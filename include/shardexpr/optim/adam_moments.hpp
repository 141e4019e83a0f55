// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>

#include <cmath>
#include <cstddef>

namespace shardexpr::detail {

/// What Adam and AdamW share, in step t:
///
///   m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
///   -rate direction = -lr/(1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
///
/// Constants are formed in double and rounded once.
class AdamMoments {
 public:
  template <class Options>
  AdamMoments(const Options& options, std::size_t step)
      : beta1_{options.beta1},
        beta2_{options.beta2},
        gain1_{static_cast<float>(1.0 - static_cast<double>(options.beta1))},
        gain2_{static_cast<float>(1.0 - static_cast<double>(options.beta2))},
        epsilon_{options.epsilon} {
    const double t = static_cast<double>(step);
    rate_ = static_cast<float>(static_cast<double>(options.learning_rate) /
                               (1.0 - std::pow(static_cast<double>(options.beta1), t)));
    unbias2_ =
        static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(static_cast<double>(options.beta2), t)));
  }

  float rate() const { return rate_; }

  SHARDEXPR_HOST_DEVICE float direction(float g, float* m) const {
    m[0] = multiply_add(beta1_, m[0], gain1_ * g);
    m[1] = multiply_add(beta2_, m[1], (gain2_ * g) * g);
    return m[0] / multiply_add(__builtin_sqrtf(m[1]), unbias2_, epsilon_);
  }

 private:
  float beta1_, beta2_, gain1_, gain2_, epsilon_;
  float rate_ = 0, unbias2_ = 0;
};

}  // namespace shardexpr::detail
