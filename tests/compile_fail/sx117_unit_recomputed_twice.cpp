// SPDX-License-Identifier: Apache-2.0
// expect-error: SX117
// why: A unit is rebuilt or it is not. A second mention adds nothing, and is most likely a slip for
// why: another unit, whose activations would be kept in silence.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

struct Block;
struct Head;

#ifdef MUST_FAIL
using Rebuilt = sx::Recompute<Block, Block>;
#else
using Rebuilt = sx::Recompute<Block, Head>;
#endif
using Strategy = sx::StrategyOf<Rebuilt>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
