// SPDX-License-Identifier: Apache-2.0
// expect-error: SX128
// why: A chunk begins at a block of the file, 64 KiB, in every dtype. Parameters pass through
// why: memory by groups, so that a chunk of them would be ignored.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Optimizer = sx::OnNvmeBy<1000>;
#else
using Optimizer = sx::OnNvmeBy<65536>;
#endif
using Strategy = sx::StrategyOf<sx::Offload<sx::OnDevice, Optimizer>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
