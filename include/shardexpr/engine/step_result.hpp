// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace shardexpr {

/// What a step tells, the same on every rank.
struct StepResult {
  double loss = 0;           ///< mean over the ranks' micro-batches
  double gradient_norm = 0;  ///< L2 norm of the averaged gradient of all parameters
};

}  // namespace shardexpr
