// SPDX-License-Identifier: Apache-2.0
// Other dtypes, clipping and loss scales: strategies still move state alone. The same is asked of
// them as of the strategies in fp32, against the plainest one that computes alike.
#include "run.hpp"

namespace {

using sx::Strategies;

using legal::In16;
template <class... P>
using Half = sx::StrategyOf<sx::MixedPrecision<sx::fp16, sx::fp32>, sx::ClipValue,
                            sx::DynamicLossScale, P...>;
template <class... P>
using Pure = sx::StrategyOf<sx::Precision<sx::bf16, sx::bf16, sx::fp32, sx::bf16>, P...>;

using OneCopy =
    Strategies<In16<sx::NoShard>, In16<sx::ShardOptimizer>, In16<sx::ShardGradOp>,
               In16<sx::FullShard>, In16<sx::ReshardTo<2>, sx::PersistBelow<8>>,
               In16<sx::ShardOptimizer, sx::ReduceAtEnd>, In16<sx::ReduceAtEnd, sx::Recompute<>>,
               Half<sx::FullShard>, Pure<sx::FullShard>>;
using Copies = Strategies<In16<sx::HybridShard<2>, sx::PersistBelow<8>>,
                          In16<sx::HybridShardGradOp<2>, sx::ReduceAtEnd>>;

TEST_CASE("in 16 bits every strategy trains to the same bits, without a race") {
  sx::for_each_strategy(OneCopy{}, []<class S>() { legal::check_strategy<S>({1, 2, 3, 4}); });
}
TEST_CASE("in 16 bits every hybrid strategy trains to the same bits as its kind") {
  sx::for_each_strategy(Copies{}, []<class S>() { legal::check_strategy<S>({4, 6}); });
}

}  // namespace
