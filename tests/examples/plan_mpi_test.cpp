// SPDX-License-Identifier: Apache-2.0
// The plans of shardexpr_plan for ranks over Mpi are those of the real one, also on machines that
// are filled unevenly.
#include <shardexpr/comm/mpi.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstddef>

#include "plan_pasted.hpp"
#include <doctest/doctest.h>

using namespace planner;
using namespace shardexpr;

TEST_CASE("types that are printed, pasted: the plans of Over<Mpi>") {
  for (const std::size_t node_ranks : {16, 8, 3}) {
    CAPTURE(node_ranks);
    const Job job = pasted_job(16, node_ranks, 2);
    const Rows mixed = plan_all(DeviceKind::cpu, PrecisionKind::mixed, job);
    const Rows bf16_ = plan_all(DeviceKind::cpu, PrecisionKind::bf16, job);
#define CHECK_PASTED(rows, ...) \
  check_pasted<StrategyOf<__VA_ARGS__>>(rows, DeviceKind::cpu, job, #__VA_ARGS__)
    CHECK_PASTED(mixed, FullShard, OffloadAll, MixedPrecision<bf16, fp32>, On<Cpu>, Over<Mpi>);
    CHECK_PASTED(mixed, HybridShardGradOp<8>, ReduceAtEnd, Recompute<gpt::Block>,
                 MixedPrecision<bf16, fp32>, On<Cpu>, Over<Mpi>);
    CHECK_PASTED(bf16_, NoShard, Precision<bf16, bf16, bf16, bf16>, On<Cpu>, Over<Mpi>);
#undef CHECK_PASTED
  }
}
