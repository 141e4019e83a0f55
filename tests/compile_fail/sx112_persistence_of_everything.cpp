// SPDX-License-Identifier: Apache-2.0
// expect-error: SX112
// why: Persistence exempts small parameters from sharding. Where parameters are not sharded the
// why: number would do nothing: DeepSpeed accepts `stage3_param_persistence_threshold` at every
// why: stage and reads it at stage 3.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Kept = sx::ShardGradOp;
#else
using Kept = sx::FullShard;
#endif
using Strategy = sx::StrategyOf<Kept, sx::PersistBelow<100'000>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
