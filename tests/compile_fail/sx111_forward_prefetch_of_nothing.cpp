// SPDX-License-Identifier: Apache-2.0
// expect-error: SX111
// why: WrapWhole gathers the model before its first unit, so forward has nothing left to gather
// why: ahead; nor has it where parameters stay whole.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Wrap = sx::WrapWhole;
#else
using Wrap = sx::WrapEach<>;
#endif
using Strategy = sx::StrategyOf<Wrap, sx::ForwardPrefetch<1>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
