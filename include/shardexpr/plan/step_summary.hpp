// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/exact_sum.hpp>

#include <cstdint>
#include <limits>

namespace shardexpr {

/// What ranks tell each other once a step, beside parameters and gradients.
struct StepSummary {
  ExactSum gradient_squares;  ///< of the gradients this rank answers for
  double loss = 0;            ///< this rank's
};

/// What a step decides about its update when all gradients are reduced. It lies in the device's
/// memory: whoever decides runs on a stream, as the update does, and the host waits for neither.
struct UpdateControl {
  float factor = 1;  ///< each gradient is multiplied by it: loss scale and norm clipping
  float limit = std::numeric_limits<float>::infinity();  ///< then held to [-limit, limit]
  std::uint32_t skips = 0;                               ///< not 0: nothing is written
};

/// What every rank makes of all ranks' summaries, the same on each.
struct StepOutcome {
  UpdateControl control;
  double loss = 0;  ///< the mean
  double norm = 0;  ///< of the averaged gradients, without loss scale
};

}  // namespace shardexpr
