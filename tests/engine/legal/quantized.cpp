// SPDX-License-Identifier: Apache-2.0
// Quantized weights and gradients. Blocks of 64 belong to one parameter and one rank, whatever cuts
// the flats: what moves state alone leaves their bits alone, too. The same is asked as of the
// others, against the plainest strategy that quantizes alike.
#include "run.hpp"

namespace {

using sx::Strategies;

template <class... P>
using Both = sx::StrategyOf<sx::QuantizedWeights, sx::QuantizedGradients, P...>;
template <class... P>
using Weights = sx::StrategyOf<sx::QuantizedWeights, P...>;
template <class... P>
using Gradients = sx::StrategyOf<sx::QuantizedGradients, P...>;

// A user's own: the other two numbers of bits.
struct FewWeights {
  using axis = sx::axis::WeightCompression;
  static constexpr std::size_t bits = 4;
};
struct FineGradients {
  using axis = sx::axis::GradientCompression;
  static constexpr std::size_t bits = 8;
};

using OneCopy = Strategies<
    Both<>, Both<sx::BackwardNone, sx::ReshardTo<2>>,
    Both<sx::BackwardPost, sx::ForwardPrefetch<2>, sx::PersistBelow<8>>,
    Both<sx::WrapBySize<60>, sx::ReduceAtEnd, sx::Recompute<>>, Weights<>,
    Weights<sx::MixedPrecision<sx::bf16, sx::bf16>, sx::ReshardTo<2>, sx::PersistBelow<8>>,
    Gradients<sx::ShardOptimizer>, Gradients<sx::ShardOptimizer, sx::ReduceAtEnd>,
    Gradients<sx::MixedPrecision<sx::bf16, sx::bf16>, sx::ShardGradOp>,
    sx::StrategyOf<FewWeights, FineGradients, sx::WrapEach<toy::Mixer>>>;
using Copies =
    Strategies<Both<sx::HybridShard<2>, sx::LimitGathers<3>>,
               Gradients<sx::HybridShardGradOp<2>, sx::MixedPrecision<sx::bf16, sx::bf16>>>;

TEST_CASE("quantized, every strategy trains to the same bits, without a race") {
  sx::for_each_strategy(OneCopy{}, []<class S>() { legal::check_strategy<S>({1, 2, 3, 4}); });
}
TEST_CASE("quantized, every hybrid strategy trains to the same bits as its kind") {
  sx::for_each_strategy(Copies{}, []<class S>() { legal::check_strategy<S>({4, 6}); });
}

}  // namespace
