// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cstddef>

namespace shardexpr {

/// p <- p - lr m, with h = g + wd p and m <- momentum m + (1 - dampening) h; in step 1, m <- h.
/// Nesterov's: p <- p - lr (h + momentum m).
/// Source:  Sutskever et al., On the importance of initialization and momentum in deep learning,
///          ICML 2013, section 2, in PyTorch's form: the rate is outside the running sum.
class SgdMomentumUpdate {
 public:
  SgdMomentumUpdate(const SgdMomentum::Options& options, std::size_t step)
      : rate_{options.learning_rate},
        decay_{options.weight_decay},
        keep_{step == 1 ? 0.0f : options.momentum},
        gain_{step == 1 ? 1.0f : static_cast<float>(1.0 - static_cast<double>(options.dampening))},
        of_gradient_{options.nesterov ? 1.0f : 0.0f},
        of_moment_{options.nesterov ? options.momentum : 1.0f} {}

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float* m) const {
    const float h = multiply_add(decay_, p, g);
    m[0] = multiply_add(keep_, m[0], gain_ * h);
    p = multiply_add(-rate_, multiply_add(of_moment_, m[0], of_gradient_ * h), p);
  }

 private:
  float rate_, decay_, keep_, gain_;
  float of_gradient_, of_moment_;  // of the step
};

}  // namespace shardexpr
