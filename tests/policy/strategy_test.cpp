// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <set>
#include <string>
#include <type_traits>

#include <doctest/doctest.h>

namespace sx = shardexpr;

// The order of policies never makes a second type, and what is left out is the default.
static_assert(
    std::is_same_v<sx::StrategyOf<sx::NoShard, sx::Sgd>, sx::StrategyOf<sx::Sgd, sx::NoShard>>);
static_assert(
    std::is_same_v<sx::StrategyOf<>, sx::Strategy<sx::FullShard, sx::AdamW, sx::FullPrecision,
                                                  sx::On<sx::Cpu>, sx::Over<sx::Threads>>>);
static_assert(std::is_same_v<sx::StrategyOf<sx::Over<sx::Solo>>::communicator, sx::Solo>);
static_assert(std::is_same_v<sx::StrategyOf<sx::ShardGradOp>::sharding, sx::ShardGradOp>);

// A user's policies, judged by their properties.
struct Mine {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = true, gradients = true, optimizer = true;
};
struct GradientsAlone {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = false, gradients = true, optimizer = false;
};
struct ParametersNotGradients {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = true, gradients = false, optimizer = true;
};
struct Unfinished {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = true;
};
struct InDouble {
  using axis = sx::axis::Precision;
  using storage = double;
  using compute = double;
  using reduce = double;
  using optimizer = double;
};
struct NoUpdate {
  using axis = sx::axis::Optimizer;
  static constexpr std::size_t moments = 0;
  struct Options {
    float learning_rate = 0;
  };
};
struct Elsewhere {
  using axis = int;
};

static_assert(sx::LegalStrategy<>);
static_assert(sx::LegalStrategy<sx::FullShard>);
static_assert(sx::LegalStrategy<sx::ShardGradOp>);
static_assert(sx::LegalStrategy<sx::ShardOptimizer>);
static_assert(sx::LegalStrategy<sx::NoShard>);
static_assert(sx::LegalStrategy<Mine, sx::Sgd, sx::FullPrecision>);
static_assert(!sx::LegalStrategy<int>);
static_assert(!sx::LegalStrategy<Elsewhere>);
static_assert(!sx::LegalStrategy<sx::FullShard, sx::FullShard>);
static_assert(!sx::LegalStrategy<sx::AdamW, sx::Sgd>);
static_assert(!sx::LegalStrategy<Unfinished>);
static_assert(!sx::LegalStrategy<GradientsAlone>);
static_assert(!sx::LegalStrategy<ParametersNotGradients>);

// Each illegal pack breaks the rule that its compile-fail case names.
static_assert(sx::detail::first_broken<int>() == sx::Rule::SX001);
static_assert(sx::detail::first_broken<sx::AdamW, sx::Sgd>() == sx::Rule::SX002);
static_assert(sx::detail::first_broken<Unfinished>() == sx::Rule::SX003);
static_assert(sx::detail::first_broken<GradientsAlone>() == sx::Rule::SX101);
static_assert(sx::detail::first_broken<ParametersNotGradients>() == sx::Rule::SX102);
static_assert(sx::detail::first_broken<InDouble>() == sx::Rule::SX103);
static_assert(sx::detail::first_broken<NoUpdate>() == sx::Rule::SX003);

TEST_CASE("a type is printed as its user writes it") {
  CHECK(sx::type_name<sx::FullShard>() == "FullShard");
  CHECK(sx::type_name<sx::Over<sx::Threads>>() == "Over<Threads>");
  CHECK(sx::type_name<sx::StrategyOf<sx::NoShard>>().find("shardexpr::") == std::string::npos);
  CHECK(sx::type_name<sx::StrategyOf<sx::NoShard>>().find("NoShard") != std::string::npos);
}

TEST_CASE("every rule has a code of its own, a reason and an advice") {
  std::set<std::string_view> codes;
  for (const sx::RuleText& rule : sx::rule_texts) {
    CAPTURE(rule.code);
    CHECK(codes.insert(rule.code).second);
    CHECK(rule.code.size() == 5);
    CHECK(rule.what.size() > 20);
    CHECK(rule.advice.size() > 10);
  }
  CHECK(codes.size() == 6);
}
