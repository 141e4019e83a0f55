// SPDX-License-Identifier: Apache-2.0
// expect-error: SX115
// why: The group that a unit computes with fills a limit of one, so each gather ahead would be
// why: skipped and the prefetch would have no effect. FSDP's `limit_all_gathers` allows two.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Limit = sx::LimitGathers<1>;
#else
using Limit = sx::LimitGathers<2>;
#endif
using Strategy = sx::StrategyOf<sx::BackwardPre, Limit>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
