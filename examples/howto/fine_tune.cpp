// SPDX-License-Identifier: Apache-2.0
// docs/howto/fine_tune.md: a model is trained, its layers are frozen, and its last unit learns
// more.
#include <shardexpr/checkpoint/info.hpp>
#include <shardexpr/checkpoint/load_model.hpp>
#include <shardexpr/checkpoint/save.hpp>

#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "../tutorial/perceptron.hpp"

using Trainer = sx::Sharded<perceptron::Model, sx::FullShard>;
using Weights = std::map<std::string, std::vector<float>>;

Weights weights_of(Trainer& trainer) {
  Weights all;
  trainer.summon([&](const std::string& name, auto value) {
    all[name] = {value.data, value.data + value.count()};
  });
  return all;
}

int run(const std::string& folder) {
  const perceptron::Config whole{.width = 64};
  Weights before, after;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, whole};
    const perceptron::Points points{whole, comm.rank()};
    for (int step = 1; step <= 50; ++step) (void)trainer.step(points.batch());
    sx::save_checkpoint(trainer, folder, sx::FullState{});
  });
  const perceptron::Config frozen{.width = 64, .freezes_layers = true};
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    // [tune]
    Trainer trainer{device, comm, frozen, {.optimizer = {.learning_rate = 1e-2f}}};
    sx::load_model(trainer, sx::checkpoint_info(folder).folder);  // parameters alone: step 0
    // [tune end]
    const Weights loaded = weights_of(trainer);
    const perceptron::Points points{frozen, 100 + comm.rank()};
    for (int step = 1; step <= 50; ++step) (void)trainer.step(points.batch());
    const Weights tuned = weights_of(trainer);
    if (comm.rank() == 0) before = loaded, after = tuned;
  });

  bool is_right = before.size() == 7;
  for (const auto& [name, values] : before)
    is_right = is_right && (values == after[name]) == (name != "last.weight");
  // [plan]
  const sx::Plan all = sx::plan<Trainer>(whole, 2), last = sx::plan<Trainer>(frozen, 2);
  std::printf("               gradients  moments  sent a step\n");
  std::printf("all trained   %10zu %8zu %12zu\n", all.gradients_bytes, all.optimizer_bytes,
              all.sent_bytes);
  std::printf("last trained  %10zu %8zu %12zu\n", last.gradients_bytes, last.optimizer_bytes,
              last.sent_bytes);
  // [plan end]
  return is_right && last.optimizer_bytes * 20 < all.optimizer_bytes ? 0 : 1;
}

int main(int argc, char** argv) try {
  const std::string folder = argc > 1 ? argv[1] : "fine_tune";
  std::filesystem::remove_all(folder);  // of the last run
  return run(folder);
} catch (const std::exception& error) {
  std::fprintf(stderr, "fine_tune: %s\n", error.what());
  return 1;
}
