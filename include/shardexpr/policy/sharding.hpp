// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <cstddef>

namespace shardexpr {

/// What each rank keeps only a part of. Rules, plan and engine ask these three questions, and
/// `group` where a policy has it, so a user's own sharding is judged and served like ours.
///
/// `group`: how many ranks share one copy, W if it is left out or 0. With a group of S there are
/// W/S copies; gradients are reduced in two stages, in the group and over the copies.
template <class P>
concept ShardingPolicy = OnAxis<P, axis::Sharding> && requires {
  { P::parameters } -> std::convertible_to<bool>;
  { P::gradients } -> std::convertible_to<bool>;
  { P::optimizer } -> std::convertible_to<bool>;
};

/// Every rank keeps 1/W of parameters, gradients and optimizer state; a unit's parameters are
/// gathered for its forward and again for its backward. FSDP's FULL_SHARD, ZeRO-3.
struct FullShard {
  using axis = axis::Sharding;
  static constexpr bool parameters = true, gradients = true, optimizer = true;
};

/// Every rank keeps all parameters, and 1/W of gradients and optimizer state. ZeRO-2. FSDP's
/// SHARD_GRAD_OP sends the same and also splits the parameters between steps.
struct ShardGradOp {
  using axis = axis::Sharding;
  static constexpr bool parameters = false, gradients = true, optimizer = true;
};

/// Every rank keeps all parameters and gradients, and 1/W of optimizer state. ZeRO-1.
struct ShardOptimizer {
  using axis = axis::Sharding;
  static constexpr bool parameters = false, gradients = false, optimizer = true;
};

/// Every rank keeps everything; gradients are all-reduced. DDP, ZeRO-0, NO_SHARD.
struct NoShard {
  using axis = axis::Sharding;
  static constexpr bool parameters = false, gradients = false, optimizer = false;
};

/// `FullShard` within groups of `S` neighbouring ranks, the groups copies of each other: gathers
/// stay in a group, gradients are reduced in it and then all-reduced over the copies. FSDP's
/// HYBRID_SHARD, MiCS.
///
/// Errors:  ConfigError unless W is a multiple of S and at least 2 S: a mesh of one group, or of
///          groups of one, is another strategy, which its user must name.
template <std::size_t S>
struct HybridShard {
  using axis = axis::Sharding;
  static constexpr bool parameters = true, gradients = true, optimizer = true;
  static constexpr std::size_t group = S, count = S;
};

/// `ShardGradOp` within groups of `S` neighbouring ranks. FSDP's HYBRID_SHARD_ZERO2 sends the same.
template <std::size_t S>
struct HybridShardGradOp {
  using axis = axis::Sharding;
  static constexpr bool parameters = false, gradients = true, optimizer = true;
  static constexpr std::size_t group = S, count = S;
};

namespace detail {
template <class Sharding>
inline constexpr std::size_t group_of = 0;
template <class Sharding>
  requires requires { Sharding::group; }
inline constexpr std::size_t group_of<Sharding> = Sharding::group;
}  // namespace detail

template <>
struct axis_traits<axis::Sharding> {
  template <class P>
  static constexpr bool accepts = ShardingPolicy<P>;
  using standard = FullShard;
};

}  // namespace shardexpr
