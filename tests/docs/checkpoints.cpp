// SPDX-License-Identifier: Apache-2.0
// What docs/checkpoints.md and pages of docs/howto show, in use. Paths are relative there, so
// each case has a working directory of its own.
#include <shardexpr/checkpoint/async_save.hpp>
#include <shardexpr/checkpoint/info.hpp>
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/load_model.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/nn/gpt_huggingface.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "../../examples/tutorial/perceptron.hpp"
#include "../support/scratch.hpp"
#include <doctest/doctest.h>

namespace {

class InScratch {
 public:
  InScratch() : before_{std::filesystem::current_path()} {
    std::filesystem::current_path(scratch_.path());
  }
  ~InScratch() { std::filesystem::current_path(before_); }

 private:
  std::filesystem::path before_;
  Scratch scratch_;
};

template <class Trainer>
std::vector<float> weights(Trainer& trainer) {
  std::vector<float> all;
  trainer.summon([&](const std::string&, auto value) {
    all.insert(all.end(), value.data, value.data + value.count());
  });
  return all;
}

}  // namespace

TEST_CASE("save, load, save beside training, load on rank 0") {
  const InScratch here;
  using Trainer = sx::Sharded<perceptron::Model, sx::FullShard>;
  const perceptron::Config config;
  bool is_right[2] = {false, false};
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config};
    const perceptron::Points points{config, comm.rank()};
    (void)trainer.step(points.batch());
    const std::string first = [&] {
      // [save]
      sx::save_checkpoint(trainer, "checkpoints", sx::ShardedState{},
                          {.cursor = "epoch 2", .keep = 3});
      const sx::Restored restored = sx::load_checkpoint(trainer, "checkpoints");  // the latest
      // [save end]
      return restored.cursor;
    }();
    (void)trainer.step(points.batch());
    const std::vector<float> saved = weights(trainer);
    const std::string cursor = "epoch 3";
    {
      // [async]
      sx::AsyncSaver saver{trainer, "checkpoints"};
      saver.save({.cursor = cursor});  // returns when the state was copied
      saver.wait();                    // before the end; throws what failed, on every rank
      // [async end]
    }
    (void)trainer.step(points.batch());
    const bool went_on = weights(trainer) != saved;
    // [rank0]
    sx::load_checkpoint(trainer, "checkpoints", sx::LoadOnRank0{});
    // [rank0 end]
    is_right[comm.rank()] =
        first == "epoch 2" && went_on && trainer.steps() == 2 && weights(trainer) == saved;
  });
  CHECK(is_right[0]);
  CHECK(is_right[1]);
}

TEST_CASE("a rate of 0 for a group") {
  using Trainer = sx::Sharded<sx::Gpt, sx::FullShard>;
  const sx::GptConfig config{
      .vocabulary = 32, .context = 8, .embed = 16, .heads = 2, .layers = 1, .batch = 1};
  // [groups]
  Trainer::Options options;
  options.groups[0].learning_rate_factor = 0;  // biases and norms alone are trained
  // [groups end]
  std::map<std::string, std::vector<float>> before, after;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    const auto keep = [&](auto& weights) {
      trainer.summon([&](const std::string& name, auto value) {
        if (comm.rank() == 0) weights[name] = {value.data, value.data + value.count()};
      });
    };
    keep(before);
    const std::vector<std::int32_t> tokens{0, 1, 2, 3, 4, 5, 6, 7};
    for (int step = 0; step < 2; ++step) (void)trainer.step({tokens.data(), tokens.data()});
    keep(after);
  });
  CHECK(before.size() == 16);
  for (const auto& each : before) {
    const std::string& name = each.first;
    CAPTURE(name);
    const bool is_trained = name.ends_with(".bias") || name.find("ln_") != name.npos;
    CHECK((after.at(name) != each.second) == is_trained);
  }
}

TEST_CASE("a GPT-2 in the form of Hugging Face") {
  const InScratch here;
  using Trainer = sx::Sharded<sx::Gpt, sx::FullShard>;
  const sx::GptConfig sizes{
      .vocabulary = 32, .context = 8, .embed = 16, .heads = 2, .layers = 1, .batch = 1};
  std::vector<float> saved, loaded;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, sizes, {.seed = 7}};
    sx::save_checkpoint(trainer, "saved", sx::FullState{},
                        {.texts = {{"config.json", sx::gpt2_config_text(sizes)}}});
    const auto all = weights(trainer);
    if (comm.rank() == 0) saved = all;
  });
  std::filesystem::copy(sx::checkpoint_info("saved").folder, "gpt2");
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    // [gpt2]
    sx::GptConfig config = sx::read_gpt2_config("gpt2/config.json");
    config.batch = 2;  // the file does not say
    Trainer trainer{device, comm, config};
    sx::load_model(trainer, "gpt2", sx::LoadOnEachRank{}, sx::Gpt2Names{});
    // [gpt2 end]
    const auto all = weights(trainer);
    if (comm.rank() == 0) loaded = all;
  });
  CHECK(!saved.empty());
  CHECK(loaded == saved);
}
