// SPDX-License-Identifier: Apache-2.0
// expect-error: SX122
// why: Updates are computed in fp32. Parameters kept in fp32 are written as they are, so that there
// why: is nothing to round, and the policy would do nothing, in silence. The copy that units
// why: compute with is no state: it is rounded to nearest.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Storage = sx::fp32;
#else
using Storage = sx::bf16;
#endif
using Strategy =
    sx::StrategyOf<sx::Precision<Storage, sx::bf16, sx::fp32, sx::fp32>, sx::RoundStochastic>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
