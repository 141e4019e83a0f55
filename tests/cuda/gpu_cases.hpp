// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is asked of trainers on Cuda, on a GPU and over the emulated runtime alike.
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/traced.hpp>

#include <cstddef>
#include <cstdint>

#include "gpu_trainers.hpp"
#include <doctest/doctest.h>

namespace gpu {

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

TEST_CASE("a GPU that is checked, and one whose streams are traced, give the same bits") {
  using Checked = sx::Checked<sx::Cuda>;
  using Traced = sx::Traced<sx::Cuda>;
  const Outcome plain = train<sx::Cuda, sx::OffloadAll>(1);
  CHECK(train<Checked, sx::OffloadAll>(1) == plain);

  sx::Trace trace;
  const auto launch = [&](std::size_t world, auto body) {
    sx::launch(world, [&](sx::Threads& comm) {
      Traced device{trace, comm.rank()};
      body(comm, device);
    });
  };
  using Trainer = sx::Sharded<line::Line, sx::OffloadAll, sx::On<Traced>>;
  CHECK(train_by<Trainer>(launch, 1) == plain);
  CHECK(trace.dropped_events() == 0);
  std::size_t copies = 0;
  for (const sx::detail::StreamTrace* stream : trace.streams()) {
    CHECK(stream->clock_match().uncertainty_ns < 50'000'000);
    std::int64_t last_ns = 0;
    for (const sx::detail::TraceEvent& event : stream->events()) {
      if (event.kind != sx::detail::TraceKind::operation) continue;
      copies += stream->name() == "up";
      CHECK(last_ns <= event.begin_ns);
      CHECK(event.begin_ns <= event.end_ns);
      last_ns = event.end_ns;
    }
    CHECK(last_ns < std::int64_t{3'600} * 1'000'000'000);  // since the trace was made
  }
  CHECK(copies >= 20 * 2 * 5);
}

}  // namespace gpu
