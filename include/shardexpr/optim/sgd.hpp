// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/fma.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/optim/update.hpp>
#include <shardexpr/policy/optimizer.hpp>

#include <cstddef>

namespace shardexpr {

/// p <- p - lr (g + wd p).
class SgdUpdate {
 public:
  SgdUpdate(const Sgd::Options& options, std::size_t)
      : rate_{options.learning_rate}, decay_{options.weight_decay} {}

  SHARDEXPR_HOST_DEVICE void operator()(float& p, float g, float*) const {
    p = multiply_add(-rate_, multiply_add(decay_, p, g), p);
  }

 private:
  float rate_, decay_;
};

}  // namespace shardexpr
