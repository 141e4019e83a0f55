// SPDX-License-Identifier: Apache-2.0
// expect-error: SX116
// why: A unit is a group of its own or it is not. A second mention adds nothing, and is most likely
// why: a slip for another unit, which would stay in the root in silence.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

struct Block;
struct Head;

#ifdef MUST_FAIL
using Wrap = sx::WrapEach<Block, Block>;
#else
using Wrap = sx::WrapEach<Block, Head>;
#endif
using Strategy = sx::StrategyOf<Wrap>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
