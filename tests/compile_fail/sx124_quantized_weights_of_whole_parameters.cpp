// SPDX-License-Identifier: Apache-2.0
// expect-error: SX124
// why: QuantizedWeights rounds what gathers send to units. Where every rank keeps all parameters,
// why: units are sent none; the updates that ranks publish are state, which stays exact. DeepSpeed
// why: accepts its counterpart, `zero_quantized_weights`, below stage 3 and ignores it.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Kept = sx::ShardGradOp;
#else
using Kept = sx::FullShard;
#endif
using Strategy = sx::StrategyOf<Kept, sx::QuantizedWeights>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
