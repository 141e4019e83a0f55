// SPDX-License-Identifier: Apache-2.0
// Whatever keys a file combines, what comes out as carried over is legal.
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>

#include <doctest/doctest.h>

namespace shardexpr::gpt {
struct Block;
}

TEST_CASE("strategies of files whose keys contradict each other are legal") {
  using namespace shardexpr;
  std::size_t count = 0;
#define LEGAL(...)                                         \
  static_assert(LegalStrategy<__VA_ARGS__>, #__VA_ARGS__); \
  ++count;
#include "sweep.inc"  // made by sweep_generate
#undef LEGAL
  CHECK(count >= 300);
}
