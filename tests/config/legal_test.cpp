// SPDX-License-Identifier: Apache-2.0
// Each file's strategy is legal, and as a type is what the judge described.
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>

#include "../../examples/strategy_from_config/describe.hpp"
#include <doctest/doctest.h>

namespace shardexpr::gpt {
struct Block;
}

TEST_CASE("strategies of files are legal") {
  using namespace shardexpr;
  std::size_t count = 0;
#define LEGAL(...)                                          \
  static_assert(LegalStrategy<__VA_ARGS__>);                \
  CHECK(from_config::describe<StrategyOf<__VA_ARGS__>>() == \
        from_config::parse_policies(#__VA_ARGS__));         \
  ++count;
#include "legal_files.inc"  // made by CMake from the fixtures
#undef LEGAL
  CHECK(count > 40);
}
