// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <cstdint>

// In place of the header of this name: a clock of the emulated GPU, which is not the host's.
namespace shardexpr::detail {

inline constexpr std::int64_t gpu_time_ahead_ns = std::int64_t{25'200} * 1'000'000'000;

inline std::int64_t gpu_time_ns() {
  const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  return now.count() + gpu_time_ahead_ns;
}

}  // namespace shardexpr::detail
