// SPDX-License-Identifier: Apache-2.0
// What shardexpr_plan is made of: its plans are the library's, its widths the nearest, its times
// the formula's.
#include <shardexpr/model/layout.hpp>
#include <shardexpr/nn/gpt.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "../../examples/shardexpr_plan/cost.hpp"
#include "../../examples/shardexpr_plan/estimates.hpp"
#include "../../examples/shardexpr_plan/model.hpp"
#include "../../examples/shardexpr_plan/options.hpp"
#include "plan_pasted.hpp"
#include <doctest/doctest.h>

namespace {

using namespace planner;
using namespace shardexpr;

const Row& row_of(const Rows& rows, const std::string& policies) {
  for (const Row& row : rows.rows)
    if (row.policies == policies) return row;
  FAIL("no " << policies);
  return rows.rows.front();
}

ModelWish wish_for(double parameters, std::size_t layers) {
  ModelWish wish;
  wish.parameters = parameters;
  wish.layers = layers;
  wish.vocabulary = 5000;
  return wish;
}

}  // namespace

TEST_CASE("types that are printed, pasted: the plans of On<Cpu>, on one machine") {
  for (const std::size_t micro_batches : {std::size_t{1}, std::size_t{3}}) {
    const Job job = pasted_job(16, 16, micro_batches);
    const Rows mixed = plan_all(DeviceKind::cpu, PrecisionKind::mixed, job);
    const Rows fp32_ = plan_all(DeviceKind::cpu, PrecisionKind::fp32, job);
    // There Threads and Mpi are one to a plan.
    const auto name = [](std::string text) {
      return text.replace(text.find("Over<Threads>"), 13, "Over<Mpi>");
    };
#define CHECK_PASTED(rows, ...) \
  check_pasted<StrategyOf<__VA_ARGS__>>(rows, DeviceKind::cpu, job, name(#__VA_ARGS__))
    CHECK_PASTED(mixed, FullShard, MixedPrecision<bf16, fp32>, On<Cpu>, Over<Threads>);
    CHECK_PASTED(mixed, FullShard, OffloadAll, Recompute<gpt::Block>, MixedPrecision<bf16, fp32>,
                 On<Cpu>, Over<Threads>);
    CHECK_PASTED(mixed, HybridShard<8>, Offload<OnNvme, OnNvme>, Recompute<gpt::Block>,
                 MixedPrecision<bf16, fp32>, On<Cpu>, Over<Threads>);
    CHECK_PASTED(fp32_, NoShard, FullPrecision, On<Cpu>, Over<Threads>);
    if (micro_batches > 1)
      CHECK_PASTED(fp32_, ShardOptimizer, Offload<OnDevice, OnHost>, ReduceAtEnd,
                   Recompute<gpt::Block>, FullPrecision, On<Cpu>, Over<Threads>);
#undef CHECK_PASTED
  }
}

TEST_CASE("the number of parameters is that of the layout") {
  for (const std::size_t layers : {1, 5}) {
    const GptConfig model{
        .vocabulary = 321, .context = 17, .embed = 96, .heads = 3, .layers = layers, .batch = 1};
    CHECK(parameters_of(model) == static_cast<double>(Layout<Gpt>{model, 1, {}}.parameter_count()));
  }
}

TEST_CASE("a width is the nearest multiple of a head") {
  for (const double wanted : {1e7, 124e6, 350e6, 1.5e9, 7e9, 70e9, 175e9})
    for (const std::size_t layers : {12, 48, 96}) {
      CAPTURE(wanted);
      CAPTURE(layers);
      const GptConfig model = model_of(wish_for(wanted, layers), 1);
      const std::size_t head = model.embed / model.heads;
      CHECK(head * model.heads == model.embed);
      CHECK(head == (model.embed < 1024 ? 64 : 128));
      GptConfig more = model, less = model;
      more.embed += head;
      less.embed -= head;
      const double off = std::abs(parameters_of(model) - wanted);
      CHECK(off <= std::abs(parameters_of(more) - wanted));
      if (less.embed != 0) CHECK(off <= std::abs(parameters_of(less) - wanted));
    }
  ModelWish wish = wish_for(7e9, 32);
  wish.heads = 32;
  CHECK(model_of(wish, 1).heads == 32);
  CHECK(std::abs(parameters_of(model_of(wish, 1)) / 7e9 - 1) < 0.01);
}

TEST_CASE("sizes and speeds") {
  CHECK(parse_size("--x", "80GiB") == std::size_t{80} << 30);
  CHECK(parse_size("--x", "1.5TB") == 1'500'000'000'000);
  CHECK(parse_size("--x", "9007199254740993") == 9'007'199'254'740'993);  // beyond a double
  CHECK(parse_size("--x", "7") == 7);
  CHECK(parse_speed("--x", "25GB/s") == 25e9);
  CHECK(parse_speed("--x", "25GB") == 25e9);
}

TEST_CASE("a step's time, by hand") {
  Job job = pasted_job(16, 8, 1);
  const Rows rows = plan_all(DeviceKind::cuda, PrecisionKind::mixed, job);
  Speeds speeds;
  const double n = static_cast<double>(row_of(rows, "NoShard").plan.parameter_count);
  const double tokens = static_cast<double>(job.model.tokens());
  speeds.flops = n * tokens;  // forward 2 s, backward 4 s
  const auto at = [&](const char* policies) {
    return estimate(row_of(rows, policies), job, speeds);
  };
  const auto is = [](double value) { return doctest::Approx(value).epsilon(1e-9); };

  speeds.network = speeds.node_network = speeds.host_link = speeds.host_memory = speeds.disk = 1e18;
  CHECK(at("NoShard").step() == doctest::Approx(6).epsilon(1e-6));
  CHECK(at("NoShard, Recompute<gpt::Block>").step() == doctest::Approx(8).epsilon(1e-6));

  // All-reduce of 5 s, 4 of them hidden by backward.
  const auto& none = row_of(rows, "NoShard").plan;
  speeds.network = static_cast<double>(none.all_reduce_sent_bytes) / 5;
  CHECK(at("NoShard").exposed_backward == doctest::Approx(1).epsilon(1e-9));
  // The parameters, updated, come behind it: hidden by nothing.
  const auto& grad = row_of(rows, "ShardGradOp").plan;
  CHECK(at("ShardGradOp").after ==
        is(static_cast<double>(grad.all_gather_sent_bytes) / speeds.network));

  // Gathers of forward: hidden if they go ahead. Of backward: unless they do not.
  const auto& full = row_of(rows, "FullShard").plan;
  const double once = n * 2 * 15 / 16;
  speeds.network = once / 3;  // forward's gathers take 3 s
  const double backward =
      (static_cast<double>(full.all_gather_sent_bytes + full.reduce_scatter_sent_bytes) - once) /
      speeds.network;
  CHECK(at("FullShard").exposed_forward == is(3));
  CHECK(at("FullShard, ForwardPrefetch<1>").exposed_forward == is(1));
  CHECK(at("FullShard").exposed_backward == is(backward - 4));
  CHECK(at("FullShard, BackwardNone").exposed_backward == is(backward));

  // Groups of 8 on machines of 8: only what copies send leaves them.
  const auto& hybrid = row_of(rows, "HybridShard<8>").plan;
  speeds.node_network = 1e18;
  speeds.network = static_cast<double>(hybrid.all_reduce_sent_bytes) / 5;
  CHECK(at("HybridShard<8>").step() == doctest::Approx(7).epsilon(1e-6));

  // State on the host is read and written once, behind backward; then it goes up.
  speeds.network = 1e18;
  const auto& host = row_of(rows, "NoShard, Offload<OnDevice, OnHost>").plan;
  speeds.host_memory = static_cast<double>(host.host_resident_bytes);
  speeds.host_link = static_cast<double>(host.to_device_bytes) / 3;
  CHECK(at("NoShard, Offload<OnDevice, OnHost>").after == is(2 + 3));
  CHECK(at("NoShard, Offload<OnDevice, OnHost>").exposed_backward ==
        is(static_cast<double>(host.to_host_bytes) / speeds.host_link - 4));
  speeds.host_memory = speeds.host_link = 1e18;
  const auto& disk = row_of(rows, "FullShard, Offload<OnDevice, OnNvme>").plan;
  speeds.disk = static_cast<double>(disk.nvme_read_bytes + disk.nvme_written_bytes) / 7;
  CHECK(at("FullShard, Offload<OnDevice, OnNvme>").after == doctest::Approx(7).epsilon(1e-6));
}

TEST_CASE("offloaded parameters go up with the gathers, from a disk by it") {
  const Job job = pasted_job(16, 8, 1);
  const Rows rows = plan_all(DeviceKind::cuda, PrecisionKind::mixed, job);
  Speeds speeds;
  speeds.flops = speeds.network = speeds.node_network = speeds.host_memory = speeds.disk = 1e18;
  const auto is = [](double value) { return doctest::Approx(value).epsilon(1e-6); };
  const auto estimated = [&](const Row& row) {
    const Estimate e = estimate(row, job, speeds);
    return std::pair{e.exposed_forward + e.exposed_backward, e.after};
  };
  const Row& host = row_of(rows, "FullShard, OffloadAll");
  speeds.host_link = static_cast<double>(host.plan.to_device_bytes + host.plan.to_host_bytes) / 3;
  CHECK(estimated(host).first == is(3));
  CHECK(estimated(host).second < 1e-6);

  speeds.host_link = 1e18;
  const Row& disk = row_of(rows, "FullShard, Offload<OnNvme, OnNvme>");
  const auto up = static_cast<double>(disk.plan.to_device_bytes);
  speeds.disk = up;
  CHECK(estimated(disk).first == is(1));
  CHECK(estimated(disk).second ==
        is((static_cast<double>(disk.plan.nvme_read_bytes + disk.plan.nvme_written_bytes) - up) /
           up));
}

TEST_CASE("on a CPU nothing is hidden") {
  const Job job = pasted_job(16, 8, 1);
  const Rows rows = plan_all(DeviceKind::cpu, PrecisionKind::mixed, job);
  Speeds speeds;
  speeds.flops = 1;  // more to compute than to send
  for (const Judged& j : judge(rows, DeviceKind::cpu, job, {}, speeds))
    if (j.row.policies == "NoShard")
      CHECK(
          j.estimate.exposed_backward ==
          doctest::Approx(static_cast<double>(j.row.plan.all_reduce_sent_bytes) / speeds.network));
}

TEST_CASE("gradients that are reduced at the end are hidden by the last micro-batch alone") {
  Job job = pasted_job(16, 8, 4);
  const Rows rows = plan_all(DeviceKind::cuda, PrecisionKind::mixed, job);
  const Row& row = row_of(rows, "NoShard, ReduceAtEnd");
  Speeds speeds;
  speeds.flops = static_cast<double>(row.plan.parameter_count) *
                 static_cast<double>(4 * job.model.tokens());  // backward 4 s, 1 s each
  speeds.network = static_cast<double>(row.plan.all_reduce_sent_bytes) / 3;
  CHECK(estimate(row, job, speeds).exposed_backward == doctest::Approx(2).epsilon(1e-9));
}

TEST_CASE("DeepSpeed's estimates, by the table in its documentation") {
  // Of 2851 million parameters, 32 million in the largest layer, 8 GPUs on one machine; GiB.
  const EstimateOf of{2851e6, 32e6, 8, 1};
  const auto gib = [](double bytes) { return std::round(bytes / (1 << 30) * 100) / 100; };
  CHECK(gib(zero3_states(of, true, true).host) == 71.69);
  CHECK(gib(zero3_states(of, true, true).device) == 0.12);
  CHECK(gib(zero3_states(of, true, false).host) == 63.72);
  CHECK(gib(zero3_states(of, true, false).device) == 0.78);
  CHECK(gib(zero3_states(of, false, false).host) == 1.43);
  CHECK(gib(zero3_states(of, false, false).device) == 6.09);
  // Its code, which the page for stage 2 does not follow; 2 machines of 4.
  const EstimateOf two{1e9, 1e6, 4, 2};
  CHECK(zero2_states(two, false).device == 2e9 + 18e9 / 8);
  CHECK(zero2_states(two, false).host == 24e9);
  CHECK(zero2_states(two, true).device == 2e9);
  CHECK(zero2_states(two, true).host == 48e9);
  CHECK(paper_states(two, 0) == 16e9);
  CHECK(paper_states(two, 1) == 4e9 + 12e9 / 8);
  CHECK(paper_states(two, 2) == 2e9 + 14e9 / 8);
  CHECK(paper_states(two, 3) == 2e9);
}
