// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/plan/activations.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/plan.hpp>
#include <shardexpr/policy/combinations.hpp>

#include <string>
#include <type_traits>
#include <utility>

#include "facts.hpp"
#include "row.hpp"

namespace planner {

namespace sx = shardexpr;

using MixedBf16 = sx::MixedPrecision<sx::bf16, sx::fp32>;
using PureBf16 = sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>;
using BlocksRebuilt = sx::Recompute<sx::gpt::Block>;

using Shardings = sx::OneOf<sx::FullShard, sx::ShardGradOp, sx::ShardOptimizer, sx::NoShard,
                            sx::HybridShard<hybrid_group>, sx::HybridShardGradOp<hybrid_group>>;
using Offloads =
    sx::OneOf<sx::OffloadNone, sx::Offload<sx::OnDevice, sx::OnHost>, sx::OffloadAll,
              sx::Offload<sx::OnDevice, sx::OnNvme>, sx::Offload<sx::OnNvme, sx::OnNvme>>;
/// Where streams of a device overlap, what is gathered ahead is a choice: memory against time.
/// `Cpu{}` runs one operation after the other, so that the standard is as good as any.
using Prefetches = sx::OneOf<sx::Together<>, sx::ForwardPrefetch<1>, sx::BackwardNone>;
using NoPrefetches = sx::OneOf<sx::Together<>>;
/// Gradients that are reduced at the end cost memory, to send less; not thought of with a disk.
using OffloadsAtEnd =
    sx::OneOf<sx::OffloadNone, sx::Offload<sx::OnDevice, sx::OnHost>, sx::OffloadAll>;

/// `Recompute` is no choice here: it changes activations and nothing else of a plan (`plan_one`).
template <class Device, class Comm, class Precision, class Ahead>
using StrategiesOf = sx::UnitedStrategies<
    sx::LegalCombinations<Shardings, Offloads, Ahead, sx::OneOf<Precision>,
                          sx::OneOf<sx::On<Device>>, sx::OneOf<sx::Over<Comm>>>,
    sx::LegalCombinations<Shardings, OffloadsAtEnd, sx::OneOf<sx::ReduceAtEnd>,
                          sx::OneOf<Precision>, sx::OneOf<sx::On<Device>>,
                          sx::OneOf<sx::Over<Comm>>>>;

/// `plan` asks a trainer for these two. A whole one would want a whole device.
template <class S>
struct PlannedTrainer {
  using Model = sx::Gpt;
  using Strategy = S;
};

std::string name_of_offload(sx::Place parameters, sx::Place optimizer);
/// Adds the strategy with all its activations kept, and with those of blocks rebuilt.
void add_with_recompute(Rows& rows, Row row, std::size_t rebuilt_activations_bytes);

template <class Sharding>
std::string name_of_sharding() {
  const std::string group = "<" + std::to_string(hybrid_group) + ">";
  if (std::is_same_v<Sharding, sx::FullShard>) return "FullShard";
  if (std::is_same_v<Sharding, sx::ShardGradOp>) return "ShardGradOp";
  if (std::is_same_v<Sharding, sx::ShardOptimizer>) return "ShardOptimizer";
  if (std::is_same_v<Sharding, sx::NoShard>) return "NoShard";
  return (Sharding::parameters ? "HybridShard" : "HybridShardGradOp") + group;
}
template <class Precision>
std::string name_of_precision() {
  if (std::is_same_v<Precision, MixedBf16>) return "MixedPrecision<bf16, fp32>";
  if (std::is_same_v<Precision, PureBf16>) return "Precision<bf16, bf16, bf16, bf16>";
  return "FullPrecision";
}

template <class S>
void plan_one(const Job& job, Rows& rows) {
  using Sharding = typename S::sharding;
  constexpr bool reduces_at_end = !S::accumulation::reduce_each;
  if (reduces_at_end && job.micro_batches == 1) return;  // the same as the standard one
  Row row;
  row.sharding = name_of_sharding<Sharding>();
  try {
    const sx::MeshShape mesh = sx::mesh_shape<S>(job.world);
    row.shards = mesh.shards;
    row.copies = mesh.copies;
  } catch (const sx::ConfigError&) {
    if (rows.left_out.empty() || rows.left_out.back() != row.sharding)
      rows.left_out.push_back(row.sharding);
    return;
  }
  row.precision = name_of_precision<typename S::precision>();
  row.parameters = S::offload::parameters::place;
  row.optimizer = S::offload::optimizer::place;
  row.compute_bytes = sizeof(typename S::precision::compute);
  row.gathers = Sharding::parameters;
  row.gathers_ahead_in_forward = S::forward_prefetch::depth != 0;
  // Where nothing is gathered no prefetch is a policy, and reductions overlap all the same.
  row.overlaps_backward = !row.gathers || S::backward_prefetch::ahead != sx::GatherAhead::never;
  row.reduces_at_end = reduces_at_end;
  row.plan = sx::plan<PlannedTrainer<S>>(job.model, job.world, job.micro_batches, job.node_ranks);
  add_with_recompute(rows, std::move(row),
                     sx::activation_bytes<sx::Gpt, typename S::precision::compute,
                                          typename S::device, BlocksRebuilt>(job.model)
                         .total());
}

/// Each `planned.cpp.in` that CMake writes defines one.
template <class Device, class Comm, class Precision, class Ahead>
Rows plan_each(const Job& job) {
  Rows rows;
  sx::for_each_strategy(StrategiesOf<Device, Comm, Precision, Ahead>{},
                        [&]<class S>() { plan_one<S>(job, rows); });
  return rows;
}

template <DeviceKind, PrecisionKind>
Rows plan_of(const Job& job);

}  // namespace planner
