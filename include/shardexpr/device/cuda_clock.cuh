// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

// Alone, for the tests over the emulated runtime to put another in its place.
namespace shardexpr::detail {

/// The GPU's clock: ns, one for all multiprocessors, and it runs on. A GPU renews it at least once
/// in a microsecond.
/// Source:  NVIDIA, PTX ISA, "Special Registers: %globaltimer".
inline __device__ std::int64_t gpu_time_ns() {
  std::int64_t ns = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

}  // namespace shardexpr::detail
