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
    std::is_same_v<
        sx::StrategyOf<>,
        sx::Strategy<sx::FullShard, sx::ReshardToShard, sx::OffloadNone, sx::BackwardPre,
                     sx::ForwardNone, sx::PersistNone, sx::LiveUnlimited, sx::PrefetchUnlimited,
                     sx::ReuseAdjacent, sx::GathersUnlimited, sx::WrapEach<>,
                     sx::ReduceEveryMicroBatch, sx::ClipNone, sx::RecomputeNone, sx::AdamW,
                     sx::FullPrecision, sx::LossScaleNone, sx::RoundNearest, sx::WeightsUnquantized,
                     sx::GradientsUnquantized, sx::On<sx::Cpu>, sx::Over<sx::Threads>>>);
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
  using gradient = double;
  using buffers = double;
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
struct CountsOtherwise : sx::Sgd {
  int count = 0;  // not a number of the policy
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
static_assert(breaks<sx::Rule::SX118, sx::LimitGathers<3>, sx::ForwardPrefetch<3>>);
static_assert(
    breaks<sx::Rule::SX119, sx::MixedPrecision<sx::fp16, sx::bf16>, sx::DynamicLossScale>);
static_assert(breaks<sx::Rule::SX120, sx::MixedPrecision<sx::fp16, sx::fp32>>);
static_assert(breaks<sx::Rule::SX120, sx::MixedPrecision<sx::fp32, sx::fp16>>);
static_assert(
    breaks<sx::Rule::SX121, sx::Precision<sx::fp32, sx::bf16, sx::bf16, sx::bf16>, sx::Sgd>);
static_assert(sx::LegalStrategy<sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>, sx::Sgd>);
static_assert(sx::LegalStrategy<sx::MixedPrecision<sx::fp16, sx::fp32>, sx::StaticLossScale>);
template <class Axis, std::size_t b>
struct Bits {
  using axis = Axis;
  static constexpr std::size_t bits = b;
};
static_assert(breaks<sx::Rule::SX124, Bits<sx::axis::WeightCompression, 4>, sx::ShardGradOp>);
static_assert(breaks<sx::Rule::SX125, sx::QuantizedGradients, sx::NoShard>);
static_assert(breaks<sx::Rule::SX125, Bits<sx::axis::GradientCompression, 8>, sx::NoShard>);
static_assert(sx::LegalStrategy<sx::QuantizedGradients, sx::ShardOptimizer>);
static_assert(sx::LegalStrategy<sx::QuantizedGradients, sx::ShardGradOp>);
static_assert(sx::LegalStrategy<sx::QuantizedGradients, sx::HybridShardGradOp<4>>);
static_assert(breaks<sx::Rule::SX126, Bits<sx::axis::GradientCompression, 2>>);
static_assert(breaks<sx::Rule::SX126, Bits<sx::axis::WeightCompression, 16>>);
static_assert(sx::LegalStrategy<Bits<sx::axis::WeightCompression, 4>,
                                Bits<sx::axis::GradientCompression, 8>>);
static_assert(sx::LegalStrategy<sx::LimitGathers<3>, sx::ForwardPrefetch<2>>);
static_assert(sx::LegalStrategy<sx::LimitGathers<3>, sx::ForwardPrefetch<sx::unlimited>>);

static_assert(sx::LegalStrategy<sx::HybridShard<4>, sx::ReshardTo<2>>);
static_assert(sx::LegalStrategy<sx::PrefetchBucket<8>, sx::BackwardNone>);
static_assert(sx::LegalStrategy<sx::LimitGathers<2>, sx::BackwardNone, sx::ReuseWithin<8>>);
static_assert(sx::LegalStrategy<sx::PersistBelow<8>, sx::WrapWhole>);
static_assert(sx::LegalStrategy<sx::NoShard, sx::WrapWhole, sx::Recompute<>, sx::ReduceAtEnd>);

// Truth tables. What speaks of gathers needs sharded parameters, gathered group by group; it breaks
// one rule, of its own, with every other sharding, and a second one at most with WrapWhole.
template <sx::Rule IfWhole, sx::Rule IfWrappedWhole, class P>
inline constexpr bool needs_gathers = sx::LegalStrategy<P, sx::FullShard>&& sx::LegalStrategy<
    P, sx::HybridShard<4>>&& sx::LegalStrategy<P, Mine>&& breaks<IfWhole, P, sx::ShardGradOp>&&
    breaks<IfWhole, P, sx::ShardOptimizer>&& breaks<IfWhole, P, sx::NoShard>&&
        breaks<IfWhole, P, sx::HybridShardGradOp<4>>&& breaks<IfWrappedWhole, P, sx::WrapWhole>;
using enum sx::Rule;
static_assert(needs_gathers<SX108, SX108, sx::ReshardTo<2>>);
static_assert(needs_gathers<SX110, SX110, sx::BackwardPre>);
static_assert(needs_gathers<SX110, SX110, sx::BackwardPost>);
static_assert(needs_gathers<SX111, SX111, sx::ForwardPrefetch<1>>);
static_assert(needs_gathers<SX112, none, sx::PersistBelow<8>>);
static_assert(needs_gathers<SX113, SX113, sx::MaxLive<8>>);
static_assert(needs_gathers<SX113, SX113, sx::PrefetchBucket<8>>);
static_assert(needs_gathers<SX113, SX113, sx::ReuseWithin<8>>);
static_assert(needs_gathers<SX113, SX113, sx::LimitGathers<2>>);
static_assert(needs_gathers<SX124, none, sx::QuantizedWeights>);

template <class P>
inline constexpr bool goes_with_every_sharding =
    sx::LegalStrategy<P, sx::FullShard>&& sx::LegalStrategy<P, sx::ShardGradOp>&& sx::LegalStrategy<
        P, sx::ShardOptimizer>&& sx::LegalStrategy<P, sx::NoShard>&&
        sx::LegalStrategy<P, sx::HybridShard<4>>&& sx::LegalStrategy<P, sx::HybridShardGradOp<4>>;
static_assert(goes_with_every_sharding<sx::ReshardToShard>);
static_assert(goes_with_every_sharding<sx::BackwardNone>);
static_assert(goes_with_every_sharding<sx::ForwardNone>);
static_assert(goes_with_every_sharding<sx::PersistNone>);
static_assert(goes_with_every_sharding<sx::LiveUnlimited>);
static_assert(goes_with_every_sharding<sx::PrefetchUnlimited>);
static_assert(goes_with_every_sharding<sx::ReuseAdjacent>);
static_assert(goes_with_every_sharding<sx::GathersUnlimited>);
static_assert(goes_with_every_sharding<sx::WrapEach<A, B>>);
static_assert(goes_with_every_sharding<sx::WrapBySize<8>>);
static_assert(goes_with_every_sharding<sx::WrapWhole>);
static_assert(goes_with_every_sharding<sx::ReduceEveryMicroBatch>);
static_assert(goes_with_every_sharding<sx::ReduceAtEnd>);
static_assert(goes_with_every_sharding<sx::Recompute<>>);
static_assert(goes_with_every_sharding<sx::Recompute<A, B>>);
static_assert(goes_with_every_sharding<sx::Sgd>);
static_assert(goes_with_every_sharding<sx::WeightsUnquantized>);
static_assert(goes_with_every_sharding<sx::GradientsUnquantized>);

// With sharded parameters, any two of these that stand on two axes go together.
template <class P, class... Qs>
inline constexpr bool goes_with = ((std::is_same_v<typename P::axis, typename Qs::axis> ||
                                    sx::LegalStrategy<P, Qs>)&&...);
template <class... Ps>
inline constexpr bool all_go_together = (goes_with<Ps, Ps...> && ...);
static_assert(
    all_go_together<sx::HybridShard<4>, sx::ReshardTo<2>, sx::BackwardPre, sx::BackwardPost,
                    sx::ForwardPrefetch<2>, sx::PersistBelow<8>, sx::MaxLive<8>,
                    sx::PrefetchBucket<8>, sx::ReuseWithin<8>, sx::LimitGathers<3>, sx::WrapEach<A>,
                    sx::WrapBySize<8>, sx::ReduceAtEnd, sx::Recompute<>, sx::Sgd,
                    sx::QuantizedWeights, sx::QuantizedGradients>);
static_assert(
    goes_with<sx::BackwardNone, sx::ReshardTo<2>, sx::ForwardPrefetch<2>, sx::PersistBelow<8>,
              sx::PrefetchBucket<8>, sx::ReuseWithin<8>, sx::WrapEach<A>, sx::WrapBySize<8>>);

// Bounds, where gathers ahead are few or none.
static_assert(sx::LegalStrategy<sx::MaxLive<8>, sx::BackwardNone, sx::ForwardPrefetch<1>>);
static_assert(sx::LegalStrategy<sx::MaxLive<8>, sx::BackwardNone, sx::ReuseWithin<8>>);
static_assert(sx::LegalStrategy<sx::MaxLive<8>, sx::BackwardNone, sx::PrefetchBucket<4>>);
static_assert(
    breaks<SX114, sx::PrefetchBucket<8>, sx::BackwardNone, sx::ForwardNone, sx::ReuseWithin<8>>);
static_assert(breaks<SX115, sx::LimitGathers<1>, sx::BackwardNone, sx::ForwardPrefetch<1>>);
static_assert(breaks<SX115, sx::LimitGathers<1>, sx::BackwardNone, sx::PrefetchBucket<8>>);

// A number of 0 is the first thing to say, whatever else is wrong.
static_assert(breaks<SX104, sx::PersistBelow<0>, sx::NoShard>);
static_assert(breaks<SX104, sx::MaxLive<0>, sx::NoShard>);
static_assert(breaks<SX104, sx::ReuseWithin<0>, sx::WrapWhole>);
static_assert(breaks<SX104, sx::LimitGathers<0>>);
static_assert(breaks<SX104, sx::WrapBySize<0>>);
static_assert(breaks<SX104, sx::HybridShardGradOp<0>>);
static_assert(breaks<SX105, sx::HybridShard<1>, sx::ReshardTo<2>>);
// And so is one that bounds nothing, or that every parameter has.
static_assert(breaks<SX104, sx::MaxLive<sx::unlimited>>);
static_assert(breaks<SX104, sx::LimitGathers<sx::unlimited>>);
static_assert(breaks<SX104, sx::PrefetchBucket<sx::unlimited>>);
static_assert(breaks<SX104, sx::PersistBelow<sx::unlimited>>);
static_assert(breaks<SX104, sx::PersistBelow<1>>);
static_assert(breaks<SX104, sx::WrapBySize<1>>);
static_assert(breaks<SX104, sx::WrapBySize<sx::unlimited>>);
static_assert(sx::LegalStrategy<sx::ReuseWithin<sx::unlimited>>);
static_assert(breaks<SX108, sx::ReshardTo<2>, sx::ReuseWithin<sx::unlimited>>);
static_assert(sx::LegalStrategy<sx::ReshardTo<2>, sx::ReuseWithin<sx::unlimited>, sx::MaxLive<8>>);
static_assert(breaks<SX114, sx::LimitGathers<2>, sx::BackwardNone>);

// A user's wrap by a property of units is not taken for WrapWhole.
struct WrapLarge {
  using axis = sx::axis::Wrap;
  template <class U>
  static constexpr bool own = requires {
    U::is_large;
  };
  static constexpr bool whole = false;
  static constexpr std::size_t least = 0;
};
static_assert(sx::LegalStrategy<WrapLarge, sx::BackwardPre>);
static_assert(sx::LegalStrategy<CountsOtherwise>);
// Without a group of a known number of ranks, only the mesh can judge K.
static_assert(sx::LegalStrategy<sx::ReshardTo<3>>);

// A refused strategy answers like a strategy, so that its one error line stays alone.
template <class S>
concept Answers = requires {
  S::sharding::parameters;
  S::reshard::ranks;
  S::wrap::least;
  typename S::optimizer::Options;
  typename S::communicator;
};
static_assert(Answers<sx::StrategyOf<>>);
static_assert(Answers<sx::detail::RefusedStrategy<none, sx::NoShard>>);

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
  CHECK(codes.size() == 31);
}
