// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/shardexpr.hpp>

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

#include "options.hpp"
#include "report.hpp"

namespace sx = shardexpr;

namespace machine {

/// What strategies that name no device train on.
using Device = sx::Cpu;
inline constexpr const char* device_name = "Cpu";

/// Before ranks start.
inline void make_ready(const Options&) { sx::nn::use_one_blas_thread(); }

/// The device of one rank. A device that wraps another is made of `before`, too.
template <class D, class... Before>
D make_device(const Options& o, std::size_t /*rank*/, Before&&... before) {
  const auto execution = o.async ? sx::Execution::asynchronous : sx::Execution::immediate;
  if constexpr (std::is_constructible_v<D, Before..., sx::Execution>)
    return D(std::forward<Before>(before)..., execution);
  else if (o.async)
    throw BadInput("--async: the strategy's device has no such choice; leave it out");
  else
    return D(std::forward<Before>(before)...);
}

/// Refuses before allocating what cannot be held; bytes of one rank. Both places are this
/// machine's. Errors:  BadInput, with the numbers.
inline void check_fits(const char* needs, double device_bytes, double host_bytes,
                       std::size_t ranks) {
  check_fits_in("this machine", machine_bytes(), needs, device_bytes + host_bytes, ranks);
}

}  // namespace machine
