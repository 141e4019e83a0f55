// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 7: save, go on with other ranks and another strategy, export.
// [program]
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/safetensors_set.hpp>
#include <shardexpr/checkpoint/save.hpp>

#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "perceptron.hpp"

using Before = sx::Sharded<perceptron::Model, sx::FullShard>;
using After = sx::Sharded<perceptron::Model, sx::ShardGradOp>;
const perceptron::Config sizes;

/// Trains up to a step, on points that the step and the rank name; returns the parameters.
template <class Trainer>
std::vector<float> train(Trainer& trainer, std::size_t until, sx::Threads& comm) {
  while (trainer.steps() < until) {
    const perceptron::Points points{sizes, trainer.steps() * comm.size() + comm.rank()};
    (void)trainer.step(points.batch());
  }
  std::vector<float> all;
  trainer.summon([&](const std::string&, auto value) {
    all.insert(all.end(), value.data, value.data + value.count());
  });
  return all;
}

int run(const std::string& folder) {
  std::vector<float> saved, loaded;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Before trainer{device, comm, sizes};
    const auto all = train(trainer, 50, comm);
    if (comm.rank() == 0) saved = all;
    sx::save_checkpoint(trainer, folder + "/run", {.cursor = "point 100", .keep = 2});
  });
  sx::launch(3, [&](sx::Threads& comm) {  // one rank more, and another strategy
    sx::Cpu device;
    After trainer{device, comm, sizes};
    const sx::Restored restored = sx::load_checkpoint(trainer, folder + "/run");
    const auto all = train(trainer, restored.step, comm);  // nothing to train yet
    if (comm.rank() == 0) {
      loaded = all;
      std::printf("step %zu, \"%s\", saved by %zu ranks\n", restored.step, restored.cursor.c_str(),
                  restored.world);
    }
    (void)train(trainer, 100, comm);
    sx::save_checkpoint(trainer, folder + "/model", sx::FullState{.dtype = "BF16"});
  });
  const std::string step = sx::checkpoint_info(folder + "/model").folder;
  const sx::SafetensorsSet<> exported{step};  // model.safetensors, as any program reads it
  for (const auto& placed : exported.tensors())
    std::printf("%-16s %s\n", placed.tensor->name.c_str(), placed.tensor->dtype.name.data());
  return saved == loaded && exported.tensors().size() == 7 && exported.find("last.weight") ? 0 : 1;
}

int main(int argc, char** argv) try {
  const std::string folder = argc > 1 ? argv[1] : "tutorial_checkpoints";
  std::filesystem::remove_all(folder);  // of the last run
  std::filesystem::create_directories(folder);
  return run(folder);
} catch (const std::exception& error) {
  std::fprintf(stderr, "07_checkpoints: %s\n", error.what());
  return 1;
}
// [program end]
