// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace planner {

/// What DeepSpeed's `estimate_zero2_model_states_mem_needs` and its like for stage 3 take.
struct EstimateOf {
  double parameters = 0;
  double largest_layer = 0;  ///< parameters of the largest module that has some itself
  std::size_t ranks_a_machine = 1, machines = 1;

  double ranks() const { return static_cast<double>(ranks_a_machine * machines); }
};

/// Bytes: of a device, and of a machine's host.
struct EstimatedStates {
  double device = 0, host = 0;
};

/// Model states alone: 16-bit parameters, fp32 masters, gradients and moments. `host` has their
/// factor of 1.5 for buffers.
///
/// Source:  DeepSpeed, runtime/zero/stage_1_and_2.py and stage3.py.
EstimatedStates zero2_states(const EstimateOf& of, bool optimizer_on_host);
/// With parameters made by zero.Init, as shards.
EstimatedStates zero3_states(const EstimateOf& of, bool optimizer_on_host, bool parameters_on_host);

/// Bytes of a device, of 16 bytes a parameter for all that mixed precision keeps, by what is
/// sharded: stage 0 to 3.
///
/// Source:  Rajbhandari et al., ZeRO, SC20, section 5.
double paper_states(const EstimateOf& of, int stage);

}  // namespace planner
