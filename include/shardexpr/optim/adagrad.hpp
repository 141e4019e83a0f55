// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cstddef>

namespace shardexpr {

/// p <- p - lr / (1 + (t - 1) lr_decay) h / (sqrt(s) + eps), with h = g + wd p and s <- s + h^2.
/// Source:  Duchi, Hazan & Singer, Adaptive Subgradient Methods, JMLR 12 (2011), section 1, the
///          diagonal case; the decay of the rate is PyTorch's.
class AdagradUpdate {
 public:
  AdagradUpdate(const Adagrad::Options& options, std::size_t step)
      : rate_{static_cast<float>(static_cast<double>(options.learning_rate) /
                                 (1.0 + (static_cast<double>(step) - 1.0) *
                                            static_cast<double>(options.learning_rate_decay)))},
        epsilon_{options.epsilon},
        decay_{options.weight_decay} {}

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
    const float h = multiply_add(decay_, p, g);
    m[0] = multiply_add(h, h, m[0]);
    p = multiply_add(-rate_, h / (__builtin_sqrtf(m[0]) + epsilon_), p);
  }

 private:
  float rate_, epsilon_, decay_;
};

}  // namespace shardexpr
