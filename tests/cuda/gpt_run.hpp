// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../support/formula_batch.hpp"
#include "../support/scratch.hpp"
#include "gpt_reference.hpp"
#include <doctest/doctest.h>

namespace gpu {

namespace sx = shardexpr;

/// Trains a GPT over threads, each with a device of its own, and compares the plan with what they
/// held and sent.
template <class Trainer>
Outcome train_gpt(const sx::GptConfig& config, std::size_t world, std::size_t steps,
                  std::size_t micro_batches = 1) {
  Outcome outcome;
  const sx::Plan plan = sx::plan<Trainer>(config, world, micro_batches);
  const Scratch scratch;
  sx::launch(world, [&](sx::Threads& comm) {
    typename Trainer::Device device;
    typename Trainer::Options options;
    options.seed = gpt_seed;
    options.micro_batches = micro_batches;
    options.optimizer = {.learning_rate = gpt_learning_rate, .beta2 = 0.95f, .weight_decay = 0.1f};
    if constexpr (requires { options.loss_scale.scale; }) options.loss_scale.scale = gpt_loss_scale;
    if constexpr (requires { options.nvme.directory; }) {
      options.nvme.directory = scratch.path();
      options.nvme.notice = [](const std::string&) {};
    }
    Trainer trainer{device, comm, config, options};
    for (std::size_t s = 0; s < steps; ++s) {
      std::vector<std::vector<std::int32_t>> tokens(micro_batches), targets(micro_batches);
      std::vector<sx::GptBatch> batches;
      for (std::size_t m = 0; m < micro_batches; ++m) {
        formula_batch(config, world, s * micro_batches + m, comm.rank(), tokens[m], targets[m]);
        batches.push_back({tokens[m].data(), targets[m].data()});
      }
      const sx::StepResult result = trainer.step(batches);
      if (comm.rank() != 0) continue;
      outcome.losses.push_back(result.loss);
      outcome.norms.push_back(result.gradient_norm);
    }
    CHECK(device.account().peak_bytes() == plan.device_peak_bytes);
    CHECK(trainer.traffic().total() == steps * plan.sent_bytes);
    if constexpr (sx::HasHost<typename Trainer::Device>)
      CHECK(device.host().account().peak_bytes() == plan.host_peak_bytes);
    trainer.summon([&](const std::string&, auto value) {
      if (comm.rank() == 0)
        for (std::size_t i = 0; i < value.count(); ++i)
          outcome.weights.push_back(static_cast<float>(value[i]));
    });
  });
  return outcome;
}

}  // namespace gpu
