// SPDX-License-Identifier: Apache-2.0
// expect-error: SX126
// why: Blocks are made of codes of 4 or 8 bits. A policy of one's own that asks for others would
// why: have to bring blocks of its own.
#include <shardexpr/policy/strategy.hpp>

namespace sx = shardexpr;

struct Coarse {
  using axis = sx::axis::GradientCompression;
#ifdef MUST_FAIL
  static constexpr std::size_t bits = 2;
#else
  static constexpr std::size_t bits = 8;
#endif
};
using Strategy = sx::StrategyOf<Coarse>;

// Neither making one nor asking it may add an error of its own.
Strategy strategy{};
using Sharding = Strategy::sharding;
