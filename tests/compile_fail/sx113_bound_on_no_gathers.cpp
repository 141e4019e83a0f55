// SPDX-License-Identifier: Apache-2.0
// expect-error: SX113
// why: MaxLive, PrefetchBucket, ReuseWithin and LimitGathers say how much may be gathered at once.
// why: Where nothing is gathered in turn, the memory is the same whatever their number. DeepSpeed
// why: accepts `stage3_max_live_parameters` at every stage and reads it at stage 3.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Kept = sx::NoShard;
#else
using Kept = sx::FullShard;
#endif
using Strategy = sx::StrategyOf<Kept, sx::MaxLive<1'000'000>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
