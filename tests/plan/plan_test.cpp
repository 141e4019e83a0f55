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
static_assert(sx::Layout<toy::Autoencoder>{config, 2}.shard_elements() == 5 * 64);
static_assert(sx::Layout<toy::Autoencoder>{config, 2}.full_elements() == 5 * 128);

constexpr std::size_t summary = sizeof(sx::StepSummary);

TEST_CASE("the plan of FullShard, by hand") {
  constexpr sx::Plan plan = sx::plan<Trainer<sx::FullShard>>(config, 2);
  CHECK(plan.parameter_count == 42 + 3 * 56 + 5);
  CHECK(plan.parameters_bytes == 5 * 64 * 4);
  CHECK(plan.gradients_bytes == 5 * 64 * 4);
  CHECK(plan.optimizer_bytes == 2 * 5 * 64 * 4);
  // Encoder and decoder are live together (the tie): two units, one buffer for both ranks.
  CHECK(plan.gathered_bytes == 2 * 128 * 4 / 2);
  // The encoder's gradients stay open from the decoder's backward to its own: two at a time.
  CHECK(plan.full_gradients_bytes == 2 * 128 * 4);
  CHECK(plan.device_resident_bytes == 4 * 5 * 64 * 4);
  // Gathers: forward encoder, 3 mixers, decoder with encoder; backward 3 mixers, encoder.
  CHECK(plan.all_gather_sent_bytes == 10 * 64 * 4 + summary);
  CHECK(plan.reduce_scatter_sent_bytes == 5 * 64 * 4);
  CHECK(plan.all_reduce_sent_bytes == 0);
  CHECK(plan.sent_bytes == 15 * 64 * 4 + summary);
}

TEST_CASE("the plan of NoShard, by hand") {
  constexpr sx::Plan plan = sx::plan<Trainer<sx::NoShard, sx::Sgd>>(config, 2);
  CHECK(plan.parameters_bytes == 5 * 128 * 4);
  CHECK(plan.gradients_bytes == 5 * 128 * 4);
  CHECK(plan.optimizer_bytes == 0);
  CHECK(plan.gathered_bytes == 0);
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
  constexpr sx::ActivationBytes bytes = sx::activation_bytes<toy::Autoencoder, float>(config);
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

// The order of a step, as the schedule gives it: what the engine executes and the plan counts.
struct Recorder {
  std::vector<std::string> log;
  void note(const char* what, std::size_t u) { log.push_back(what + std::to_string(u)); }
  void gather(std::size_t u) { note("gather ", u); }
  void release(std::size_t u) { note("release ", u); }
  void open_gradients(std::size_t u) { note("open ", u); }
  void reduce(std::size_t u) { note("reduce ", u); }
  void update(std::size_t u) { note("update ", u); }
  void publish(std::size_t u) { note("publish ", u); }
  template <std::size_t S>
  void forward(std::size_t u) {
    note("forward ", u);
  }
  template <std::size_t S>
  void backward(std::size_t u) {
    note("backward ", u);
  }
};

template <class Sharding>
std::vector<std::string> recorded() {
  toy::Config small = config;
  small.depth = 1;  // units: 0 encoder, 1 mixer, 2 decoder (with 0)
  const sx::Layout<toy::Autoencoder> layout{small, 2};
  sx::Schedule<sx::StrategyOf<Sharding>, toy::Autoencoder> schedule{layout};
  Recorder recorder;
  schedule.forward(recorder);
  schedule.backward(recorder);
  schedule.update(recorder);
  const std::vector<std::string> first = recorder.log;
  recorder.log.clear();
  schedule.forward(recorder);
  schedule.backward(recorder);
  schedule.update(recorder);
  CHECK(recorder.log == first);  // a step leaves nothing behind
  return first;
}

TEST_CASE("the schedule of FullShard") {
  CHECK(recorded<sx::FullShard>() ==
        std::vector<std::string>{
            "gather 0",  "forward 0",  "release 0",   //
            "gather 1",  "forward 1",  "release 1",   //
            "gather 2",  "gather 0",   "forward 2",   // stay: backward is next
            "open 2",    "open 0",     "backward 2",  //
            "release 2", "release 0",  "reduce 2",    // 0 waits for its own backward
            "gather 1",  "open 1",     "backward 1", "release 1", "reduce 1",  //
            "gather 0",  "backward 0", "release 0",  "reduce 0",               //
            "update 0",  "update 1",   "update 2"});
}
TEST_CASE("the schedule of ShardGradOp and ShardOptimizer") {
  const std::vector<std::string> want{"forward 0",  "forward 1",  "forward 2",               //
                                      "open 2",     "open 0",     "backward 2", "reduce 2",  //
                                      "open 1",     "backward 1", "reduce 1",                //
                                      "backward 0", "reduce 0",                              //
                                      "update 0",   "publish 0",  "update 1",   "publish 1",
                                      "update 2",   "publish 2"};
  CHECK(recorded<sx::ShardGradOp>() == want);
  CHECK(recorded<sx::ShardOptimizer>() == want);
}
TEST_CASE("the schedule of NoShard") {
  CHECK(recorded<sx::NoShard>() ==
        std::vector<std::string>{"forward 0", "forward 1", "forward 2",         //
                                 "open 2", "open 0", "backward 2", "reduce 2",  //
                                 "open 1", "backward 1", "reduce 1",            //
                                 "backward 0", "reduce 0",                      //
                                 "update 0", "update 1", "update 2"});
}

}  // namespace
