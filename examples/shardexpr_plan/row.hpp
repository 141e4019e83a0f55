// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/policy/offload.hpp>

#include <cstddef>
#include <string>
#include <vector>

#include "job.hpp"

namespace planner {

/// A strategy, by what matters to its cost, and its plan.
struct Row {
  std::string sharding;   ///< as C++: HybridShard<8>
  std::string policies;   ///< the sharding and what else is not the default, without precision
  std::string precision;  ///< as C++
  shardexpr::Place parameters = shardexpr::Place::device, optimizer = shardexpr::Place::device;
  std::size_t shards = 1, copies = 1;  ///< ranks that share one copy; copies
  std::size_t compute_bytes = 4;       ///< of an element, as it is gathered
  bool gathers = false;                ///< parameters are sharded
  bool gathers_ahead_in_forward = false, overlaps_backward = true;
  bool recomputes = false, reduces_at_end = false;
  shardexpr::Plan plan;
};

/// All strategies of a device and a precision, planned for a job; and those that the job's world
/// has no place for, by their sharding.
struct Rows {
  std::vector<Row> rows;
  std::vector<std::string> left_out;

  void add(Rows more);
};

enum class DeviceKind { cuda, cpu };
/// As `MixedPrecision<bf16, fp32>`, `FullPrecision` and all in bf16.
enum class PrecisionKind { mixed, fp32, bf16 };

/// `HybridShard<S>`, S being a constant of the program.
inline constexpr std::size_t hybrid_group = 8;

/// Cost:    a `plan` for each strategy, linear in layers and ranks.
Rows plan_all(DeviceKind device, PrecisionKind precision, const Job& job);

/// `Sharded<Gpt, ...>`, as a program writes it.
std::string type_of(const Row& row, DeviceKind device);

}  // namespace planner
