// SPDX-License-Identifier: Apache-2.0
// expect-error: SX107
// why: A rank that keeps all of a unit has resharded nothing. FSDP2 reads `reshard_after_forward=1`
// why: as `False`; here a strategy that keeps the parameters has a name of its own.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Reshard = sx::ReshardTo<1>;
#else
using Reshard = sx::ReshardTo<2>;
#endif
using Strategy = sx::StrategyOf<Reshard>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
