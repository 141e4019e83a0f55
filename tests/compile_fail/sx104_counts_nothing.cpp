// SPDX-License-Identifier: Apache-2.0
// expect-error: SX104
// why: A number of 0 reads like a switch that turns the policy off, or like no bound at all. FSDP's
// why: wrap by size takes a least size of 0 as no wrapping, in silence. Here a policy that is not
// why: wanted is left out.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Wrap = sx::WrapBySize<0>;
#else
using Wrap = sx::WrapBySize<1000>;
#endif
using Strategy = sx::StrategyOf<Wrap>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
