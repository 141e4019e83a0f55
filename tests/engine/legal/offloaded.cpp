// SPDX-License-Identifier: Apache-2.0
// State off the device moves, and nothing else changes: the same is asked of strategies that
// offload as of those that do not, against the plainest one, which keeps all on the device.
#include "run.hpp"

namespace {

using sx::Strategies;

using legal::In16;
template <class Parameters, class Optimizer, class... P>
using Fp32 = sx::StrategyOf<sx::Offload<Parameters, Optimizer>, P...>;
template <class Parameters, class Optimizer, class... P>
using Mixed = In16<sx::Offload<Parameters, Optimizer>, P...>;
using sx::OnDevice;
using sx::OnHost;
// Large enough, with groups of several units, that the host has whole blocks to add squares of.
using Most = sx::Partly<4, 5>;

using OneCopy =
    Strategies<Fp32<OnHost, OnHost>, Mixed<OnHost, OnHost, sx::ForwardPrefetch<1>>,
               Fp32<OnHost, OnHost, sx::PersistBelow<8>, sx::ReshardTo<2>>,
               Fp32<OnDevice, OnHost, sx::NoShard>, Mixed<OnDevice, OnHost, sx::ShardOptimizer>,
               Mixed<OnDevice, OnHost, sx::ShardGradOp, sx::ReduceAtEnd>, Fp32<OnHost, OnDevice>,
               Mixed<OnHost, OnDevice, sx::PersistBelow<8>>, Fp32<OnDevice, Most, sx::NoShard>,
               Mixed<OnDevice, Most, sx::WrapBySize<100>>, Fp32<OnHost, Most, sx::WrapWhole>>;
using Copies = Strategies<Mixed<OnHost, OnHost, sx::HybridShard<2>>,
                          Fp32<OnDevice, Most, sx::HybridShardGradOp<2>, sx::WrapBySize<100>>>;

TEST_CASE("every strategy that offloads trains to the same bits, without a race") {
  sx::for_each_strategy(OneCopy{}, []<class S>() { legal::check_strategy<S>({1, 2, 3, 4}); });
}
TEST_CASE("every hybrid strategy that offloads trains to the same bits as its kind") {
  sx::for_each_strategy(Copies{}, []<class S>() { legal::check_strategy<S>({4, 6}); });
}

}  // namespace
