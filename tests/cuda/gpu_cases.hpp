// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is asked of trainers on Cuda, on a GPU and over the emulated runtime alike.
#include <cstddef>

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

}  // namespace gpu
