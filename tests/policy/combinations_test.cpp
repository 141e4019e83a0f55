// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/policy/combinations.hpp>

#include <cstddef>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;

template <class S, class List>
inline constexpr std::size_t count_in = 0;
template <class S, class... Of>
inline constexpr std::size_t count_in<S, sx::Strategies<Of...>> =
    (std::size_t{std::is_same_v<S, Of>} + ... + 0);

// [combinations]
using Shardings = sx::OneOf<sx::FullShard, sx::NoShard>;
using Prefetches = sx::OneOf<sx::BackwardPre, sx::BackwardPost, sx::BackwardNone, sx::Together<>>;
using Both = sx::LegalCombinations<Shardings, Prefetches>;
// [combinations end]

TEST_CASE("combinations are those that the rules let through, each once") {
  // Of FullShard three: that without a prefetch is the default, BackwardPre. Of NoShard one: it
  // gathers nothing to prefetch, and BackwardNone is its default.
  CHECK(Both::size == 4);
  CHECK(count_in<sx::StrategyOf<sx::FullShard>, Both> == 1);
  CHECK(count_in<sx::StrategyOf<sx::FullShard, sx::BackwardPost>, Both> == 1);
  CHECK(count_in<sx::StrategyOf<sx::FullShard, sx::BackwardNone>, Both> == 1);
  CHECK(count_in<sx::StrategyOf<sx::NoShard>, Both> == 1);
  CHECK(sx::LegalCombinations<Shardings, Shardings>::size == 0);  // two on one axis
  CHECK(sx::LegalCombinations<>::size == 1);                      // the default strategy
}

TEST_CASE("a pack is judged when it is complete") {
  // fp16 breaks a rule until a loss scale stands beside it.
  using Late = sx::LegalCombinations<sx::OneOf<sx::MixedPrecision<sx::fp16, sx::fp32>>,
                                     sx::OneOf<sx::Together<>, sx::DynamicLossScale>>;
  CHECK(Late::size == 1);
  using Early = sx::LegalCombinations<
      sx::OneOf<sx::Together<sx::MixedPrecision<sx::fp16, sx::fp32>, sx::DynamicLossScale>>>;
  CHECK(std::is_same_v<Late, Early>);
}

TEST_CASE("united lists have each strategy once") {
  using Sharded = sx::LegalCombinations<sx::OneOf<sx::FullShard, sx::ShardGradOp>>;
  using All = sx::UnitedStrategies<Both, Sharded>;
  CHECK(All::size == 5);
  CHECK(count_in<sx::StrategyOf<sx::ShardGradOp>, All> == 1);
}

TEST_CASE("slices visit every strategy once, in order") {
  std::vector<int> seen;
  const auto visit = [&]<class S>() { seen.push_back(S::sharding::parameters); };
  sx::for_each_strategy(Both{}, visit);
  CHECK(seen == std::vector{1, 1, 1, 0});
  seen.clear();
  sx::for_each_strategy<0, 3>(Both{}, visit);  // the first and the fourth
  CHECK(seen == std::vector{1, 0});
  sx::for_each_strategy<1, 3>(Both{}, visit);
  sx::for_each_strategy<2, 3>(Both{}, visit);
  CHECK(seen == std::vector{1, 0, 1, 1});
}

}  // namespace
