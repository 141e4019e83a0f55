// SPDX-License-Identifier: Apache-2.0
// expect-error: SX121
// why: The fourth dtype of a precision is that of the moments. With an optimizer that keeps none it
// why: would be accepted and do nothing.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Optimizer = sx::Sgd;
#else
using Optimizer = sx::AdamW;
#endif
using Strategy = sx::StrategyOf<sx::Precision<sx::fp32, sx::bf16, sx::fp32, sx::bf16>, Optimizer>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
