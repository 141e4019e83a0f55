// SPDX-License-Identifier: Apache-2.0
// expect-error: SX114
// why: A bucket for gathers ahead stays empty where neither pass gathers ahead; a limit on gathered
// why: parameters cannot bind where nothing is gathered but what a unit computes with. DeepSpeed
// why: lets another setting, `stage3_allgather_sequential`, overwrite the bucket with 1.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Backward = sx::BackwardNone;
#else
using Backward = sx::BackwardPre;
#endif
using Strategy = sx::StrategyOf<Backward, sx::ForwardNone, sx::PrefetchBucket<1'000'000>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
