// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/plan/plan.hpp>

#include <cstddef>
#include <string>
#include <vector>

#include "../support/toy.hpp"
#include <doctest/doctest.h>

namespace {

using namespace sx::literals;
constexpr toy::Config config{};  // inputs 5, width 7, depth 3, rows 4

template <class... Ps>
using Trainer = sx::Sharded<toy::Autoencoder, Ps...>;

// What would not fit does not build.
static_assert(sx::plan<Trainer<sx::FullShard>>(config, 4).device_peak_bytes < 16_KiB);
static_assert(sx::plan<Trainer<sx::NoShard>>(config, 4).device_peak_bytes > 16_KiB);

// By hand, W = 2. Units: encoder 64 + 64 elements (35 and 7, each on a block boundary), mixers
// 64 + 64, decoder 64. Parts: 64, 64, 64, 64, 64; padded: 128 each.
static_assert(sx::Layout<toy::Autoencoder>{config, 2}.flat(0).part == 64);
static_assert(sx::Layout<toy::Autoencoder>{config, 2}.group(4).gathered == 128);

constexpr std::size_t summary = sizeof(sx::StepSummary);

TEST_CASE("the plan of FullShard without prefetch, by hand") {
  constexpr sx::Plan plan = sx::plan<Trainer<sx::FullShard, sx::BackwardNone>>(config, 2);
  CHECK(plan.parameter_count == 42 + 3 * 56 + 5);
  CHECK(plan.parameters_bytes == 5 * 64 * 4);
  CHECK(plan.gradients_bytes == 5 * 64 * 4);
  CHECK(plan.optimizer_bytes == 2 * 5 * 64 * 4);
  // Encoder and decoder are live together (the tie): two units, one buffer for both ranks.
  CHECK(plan.gathered_bytes == 2 * 128 * 4 / 2);
  CHECK(plan.peak_live_elements == 56);  // a mixer has more than encoder and decoder together
  // The encoder's gradients stay open from the decoder's backward to its own: two at a time.
  CHECK(plan.full_gradients_bytes == 2 * 128 * 4);
  CHECK(plan.device_resident_bytes == 4 * 5 * 64 * 4);
  // Gathers: forward encoder, 3 mixers, decoder with encoder; backward 3 mixers, encoder.
  CHECK(plan.all_gather_sent_bytes == 10 * 64 * 4 + summary);
  CHECK(plan.reduce_scatter_sent_bytes == 5 * 64 * 4);
  CHECK(plan.all_reduce_sent_bytes == 0);
  CHECK(plan.sent_bytes == 15 * 64 * 4 + summary);
}

TEST_CASE("the plan of FullShard, which gathers one unit ahead in backward") {
  constexpr sx::Plan none = sx::plan<Trainer<sx::FullShard, sx::BackwardNone>>(config, 2);
  constexpr sx::Plan plan = sx::plan<Trainer<sx::FullShard>>(config, 2);
  // In the decoder's backward the last mixer is there too; and while its gradients are reduced, the
  // mixer's are computed.
  CHECK(plan.gathered_bytes == 3 * 128 * 4 / 2);
  CHECK(plan.peak_live_elements == 56 + 56);  // two mixers
  CHECK(plan.full_gradients_bytes == 3 * 128 * 4);
  CHECK(plan.device_resident_bytes == none.device_resident_bytes);
  CHECK(plan.sent_bytes == none.sent_bytes);
}

TEST_CASE("the plan of NoShard, by hand") {
  constexpr sx::Plan plan = sx::plan<Trainer<sx::NoShard, sx::Sgd>>(config, 2);
  CHECK(plan.parameters_bytes == 5 * 128 * 4);
  CHECK(plan.gradients_bytes == 5 * 128 * 4);
  CHECK(plan.optimizer_bytes == 0);
  CHECK(plan.gathered_bytes == 0);
  CHECK(plan.resharded_bytes == 0);
  CHECK(plan.full_gradients_bytes == 0);
  CHECK(plan.all_gather_sent_bytes == summary);
  CHECK(plan.all_reduce_sent_bytes == 2 * 5 * 64 * 4);
  CHECK(plan.reduce_scatter_sent_bytes == 0);
}

TEST_CASE("each sharding gives up one more kind of state") {
  constexpr sx::Plan none = sx::plan<Trainer<sx::NoShard>>(config, 4);
  constexpr sx::Plan optimizer = sx::plan<Trainer<sx::ShardOptimizer>>(config, 4);
  constexpr sx::Plan gradients = sx::plan<Trainer<sx::ShardGradOp>>(config, 4);
  constexpr sx::Plan full = sx::plan<Trainer<sx::FullShard>>(config, 4);
  CHECK(optimizer.optimizer_bytes * 4 == none.optimizer_bytes);
  CHECK(optimizer.gradients_bytes == none.gradients_bytes);
  CHECK(gradients.gradients_bytes * 4 == none.gradients_bytes);
  CHECK(gradients.parameters_bytes == none.parameters_bytes);
  CHECK(full.parameters_bytes * 4 == none.parameters_bytes);
  // A true reduce-scatter: stages 1 and 2 send what an all-reduce sends, stage 3 half as much
  // again.
  CHECK(optimizer.sent_bytes == none.sent_bytes);
  CHECK(gradients.sent_bytes == none.sent_bytes);
  CHECK(full.sent_bytes > none.sent_bytes);
}

TEST_CASE("activations are counted buffer by buffer") {
  // rows x width = 28 floats: 256 bytes aligned; rows x inputs = 20 floats: 256; the loss: 256.
  constexpr sx::ActivationBytes bytes =
      sx::activation_bytes<toy::Autoencoder, float, sx::Cpu>(config);
  CHECK(bytes.outputs == 5 * 256);
  CHECK(bytes.saved == 4 * 256);
  CHECK(bytes.gradients == 2 * 256);
  CHECK(bytes.scratch == 256);
}

TEST_CASE("an arena gives the lowest free place and remembers its height") {
  sx::ArenaMap map{4};
  CHECK(map.allocate(10) == 0);
  CHECK(map.allocate(20) == 10);
  CHECK(map.allocate(5) == 30);
  map.release(10, 20);
  CHECK(map.allocate(8) == 10);
  CHECK(map.allocate(13) == 35);
  CHECK(map.allocate(12) == 18);
  CHECK(map.high_water() == 48);
  map.release(0, 10);
  CHECK_FALSE(map.empty());
  CHECK(map.allocate(0) == 0);
}

}  // namespace
