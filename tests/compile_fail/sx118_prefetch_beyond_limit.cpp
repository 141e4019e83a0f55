// SPDX-License-Identifier: Apache-2.0
// expect-error: SX118
// why: The group that is computed with counts, too: of N gathered groups N-1 can be ahead. A deeper
// why: prefetch would be cut, in silence.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

#ifdef MUST_FAIL
using Ahead = sx::ForwardPrefetch<3>;
#else
using Ahead = sx::ForwardPrefetch<2>;
#endif
using Strategy = sx::StrategyOf<Ahead, sx::LimitGathers<3>>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
