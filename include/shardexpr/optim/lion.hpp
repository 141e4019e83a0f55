// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cstddef>

namespace shardexpr {

/// p <- p (1 - lr wd) - lr sign(b1 m + (1 - b1) g), then m <- b2 m + (1 - b2) g. The sign of 0 is
/// 0, that of NaN is NaN.
/// Source:  Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, algorithm 2.
class LionUpdate {
 public:
  LionUpdate(const Lion::Options& options, std::size_t)
      : rate_{options.learning_rate},
        beta1_{options.beta1},
        beta2_{options.beta2},
        gain1_{static_cast<float>(1.0 - static_cast<double>(options.beta1))},
        gain2_{static_cast<float>(1.0 - static_cast<double>(options.beta2))},
        keep_{static_cast<float>(1.0 - static_cast<double>(options.learning_rate) *
                                           static_cast<double>(options.weight_decay))} {}

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
    const float c = multiply_add(beta1_, m[0], gain1_ * g);
    const float step = c > 0 ? -rate_ : c < 0 ? rate_ : c;
    p = multiply_add(keep_, p, step);
    m[0] = multiply_add(beta2_, m[0], gain2_ * g);
  }

 private:
  float rate_, beta1_, beta2_, gain1_, gain2_, keep_;
};

}  // namespace shardexpr
