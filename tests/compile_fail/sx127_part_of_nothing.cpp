// SPDX-License-Identifier: Apache-2.0
// expect-error: SX127
// why: `Partly` divides an update between host and device. None or all of it has a name already,
// why: and parameters are not updated but gathered, all of them by every rank.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Optimizer = sx::Partly<3, 3>;
#else
using Optimizer = sx::Partly<2, 3>;
#endif
using Strategy = sx::StrategyOf<sx::Offload<sx::OnDevice, Optimizer>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
