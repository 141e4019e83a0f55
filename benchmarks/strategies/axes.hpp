// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which strategies are measured: what the rules leave of the main axes, made at compile time.
#include <shardexpr/engine/trainer_name.hpp>
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/policy/combinations.hpp>

#include <string>
#include <string_view>

namespace shardexpr::benchmarks {

template <class Device, class Comm, class... Choices>
using Measured = LegalCombinations<Choices..., OneOf<Together<On<Device>, Over<Comm>>>>;

using Shardings =
    OneOf<FullShard, ShardGradOp, ShardOptimizer, NoShard, HybridShard<2>, HybridShardGradOp<2>>;
using Backward = OneOf<BackwardPre, BackwardPost, BackwardNone>;
using Precisions = OneOf<FullPrecision, MixedPrecision<bf16, fp32>>;

/// Sharding, offload, backward prefetch and precision in full; forward prefetch, recompute and a
/// partial reshard where state is on the device.
template <class Device, class Comm>
using MeasuredStrategies = UnitedStrategies<
    Measured<Device, Comm, Shardings, OneOf<OffloadNone, OffloadAll, Offload<OnDevice, OnHost>>,
             Backward, Precisions>,
    Measured<Device, Comm, Shardings, OneOf<Offload<OnDevice, OnNvme>, Offload<OnNvme, OnNvme>>,
             Precisions>,
    Measured<Device, Comm, Shardings, Backward, Precisions, OneOf<ForwardPrefetch<1>>>,
    Measured<Device, Comm, Shardings, Precisions, OneOf<Recompute<gpt::Block>>>,
    Measured<Device, Comm, OneOf<FullShard>, Precisions, OneOf<ReshardTo<2>>>>;

/// A strategy as a person writes it, without what all of them have: `FullShard, OffloadAll`.
template <class S>
std::string short_name() {
  std::string name = trainer_name<sharded<Gpt, S>>();
  name.erase(0, std::string_view{"Sharded<Gpt, "}.size());
  name.erase(name.find(", On<"));
  const auto replace = [&](std::string_view what, std::string_view by) {
    if (const std::size_t at = name.find(what); at != std::string::npos)
      name.replace(at, what.size(), by);
  };
  replace(", AdamW", "");
  replace("Offload<OnHost, OnHost>", "OffloadAll");
  return name;
}

}  // namespace shardexpr::benchmarks
