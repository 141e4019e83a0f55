// SPDX-License-Identifier: Apache-2.0
// docs/configuration.md: each file that it shows becomes the type that stands below it, and each
// type compiles.
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <string>

#include "../../examples/strategy_from_config/describe.hpp"
#include "../../examples/strategy_from_config/document.hpp"
#include "judged.hpp"
#include <doctest/doctest.h>

namespace shardexpr::gpt {
struct Block;
}
namespace sx = shardexpr;

TEST_CASE("each type compiles, and is what its text says") {
  std::size_t count = 0;
#define LEGAL(...)                                              \
  static_assert(sx::LegalStrategy<__VA_ARGS__>);                \
  CHECK(from_config::describe<sx::StrategyOf<__VA_ARGS__>>() == \
        from_config::parse_policies(#__VA_ARGS__));             \
  ++count;
#include "docs_types.inc"  // made by CMake from the page
#undef LEGAL
  CHECK(count > 10);
}

TEST_CASE("each file becomes the type below it") {
  const std::string page = from_config::read_bytes(SHARDEXPR_PAGE);
  const std::string fence = "```", head = "sx::Sharded<sx::Gpt, ";
  std::size_t pairs = 0;
  for (const bool is_json : {false, true}) {
    const std::string begin = "\n" + fence + (is_json ? "json" : "yaml") + "\n";
    for (std::size_t at = 0; (at = page.find(begin, at)) != page.npos;) {
      at += begin.size();
      const std::size_t end = page.find("\n" + fence, at);
      REQUIRE(end != page.npos);
      const std::string file = page.substr(at, end + 1 - at);
      CAPTURE(file);
      std::size_t type = end + 1 + fence.size();
      const std::string below = "\n" + fence + "cpp\n" + head;
      REQUIRE(page.compare(type, below.size(), below) == 0);
      type += below.size();
      const std::string policies = page.substr(type, page.find(">\n" + fence, type) - type);
      const judged::Judgement judgement =
          from_config::judge_bytes("page", file, is_json, judged::Settings{});
      CHECK(judgement.is_supported());
      CHECK(judged::pack(judgement) == from_config::pack_of(from_config::parse_policies(policies)));
      ++pairs;
    }
  }
  CHECK(pairs > 12);
}
