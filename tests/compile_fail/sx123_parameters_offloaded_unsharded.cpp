// SPDX-License-Identifier: Apache-2.0
// expect-error: SX123
// why: Parameters that every rank keeps whole are what units compute with: they are never not
// why: needed on the device. DeepSpeed takes `offload_param` below stage 3 and ignores it.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Offload = sx::OffloadAll;
#else
using Offload = sx::Offload<sx::OnDevice, sx::OnHost>;
#endif
using Strategy = sx::StrategyOf<sx::ShardGradOp, Offload>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
