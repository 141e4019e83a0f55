// SPDX-License-Identifier: Apache-2.0
// expect-error: SX120
// why: fp16 holds nothing below 6e-8, and most gradients of a large model lie near it: unscaled
// they why: become 0, and training stalls without a word. PyTorch leaves the scaler to the caller.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Scale = sx::LossScaleNone;
#else
using Scale = sx::DynamicLossScale;
#endif
using Strategy = sx::StrategyOf<sx::MixedPrecision<sx::fp16, sx::fp32>, Scale>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
