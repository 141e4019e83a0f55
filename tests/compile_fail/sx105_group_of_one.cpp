// SPDX-License-Identifier: Apache-2.0
// expect-error: SX105
// why: A group of one rank shares its copy with nobody. FSDP turns HYBRID_SHARD over such groups
// why: into NO_SHARD within each, with a warning, and the gradients are never reduced over the
// why: copies.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Hybrid = sx::HybridShard<1>;
#else
using Hybrid = sx::HybridShard<2>;
#endif
using Strategy = sx::StrategyOf<Hybrid>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
