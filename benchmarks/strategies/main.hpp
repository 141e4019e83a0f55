// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace shardexpr::benchmarks {

/// What the command line says, the same for every strategy.
struct StrategyOptions {
  std::size_t size = 1;   ///< of `sizes`
  std::size_t steps = 5;  ///< that are timed, after one that is not
  std::string timelines;  ///< a folder for one timeline of each, or none
  std::string swap;       ///< a folder on the disk where state may lie
};
inline StrategyOptions& strategy_options() {
  static StrategyOptions options;
  return options;
}

/// What each translation unit registers, when the communicator is there.
inline std::vector<void (*)()>& strategy_slices() {
  static std::vector<void (*)()> slices;
  return slices;
}

/// A network of 2 Gbit/s, over which a step of two ranks communicates about as long as it computes.
inline constexpr std::int64_t network_megabytes = 250;

}  // namespace shardexpr::benchmarks
