// SPDX-License-Identifier: Apache-2.0
#pragma once
// Trainers of a model of functors on Cuda: compiled by nvcc for GPUs, and by a C++ compiler over
// the emulated runtime.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/engine/sharded.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "../support/scratch.hpp"
#include "line.hpp"
#include <doctest/doctest.h>

namespace gpu {

namespace sx = shardexpr;

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<float> weights;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// 20 steps of two micro-batches.
template <class Device, class... Ps>
Outcome train(std::size_t world) {
  using Trainer = sx::Sharded<line::Line, Ps..., sx::On<Device>>;
  Outcome outcome;
  const line::Config config{.width = 1029, .depth = 3};
  const auto plan = sx::plan<Trainer>(config, world, 2);
  const Scratch scratch;
  sx::launch(world, [&](sx::Threads& comm) {
    Device device;
    typename Trainer::Options options;
    options.micro_batches = 2;
    options.optimizer.learning_rate = 0.03f;
    if constexpr (requires { options.nvme.directory; }) {
      options.nvme.directory = scratch.path();
      options.nvme.notice = [](const std::string&) {};
    }
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

TEST_CASE("trainers on Cuda agree with the Cpu to rounding, and among themselves to the bit") {
  using sx::OnDevice;
  using sx::OnHost;
  using sx::OnNvme;
  for (const std::size_t world : {1, 3}) {
    CAPTURE(world);
    const Outcome plain = train<sx::Cuda, sx::NoShard>(world);
    check_near(plain, train<sx::Cpu, sx::NoShard>(world));
    CHECK(train<sx::Cuda, sx::FullShard>(world) == plain);
    CHECK(train<sx::Cuda, sx::ShardGradOp, sx::Offload<OnDevice, OnNvme>>(world) == plain);
    CHECK(train<sx::Cuda, sx::FullShard, sx::ForwardPrefetch<1>>(world) == plain);
    // AdamW of the host's compiler.
    check_near(train<sx::Cuda, sx::FullShard, sx::OffloadAll>(world), plain);
  }
}

TEST_CASE("mixed precision on Cuda: the same bits, sharded or not") {
  using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;
  for (const std::size_t world : {1, 2}) {
    CAPTURE(world);
    const Outcome plain = train<sx::Cuda, sx::NoShard, Mixed, sx::ClipNorm>(world);
    CHECK(plain.losses.back() < 0.7 * plain.losses.front());
    CHECK(train<sx::Cuda, sx::FullShard, Mixed, sx::ClipNorm>(world) == plain);
  }
}

}  // namespace gpu
