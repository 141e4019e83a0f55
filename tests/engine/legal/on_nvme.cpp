// SPDX-License-Identifier: Apache-2.0
// The same of strategies that keep state on a disk: transfers between file and memory are checked
// as those between host and device are.
#include <cstddef>

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
using sx::OnNvme;
using Most = sx::Partly<4, 5>;  // whole blocks of them

using OneCopy = Strategies<Fp32<OnDevice, OnNvme, sx::ShardOptimizer>, Mixed<OnDevice, OnNvme>,
                           Fp32<OnHost, OnNvme, sx::PersistBelow<8>>, Fp32<OnNvme, OnNvme>,
                           Mixed<OnNvme, OnNvme>, Fp32<OnNvme, OnHost>, Mixed<OnNvme, OnDevice>,
                           Mixed<OnNvme, Most, sx::WrapBySize<100>>>;
using Copies = Strategies<Mixed<OnDevice, OnNvme, sx::HybridShard<2>>>;

TEST_CASE("every strategy with state on a disk trains to the same bits, without a race") {
  sx::for_each_strategy(OneCopy{}, []<class S>() { legal::check_strategy<S>({1, 2, 4}); });
}
TEST_CASE("every hybrid strategy with state on a disk trains to the same bits as its kind") {
  sx::for_each_strategy(Copies{}, []<class S>() { legal::check_strategy<S>({4}); });
}

}  // namespace
