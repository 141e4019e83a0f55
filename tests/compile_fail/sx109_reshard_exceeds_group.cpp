// SPDX-License-Identifier: Apache-2.0
// expect-error: SX109
// why: The K ranks that share what is kept are neighbours in a shard group. Sets of K must fill the
// why: group, and a K as large as the group would keep what the sharding keeps anyway. Without
// why: HybridShard the group is the world, and `plan` and the trainer check K against it.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Reshard = sx::ReshardTo<3>;
#else
using Reshard = sx::ReshardTo<2>;
#endif
using Strategy = sx::StrategyOf<sx::HybridShard<4>, Reshard>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
