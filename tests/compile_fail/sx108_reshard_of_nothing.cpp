// SPDX-License-Identifier: Apache-2.0
// expect-error: SX108
// why: ReshardTo says what a unit leaves behind when it is released after its forward. Where the
// why: parameters stay whole, or the model is one group, nothing is. DeepSpeed accepts its
// why: counterpart, `zero_hpz_partition_size`, below stage 3 and ignores it.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Kept = sx::ShardGradOp;
#else
using Kept = sx::FullShard;
#endif
using Strategy = sx::StrategyOf<Kept, sx::ReshardTo<2>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
