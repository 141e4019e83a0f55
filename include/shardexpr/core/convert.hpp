// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/lanes.hpp>
#include <shardexpr/core/loop.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace shardexpr::detail {

// A narrowed array of this size does not stay in a last-level cache beside what it was made from,
// and ordinary stores would first read the lines they overwrite. Widening writes twice what it
// reads: there streaming stores gained nothing.
inline constexpr std::size_t streaming_output_bytes = std::size_t{8} << 20;

template <class From, class To>
void convert_plainly(const From* from, To* to, std::size_t count) {
  for_independent(count,
                  [=](std::size_t i) { to[i] = static_cast<To>(static_cast<float>(from[i])); });
}

/// Converts each element as the dtypes convert one, to the bit: through fp32, rounded to nearest.
///
/// Shapes:  from (count,) -> to (count,), disjoint.
/// Cost:    one pass, in lanes where the processor has instructions for both dtypes, and then past
///          the caches where `to` is narrower and large.
template <class From, class To>
void convert(const From* from, To* to, std::size_t count) {
  if constexpr (std::is_same_v<From, To>) {
    if (count != 0) std::memcpy(to, from, count * sizeof(To));
  } else {
    std::size_t at = 0;
    if constexpr (has_lanes<From> && has_lanes<To>) {
      if constexpr (sizeof(To) < sizeof(From)) {
        if (count * sizeof(To) >= streaming_output_bytes) {
          at = (0 - reinterpret_cast<std::uintptr_t>(to)) % 64 / sizeof(To);  // to the next line
          convert_plainly(from, to, at);
          at += stream_lanes(from + at, to + at, count - at);
        }
      }
      at += convert_lanes(from + at, to + at, count - at);
    }
    convert_plainly(from + at, to + at, count - at);
  }
}

}  // namespace shardexpr::detail
