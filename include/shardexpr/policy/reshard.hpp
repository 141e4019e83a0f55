// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <cstddef>

namespace shardexpr {

/// What a rank keeps of a unit between its forward and its backward. `ranks`: 1/ranks of it, shared
/// with as many neighbours; 0: its part of the sharding, nothing besides.
template <class P>
concept ReshardPolicy = OnAxis<P, axis::Reshard> && requires {
  { P::ranks } -> std::convertible_to<std::size_t>;
};

/// After forward a unit goes back to the parts that it was gathered from.
struct ReshardToShard {
  using axis = axis::Reshard;
  static constexpr std::size_t ranks = 0;
};

/// After forward a rank keeps 1/K of the unit, so that backward gathers from K neighbouring ranks
/// (of one machine, say) instead of all. FSDP2's `reshard_after_forward=K`; ZeRO++'s hpZ.
///
/// Errors:  ConfigError unless K divides the ranks that share one copy and is less.
/// Cost:    1/K of each unit, from its forward to its backward; backward sends (K-1)/K of the unit.
/// Source:  Wang et al., ZeRO++, ICLR 2024, section 3.2.
template <std::size_t K>
struct ReshardTo {
  using axis = axis::Reshard;
  static constexpr std::size_t ranks = K, count = K;
};

template <>
struct axis_traits<axis::Reshard> {
  template <class P>
  static constexpr bool accepts = ReshardPolicy<P>;
  using standard = ReshardToShard;
};

}  // namespace shardexpr
