// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

namespace shardexpr {

/// What each rank keeps only 1/W of. Rules, plan and engine ask these three questions and no
/// others, so a user's own sharding is judged and served like ours.
template <class P>
concept ShardingPolicy = OnAxis<P, axis::Sharding> && requires {
  { P::parameters } -> std::convertible_to<bool>;
  { P::gradients } -> std::convertible_to<bool>;
  { P::optimizer } -> std::convertible_to<bool>;
};

/// Every rank keeps 1/W of parameters, gradients and optimizer state; a unit's parameters are
/// gathered before its forward and again before its backward. FSDP's FULL_SHARD, ZeRO-3.
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

template <>
struct axis_traits<axis::Sharding> {
  template <class P>
  static constexpr bool accepts = ShardingPolicy<P>;
  using standard = FullShard;
};

}  // namespace shardexpr
