// SPDX-License-Identifier: Apache-2.0
// expect-error: SX119
// why: bf16 has the range of fp32 and few digits, fp16 has digits and little range. Handed from one
// why: to the other, gradients overflow or vanish, and a loss scale that fits one does not fit the
// why: other. DeepSpeed refuses both in one configuration, too.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Precision = sx::MixedPrecision<sx::fp16, sx::bf16>;
#else
using Precision = sx::MixedPrecision<sx::fp16, sx::fp32>;
#endif
using Strategy = sx::StrategyOf<Precision, sx::DynamicLossScale>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
