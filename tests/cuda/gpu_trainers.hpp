// SPDX-License-Identifier: Apache-2.0
#pragma once
// Runs of a model of functors on Cuda: compiled by nvcc for GPUs, and by a C++ compiler over the
// emulated runtime.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/engine/sharded.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "../support/scratch.hpp"
#include "gpt_reference.hpp"
#include "line.hpp"
#include <doctest/doctest.h>

namespace gpu {

namespace sx = shardexpr;

/// Ranks that are threads: `body(comm, device)` in each.
template <class Device>
struct ByThreads {
  template <class Body>
  void operator()(std::size_t world, Body body) const {
    sx::launch(world, [&](sx::Threads& comm) {
      Device device;
      body(comm, device);
    });
  }
};

template <class Options>
void use_directory([[maybe_unused]] Options& options, [[maybe_unused]] const Scratch& scratch) {
  if constexpr (requires { options.nvme.directory; }) {
    options.nvme.directory = scratch.path();
    options.nvme.notice = [](const std::string&) {};
  }
}

/// 20 steps of two micro-batches.
template <class Trainer, class Launch>
Outcome train_by(const Launch& launch, std::size_t world) {
  Outcome outcome;
  const line::Config config{.width = 1029, .depth = 3};
  const auto plan = sx::plan<Trainer>(config, world, 2);
  const Scratch scratch;
  launch(world, [&](auto& comm, auto& device) {
    typename Trainer::Options options;
    options.micro_batches = 2;
    options.optimizer.learning_rate = 0.03f;
    use_directory(options, scratch);
    Trainer trainer{device, comm, config, options};
    for (int s = 0; s < 20; ++s) {
      const auto target = [&](std::size_t m) {
        return 1 + 0.25f * static_cast<float>(comm.rank() + m) + 0.01f * static_cast<float>(s);
      };
      const line::Batch batches[] = {{target(0)}, {target(1)}};
      const sx::StepResult result = trainer.step(batches);
      if (comm.rank() != 0) continue;
      outcome.losses.push_back(result.loss);
      outcome.norms.push_back(result.gradient_norm);
    }
    CHECK(device.account().peak_bytes() == plan.device_peak_bytes);
    CHECK(device.host().account().peak_bytes() == plan.host_peak_bytes);
    trainer.summon([&](const std::string&, auto value) {
      if (comm.rank() == 0)
        for (std::size_t i = 0; i < value.count(); ++i)
          outcome.weights.push_back(static_cast<float>(value[i]));
    });
  });
  return outcome;
}
template <class Device, class... Ps>
Outcome train(std::size_t world) {
  return train_by<sx::Sharded<line::Line, Ps..., sx::On<Device>>>(ByThreads<Device>{}, world);
}

/// To rounding: contraction of products and sums is the compilers' choice.
inline void check_near(const Outcome& got, const Outcome& wanted) {
  REQUIRE(got.weights.size() == wanted.weights.size());
  REQUIRE(got.losses.size() == 20);
  CHECK(wanted.losses.back() < 0.7 * wanted.losses.front());
  for (std::size_t s = 0; s < 20; ++s) {
    CHECK(got.losses[s] == doctest::Approx(wanted.losses[s]).epsilon(1e-5));
    CHECK(got.norms[s] == doctest::Approx(wanted.norms[s]).epsilon(1e-4));
  }
  float largest = 0;
  for (std::size_t i = 0; i < got.weights.size(); ++i)
    largest = std::max(largest, std::abs(got.weights[i] - wanted.weights[i]));
  CHECK(largest < 1e-4f);
}

}  // namespace gpu
