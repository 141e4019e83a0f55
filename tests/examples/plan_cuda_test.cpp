// SPDX-License-Identifier: Apache-2.0
// The plans of shardexpr_plan for GPUs, made without their headers, are those made with them.
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/cuda.cuh>

#include <cstddef>

#include "plan_pasted.hpp"
#include <doctest/doctest.h>

using namespace planner;
using namespace shardexpr;

TEST_CASE("types that are printed, pasted: the plans of On<Cuda>, Over<Nccl>") {
  for (const std::size_t micro_batches : {1, 2}) {
    const Job job = pasted_job(16, 8, micro_batches);
    const Rows mixed = plan_all(DeviceKind::cuda, PrecisionKind::mixed, job);
    const Rows fp32_ = plan_all(DeviceKind::cuda, PrecisionKind::fp32, job);
    const Rows bf16_ = plan_all(DeviceKind::cuda, PrecisionKind::bf16, job);
#define CHECK_PASTED(rows, ...) \
  check_pasted<StrategyOf<__VA_ARGS__>>(rows, DeviceKind::cuda, job, #__VA_ARGS__)
    CHECK_PASTED(mixed, FullShard, ForwardPrefetch<1>, Recompute<gpt::Block>,
                 MixedPrecision<bf16, fp32>, On<Cuda>, Over<Nccl>);
    CHECK_PASTED(mixed, FullShard, Offload<OnDevice, OnNvme>, BackwardNone,
                 MixedPrecision<bf16, fp32>, On<Cuda>, Over<Nccl>);
    CHECK_PASTED(mixed, ShardGradOp, Offload<OnDevice, OnHost>, MixedPrecision<bf16, fp32>,
                 On<Cuda>, Over<Nccl>);
    CHECK_PASTED(fp32_, HybridShard<8>, OffloadAll, FullPrecision, On<Cuda>, Over<Nccl>);
    CHECK_PASTED(bf16_, HybridShardGradOp<8>, Recompute<gpt::Block>,
                 Precision<bf16, bf16, bf16, bf16>, On<Cuda>, Over<Nccl>);
    if (micro_batches > 1)
      CHECK_PASTED(bf16_, ShardOptimizer, ReduceAtEnd, Precision<bf16, bf16, bf16, bf16>, On<Cuda>,
                   Over<Nccl>);
#undef CHECK_PASTED
  }
}
