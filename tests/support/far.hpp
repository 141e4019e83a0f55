// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "frozen_toy.hpp"
#include "offloaded.hpp"
#include <doctest/doctest.h>

// What is asked of a device that does not share its memory with the host: that trainers on it do
// what they do on a Cpu, to the bit.
namespace far {

template <class Device, class... Ps>
using Trainer = sx::Sharded<toy::Autoencoder, Ps..., sx::On<Device>>;

inline constexpr toy::Config wide{.inputs = 61, .width = 83, .depth = 2, .rows = 3};

template <class Device, class... Ps>
void check_story(const Story& near, const Job& job) {
  CAPTURE(job.world);
  CAPTURE(job.micro_batches);
  check_same(tell_story<Trainer<Device, Ps...>>(job), near);
}
template <class Device>
void check_stories(std::initializer_list<std::size_t> worlds) {
  for (const std::size_t world : worlds)
    for (const std::size_t micro_batches : {1, 2}) {
      const Job job{.world = world, .micro_batches = micro_batches, .config = wide};
      const Story near = tell_story<Toy<sx::NoShard>>(job);
      check_story<Device, sx::NoShard>(near, job);
      check_story<Device, sx::FullShard, sx::PersistBelow<100>>(near, job);
      check_story<Device, sx::ShardGradOp, In<OnDevice, sx::Partly<1, 3>>>(near, job);
      check_story<Device, sx::OffloadAll>(near, job);
      check_story<Device, In<OnHost, OnDevice>>(near, job);
      check_story<Device, In<OnNvme, OnNvme>>(near, job);
      const Story near_mixed = tell_story<Toy<Mixed, sx::ClipNorm>>(job);
      check_story<Device, Mixed, sx::ClipNorm, sx::ShardOptimizer>(near_mixed, job);
      check_story<Device, Mixed, sx::ClipNorm, sx::OffloadAll>(near_mixed, job);
    }
}

template <class Device, class... Ps>
void check_plan_of(const Job& job) {
  const Outcome near = train<Toy<Ps...>>(job), away = train<Trainer<Device, Ps...>>(job);
  CHECK(away.losses == near.losses);
  CHECK(away.norms == near.norms);
  CHECK(away.weights == near.weights);
  CHECK(away.weights.size() > 1000);
}
template <class Device>
void check_plans() {
  const Job job{.config = wide};
  check_plan_of<Device, sx::FullShard>(job);
  check_plan_of<Device, sx::OffloadAll>(job);
  check_plan_of<Device, In<OnDevice, OnNvme>>(job);
  const auto near = sx::plan<Toy<>>(wide, 2), away = sx::plan<Trainer<Device>>(wide, 2);
  CHECK(near.to_host_bytes == 0);
  CHECK(away.to_host_bytes == sizeof(sx::StepOutcome));
  CHECK(away.host_peak_bytes == sizeof(sx::StepOutcome));
  CHECK(away.device_peak_bytes == near.device_peak_bytes);
}

/// What a step on a row with an infinity says; the next one works.
template <class Trainer>
std::string error_of_infinity() {
  std::string error;
  on_ranks<Trainer>(Job{.world = 1}, as_it_is, [&](auto&, auto&, auto& trainer) {
    const Job job{.world = 1};
    Rows rows{job, 0};
    auto batch = rows.of_step(0)[0];
    std::vector<float> bad(batch.x, batch.x + job.config.rows * job.config.inputs);
    bad[1] = std::numeric_limits<float>::infinity();
    try {
      (void)trainer.step({bad.data()});
    } catch (const sx::NotFiniteError& e) {
      error = e.what();
    }
    CHECK(trainer.step(rows.of_step(1)[0]).loss > 0);
  });
  return error;
}
template <class Device>
void check_not_finite_is_named() {
  const std::string near = error_of_infinity<Toy<>>();
  CHECK(near.find("is not finite") != std::string::npos);
  CHECK(error_of_infinity<Trainer<Device>>() == near);
  CHECK(error_of_infinity<Trainer<Device, sx::OffloadAll>>() == near);
}

}  // namespace far
