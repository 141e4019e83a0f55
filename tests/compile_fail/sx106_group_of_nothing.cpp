// SPDX-License-Identifier: Apache-2.0
// expect-error: SX106
// why: A group says which ranks share one copy of what is sharded. Where every rank keeps
// why: everything, it would have no effect.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

struct Mine {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = false, gradients = false;
#ifdef MUST_FAIL
  static constexpr bool optimizer = false;
#else
  static constexpr bool optimizer = true;
#endif
  static constexpr std::size_t group = 2;
};
using Strategy = sx::StrategyOf<Mine>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
