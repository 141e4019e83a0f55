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
    std::is_same_v<sx::StrategyOf<>,
                   sx::Strategy<sx::FullShard, sx::ReshardToShard, sx::BackwardPre, sx::ForwardNone,
                                sx::PersistNone, sx::LiveUnlimited, sx::PrefetchUnlimited,
                                sx::ReuseAdjacent, sx::GathersUnlimited, sx::WrapEach<>,
                                sx::ReduceEveryMicroBatch, sx::RecomputeNone, sx::AdamW,
                                sx::FullPrecision, sx::On<sx::Cpu>, sx::Over<sx::Threads>>>);
// A default may depend on the others.
static_assert(std::is_same_v<sx::StrategyOf<sx::NoShard>::backward_prefetch, sx::BackwardNone>);
static_assert(std::is_same_v<sx::StrategyOf<sx::WrapWhole>::backward_prefetch, sx::BackwardNone>);
static_assert(std::is_same_v<sx::StrategyOf<sx::PrefetchBucket<9>>::forward_prefetch,
                             sx::ForwardPrefetch<sx::unlimited>>);
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
struct GroupOfNothing {
  using axis = sx::axis::Sharding;
  static constexpr bool parameters = false, gradients = false, optimizer = false;
  static constexpr std::size_t group = 2;
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
struct A;
struct B;
template <sx::Rule Rule, class... Ps>
inline constexpr bool breaks = sx::detail::first_broken<Ps...>() == Rule;
static_assert(breaks<sx::Rule::SX104, sx::PrefetchBucket<0>>);
static_assert(breaks<sx::Rule::SX104, sx::ForwardPrefetch<0>>);
static_assert(breaks<sx::Rule::SX104, sx::HybridShard<0>>);
static_assert(breaks<sx::Rule::SX104, sx::ReshardTo<0>>);
static_assert(breaks<sx::Rule::SX105, sx::HybridShard<1>>);
static_assert(breaks<sx::Rule::SX105, sx::HybridShardGradOp<1>>);
static_assert(breaks<sx::Rule::SX106, GroupOfNothing>);
static_assert(breaks<sx::Rule::SX107, sx::ReshardTo<1>>);
static_assert(breaks<sx::Rule::SX108, sx::ReshardTo<2>, sx::WrapWhole>);
static_assert(breaks<sx::Rule::SX108, sx::ReshardTo<2>, sx::ShardGradOp>);
static_assert(breaks<sx::Rule::SX109, sx::ReshardTo<4>, sx::HybridShard<4>>);
static_assert(breaks<sx::Rule::SX109, sx::ReshardTo<3>, sx::HybridShard<4>>);
static_assert(breaks<sx::Rule::SX110, sx::BackwardPre, sx::NoShard>);
static_assert(breaks<sx::Rule::SX110, sx::BackwardPost, sx::HybridShardGradOp<2>>);
static_assert(breaks<sx::Rule::SX111, sx::ForwardPrefetch<1>, sx::ShardGradOp>);
static_assert(breaks<sx::Rule::SX111, sx::ForwardPrefetch<1>, sx::WrapWhole>);
static_assert(breaks<sx::Rule::SX112, sx::PersistBelow<8>, sx::ShardOptimizer>);
static_assert(breaks<sx::Rule::SX113, sx::MaxLive<8>, sx::NoShard>);
static_assert(breaks<sx::Rule::SX113, sx::ReuseWithin<8>, sx::WrapWhole>);
static_assert(breaks<sx::Rule::SX113, sx::LimitGathers<2>, sx::ShardGradOp>);
static_assert(breaks<sx::Rule::SX114, sx::PrefetchBucket<8>, sx::BackwardNone, sx::ForwardNone>);
static_assert(breaks<sx::Rule::SX114, sx::MaxLive<8>, sx::BackwardNone>);
static_assert(breaks<sx::Rule::SX115, sx::LimitGathers<1>>);
static_assert(breaks<sx::Rule::SX115, sx::LimitGathers<1>, sx::BackwardNone, sx::ReuseWithin<9>>);
static_assert(breaks<sx::Rule::SX116, sx::WrapEach<A, A>>);
static_assert(breaks<sx::Rule::SX117, sx::Recompute<A, B, A>>);

static_assert(sx::LegalStrategy<sx::HybridShard<4>, sx::ReshardTo<2>>);
static_assert(sx::LegalStrategy<sx::PrefetchBucket<8>, sx::BackwardNone>);
static_assert(sx::LegalStrategy<sx::LimitGathers<1>, sx::BackwardNone>);
static_assert(sx::LegalStrategy<sx::PersistBelow<8>, sx::WrapWhole>);
static_assert(sx::LegalStrategy<sx::NoShard, sx::WrapWhole, sx::Recompute<>, sx::ReduceAtEnd>);

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
  CHECK(codes.size() == 20);
}
