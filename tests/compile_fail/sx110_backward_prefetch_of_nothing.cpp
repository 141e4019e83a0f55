// SPDX-License-Identifier: Apache-2.0
// expect-error: SX110
// why: Where parameters stay whole, or are gathered all at once, backward has no next group to
// why: gather. FSDP2 takes a backward prefetch that it does not use with a warning.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Kept = sx::NoShard;
#else
using Kept = sx::FullShard;
#endif
using Strategy = sx::StrategyOf<Kept, sx::BackwardPre>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
