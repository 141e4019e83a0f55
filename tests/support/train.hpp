// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "toy.hpp"

/// What a training run leaves, for comparing strategies to the bit.
struct Outcome {
  std::vector<float> weights;         // all parameters, in order, as rank 0 saw them
  std::vector<double> losses, norms;  // of each step
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// Trains the toy over `world` thread-ranks. `seen(comm, device, trainer)` runs on every rank after
/// the last step, before the parameters are summoned.
template <class Trainer, class Seen>
Outcome train_toy(std::size_t world, std::size_t steps, const toy::Config& config, Seen seen) {
  Outcome outcome;
  shardexpr::launch(world, [&](shardexpr::Threads& comm) {
    shardexpr::Cpu device;
    Trainer trainer{device, comm, config};
    std::vector<float> x(config.rows * config.inputs);
    for (std::size_t s = 0; s < steps; ++s) {
      toy::fill(x, s, comm.rank());
      const shardexpr::StepResult result = trainer.step({x.data()});
      if (comm.rank() == 0) {
        outcome.losses.push_back(result.loss);
        outcome.norms.push_back(result.gradient_norm);
      }
    }
    seen(comm, device, trainer);
    trainer.summon([&](const std::string&, auto value) {
      if (comm.rank() == 0)
        outcome.weights.insert(outcome.weights.end(), value.data, value.data + value.count());
    });
  });
  return outcome;
}
template <class Trainer>
Outcome train_toy(std::size_t world, std::size_t steps, const toy::Config& config = {}) {
  return train_toy<Trainer>(world, steps, config, [](auto&&...) {});
}
