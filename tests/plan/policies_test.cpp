// SPDX-License-Identifier: Apache-2.0
// What each policy costs and saves, by hand. Units of the toy: encoder 35 + 7 elements, three
// mixers 49 + 7, decoder 5; each is one group of 64 elements a rank, while there are few ranks.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/plan/plan.hpp>

#include <cstddef>

#include "../support/toy.hpp"
#include <doctest/doctest.h>

namespace {

constexpr toy::Config config{};
constexpr std::size_t summary = sizeof(sx::StepSummary);
constexpr std::size_t part = 64 * 4;  // bytes of one group's part

template <class... Ps>
constexpr sx::Plan plan(std::size_t world, std::size_t micro_batches = 1) {
  return sx::plan<sx::Sharded<toy::Autoencoder, Ps...>>(config, world, micro_batches);
}

// Bounds hold in constant expressions.
static_assert(plan<sx::MaxLive<111>, sx::ForwardPrefetch<2>>(2).peak_live_elements <= 111);
static_assert(plan<sx::ForwardPrefetch<2>>(2).peak_live_elements == 3 * 56);
static_assert(plan<sx::MaxLive<60>, sx::ReuseWithin<1000>>(2).peak_live_elements <= 60);
static_assert(plan<sx::ReuseWithin<1000>>(2).peak_live_elements == 42 + 3 * 56 + 5);

TEST_CASE("hybrid sharding keeps 1/S and all-reduces its part over the copies") {
  constexpr sx::Plan hybrid = plan<sx::HybridShard<2>, sx::BackwardNone>(4);
  constexpr sx::Plan two = plan<sx::FullShard, sx::BackwardNone>(2);
  CHECK(hybrid.parameters_bytes == two.parameters_bytes);
  CHECK(hybrid.optimizer_bytes == two.optimizer_bytes);
  CHECK(hybrid.gathered_bytes == two.gathered_bytes);
  CHECK(hybrid.reduce_scatter_sent_bytes == two.reduce_scatter_sent_bytes);
  CHECK(hybrid.all_gather_sent_bytes == 10 * part + 3 * summary);
  CHECK(hybrid.all_reduce_sent_bytes == 5 * part);  // 2 (2-1)/2 of a part, five groups
  constexpr sx::Plan grad_op = plan<sx::HybridShardGradOp<2>>(4);
  CHECK(grad_op.parameters_bytes == 2 * two.parameters_bytes);
  CHECK(grad_op.gradients_bytes == two.gradients_bytes);
  CHECK(grad_op.all_gather_sent_bytes == 5 * part + 3 * summary);
  CHECK(grad_op.all_reduce_sent_bytes == 5 * part);
}

TEST_CASE("ReshardTo keeps 1/K and sends less in backward") {
  constexpr sx::Plan all = plan<sx::BackwardNone>(4);
  constexpr sx::Plan kept = plan<sx::BackwardNone, sx::ReshardTo<2>>(4);
  // Encoder and mixers, half of 4 parts each; the decoder stays for its backward.
  CHECK(all.resharded_bytes == 0);
  CHECK(kept.resharded_bytes == 4 * 2 * part);
  CHECK(all.all_gather_sent_bytes == 10 * 3 * part + 3 * summary);
  CHECK(kept.all_gather_sent_bytes == (6 * 3 + 4 * 2) * part + 3 * summary);
  // Over Threads the four ranks share one buffer, and each two another.
  CHECK(all.gathered_bytes == 2 * 4 * part / 4);
  CHECK(kept.gathered_bytes == 2 * 4 * part / 4 + 4 * part / 2);
  CHECK(kept.device_peak_bytes - all.device_peak_bytes == 4 * 2 * part + 4 * part / 2);
}

TEST_CASE("PersistBelow keeps small parameters whole and publishes them") {
  constexpr sx::Plan none = plan<sx::BackwardNone>(2);
  constexpr sx::Plan some = plan<sx::BackwardNone, sx::PersistBelow<8>>(2);
  // Weights are sharded; biases, a flat of their own in four units and all of the decoder, are not.
  CHECK(none.parameters_bytes == 5 * part);
  CHECK(some.parameters_bytes == 4 * part + 5 * 2 * part);
  CHECK(some.optimizer_bytes == 2 * (4 + 5) * part);
  // Two weights are live at once no more: the decoder has none.
  CHECK(none.gathered_bytes == 2 * 2 * part / 2);
  CHECK(some.gathered_bytes == 2 * part / 2);
  CHECK(none.all_gather_sent_bytes == 10 * part + summary);
  CHECK(some.all_gather_sent_bytes == 9 * part + 5 * part + summary);
  CHECK(some.reduce_scatter_sent_bytes == 9 * part);
}

TEST_CASE("a wrap trades gathered memory for calls") {
  constexpr sx::Plan each = plan<sx::BackwardNone>(2);
  constexpr sx::Plan whole = plan<sx::WrapWhole>(2);
  // 35, 7, then three times 49, 7, then 5, each on a block: 9 blocks of 64, 5 a rank.
  CHECK(whole.parameters_bytes == 5 * part);
  CHECK(whole.gathered_bytes == 2 * 5 * part / 2);
  CHECK(whole.peak_live_elements == 215);
  CHECK(whole.all_gather_sent_bytes == 5 * part + summary);  // once, not twice
  CHECK(each.all_gather_sent_bytes == 10 * part + summary);
  constexpr sx::Plan mixers = plan<sx::WrapEach<toy::Mixer>, sx::BackwardNone>(2);
  CHECK(mixers.peak_live_elements == 47 + 56);  // the root, and one mixer
}

TEST_CASE("Recompute keeps one unit's saved activations for all") {
  constexpr auto kept = sx::activation_bytes<toy::Autoencoder, float, sx::Cpu>(config);
  constexpr auto mixers =
      sx::activation_bytes<toy::Autoencoder, float, sx::Cpu, sx::Recompute<toy::Mixer>>(config);
  constexpr auto all =
      sx::activation_bytes<toy::Autoencoder, float, sx::Cpu, sx::Recompute<>>(config);
  CHECK(kept.saved == 4 * 256);
  CHECK(kept.rebuilt == 0);
  CHECK(mixers.saved == 256);  // the decoder's
  CHECK(mixers.rebuilt == 256);
  CHECK(all.saved == 0);
  CHECK(all.rebuilt == 256);
  CHECK(plan<sx::Recompute<>>(2).activations_bytes + 3 * 256 == plan<>(2).activations_bytes);
}

TEST_CASE("accumulation: what is sent each time, and what is held instead") {
  constexpr sx::Plan one = plan<sx::BackwardNone>(2);
  constexpr sx::Plan each = plan<sx::BackwardNone>(2, 3);
  constexpr sx::Plan end = plan<sx::BackwardNone, sx::ReduceAtEnd>(2, 3);
  CHECK(each.reduce_scatter_sent_bytes == 3 * one.reduce_scatter_sent_bytes);
  CHECK(end.reduce_scatter_sent_bytes == one.reduce_scatter_sent_bytes);
  CHECK(each.full_gradients_bytes == one.full_gradients_bytes + part);  // a part waits to be added
  CHECK(end.full_gradients_bytes == 5 * 2 * part);                      // the whole model's
  CHECK(each.gradients_bytes == one.gradients_bytes);
  // Where gradients are kept whole, a micro-batch needs room beside them to be reduced apart.
  CHECK(plan<sx::NoShard>(2).full_gradients_bytes == 0);
  CHECK(plan<sx::NoShard>(2, 2).full_gradients_bytes > 0);
  CHECK(plan<sx::NoShard, sx::ReduceAtEnd>(2, 2).full_gradients_bytes == 0);
  CHECK(plan<sx::ShardOptimizer>(2, 2).full_gradients_bytes ==
        plan<sx::NoShard>(2, 2).full_gradients_bytes + part);
  // Over copies the all-reduce happens once.
  CHECK(plan<sx::HybridShard<2>>(4, 3).all_reduce_sent_bytes ==
        plan<sx::HybridShard<2>>(4).all_reduce_sent_bytes);
  CHECK_THROWS_WITH_AS(plan<>(2, 0), "a step of 0 micro-batches: give at least 1", sx::ConfigError);
}

TEST_CASE("codes: 68 bytes for 64 parameters, 36 for 64 gradients, and room to make them") {
  constexpr std::size_t weights = 64 + 4, gradients = 32 + 4;  // of one group's part
  constexpr sx::Plan none = plan<sx::BackwardNone>(2);
  constexpr sx::Plan both = plan<sx::BackwardNone, sx::QuantizedWeights, sx::QuantizedGradients>(2);
  CHECK(none.all_gather_sent_bytes == 10 * part + summary);
  CHECK(both.all_gather_sent_bytes == 10 * weights + summary);
  CHECK(both.reduce_scatter_sent_bytes == 0);
  CHECK(both.all_to_all_sent_bytes == 5 * gradients);
  CHECK(both.sent_bytes == both.all_gather_sent_bytes + both.all_to_all_sent_bytes);
  CHECK(none.all_to_all_sent_bytes == 0);
  // The codes of one group, of which each rank has a half over Threads; of gradients those that are
  // sent and those that are received.
  CHECK(both.gathered_bytes == none.gathered_bytes + weights);
  CHECK(both.full_gradients_bytes == none.full_gradients_bytes + 2 * 2 * gradients);
  CHECK(both.device_resident_bytes == none.device_resident_bytes);
  CHECK(both.device_peak_bytes == none.device_peak_bytes + weights + 2 * 2 * gradients);
  // What is published is sent as it is: biases, which persist here.
  CHECK(
      plan<sx::BackwardNone, sx::QuantizedWeights, sx::PersistBelow<8>>(2).all_gather_sent_bytes ==
      9 * weights + 5 * part + summary);
  CHECK(plan<sx::ShardGradOp, sx::QuantizedGradients>(2).all_gather_sent_bytes ==
        5 * part + summary);
  // ReshardTo keeps codes. Four ranks share the room of one gather, each two that of another.
  constexpr sx::Plan kept = plan<sx::BackwardNone, sx::ReshardTo<2>>(4);
  constexpr sx::Plan codes = plan<sx::BackwardNone, sx::ReshardTo<2>, sx::QuantizedWeights>(4);
  CHECK(codes.resharded_bytes == 4 * 2 * weights);
  CHECK(codes.all_gather_sent_bytes == (6 * 3 + 4 * 2) * weights + 3 * summary);
  CHECK(codes.gathered_bytes == kept.gathered_bytes + 4 * weights / 4 + 4 * weights / 2);
  // Over copies the mean is sent as it is.
  CHECK(plan<sx::HybridShard<2>, sx::QuantizedGradients>(4).all_reduce_sent_bytes ==
        plan<sx::HybridShard<2>>(4).all_reduce_sent_bytes);
}

TEST_CASE("a prefetch costs the memory of what it gathers ahead") {
  constexpr sx::Plan none = plan<sx::BackwardNone>(2);
  CHECK(none.gathered_bytes == 2 * part);
  CHECK(plan<sx::BackwardPre>(2).gathered_bytes == 3 * part);
  // After the release, the next: no more gathered than without, but gradients of two groups.
  CHECK(plan<sx::BackwardPost>(2).gathered_bytes == none.gathered_bytes);
  CHECK(plan<sx::BackwardPost>(2).full_gradients_bytes == none.full_gradients_bytes + 2 * part);
  CHECK(plan<sx::BackwardNone, sx::ForwardPrefetch<1>>(2).gathered_bytes == 3 * part);
  CHECK(plan<sx::BackwardNone, sx::ForwardPrefetch<1>, sx::LimitGathers<2>>(2).gathered_bytes ==
        2 * part);
  for (const sx::Plan& p : {plan<sx::BackwardPre>(2), plan<sx::BackwardPost>(2)})
    CHECK(p.sent_bytes == none.sent_bytes);
}

}  // namespace
