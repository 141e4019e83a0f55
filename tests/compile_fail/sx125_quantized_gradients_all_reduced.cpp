// SPDX-License-Identifier: Apache-2.0
// expect-error: SX125
// why: QuantizedGradients sends each rank the codes of the part that it keeps. Under NoShard every
// why: rank keeps the whole mean: to send that on, it would have to be rounded once more. DeepSpeed
// why: accepts its counterpart, `zero_quantized_gradients`, below stage 3 and ignores it.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Kept = sx::NoShard;
#else
using Kept = sx::ShardOptimizer;
#endif
using Strategy = sx::StrategyOf<Kept, sx::QuantizedGradients>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
