// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/plan/plan.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace shardexpr::detail {

/// "92.1 GiB (98891860326 bytes)"
inline std::string bytes_text(std::size_t bytes) {
  const std::string exact = std::to_string(bytes) + " bytes";
  if (bytes < 1_MiB) return exact;
  const bool is_large = bytes >= 1_GiB;
  const std::size_t unit = is_large ? 1_GiB : 1_MiB;
  const std::size_t tenths = bytes / unit * 10 + bytes % unit * 10 / unit;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) +
         (is_large ? " GiB (" : " MiB (") + exact + ")";
}

inline void check_fits(std::size_t needed, std::size_t available, std::string_view place,
                       const std::string& most_of_it, std::string_view advice) {
  if (needed > available)
    throw ConfigError("a rank of this strategy needs " + bytes_text(needed) + " on the " +
                      std::string{place} + most_of_it + ", and " + bytes_text(available) +
                      " are available there: " + std::string{advice});
}

/// What `plan` asks of a trainer.
template <class M, class S>
struct Planned {
  using Model = M;
  using Strategy = S;
};

/// Refuses what will not fit before anything is allocated, where the device or its host can tell
/// how much there is: one rank's need, by the plan. What other ranks of the process take at the
/// same time is found out by the allocation that fails.
/// Errors:  ConfigError with the numbers.
template <class M, class S, class Device>
Device& fitting(Device& device, const typename M::Config& config, std::size_t world,
                std::size_t micro_batches) {
  if constexpr (requires { device.available_bytes(); }) {
    const Plan plan = shardexpr::plan<Planned<M, S>>(config, world, micro_batches);
    check_fits(plan.device_peak_bytes, device.available_bytes(), "device",
               ", " + bytes_text(plan.activations_bytes) + " of it for activations",
               "shard over more ranks, offload, recompute, or take a smaller batch (sx::plan tells "
               "the bytes of each)");
    if constexpr (needs_host<S>)
      if constexpr (requires { device.host().available_bytes(); })
        check_fits(plan.host_peak_bytes, device.host().available_bytes(), "host", "",
                   "shard over more ranks, or keep state on NVMe (sx::plan tells the bytes)");
  }
  return device;
}

}  // namespace shardexpr::detail
