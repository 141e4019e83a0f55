// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace shardexpr {

/// What a step tells, the same on every rank.
struct [[nodiscard]] StepResult {
  double loss = 0;           ///< mean over the ranks' micro-batches
  double gradient_norm = 0;  ///< L2 norm of the averaged gradient of all parameters, not clipped
  bool is_skipped = false;   ///< gradients were not finite: parameters and moments are as before
  float loss_scale = 1;      ///< by which the loss was multiplied before backward
};

}  // namespace shardexpr
