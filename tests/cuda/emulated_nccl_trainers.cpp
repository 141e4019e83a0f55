// SPDX-License-Identifier: Apache-2.0
// Trainers whose ranks are joined by NCCL, emulated: the bits of `Threads` where sums are formed in
// rank order, and where NCCL forms them, the same to rounding. Plans hold for both.
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/device/cuda.cuh>

#include <chrono>
#include <cstddef>

#include "../comm/watchdog.hpp"
#include "gpu_trainers.hpp"
#include "nccl_world.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using shardexpr::testing::Watchdog;

template <class Comm>
struct ByNccl {
  template <class Body>
  void operator()(std::size_t world, Body body) const {
    sx::testing::launch_nccl<Comm, sx::Cuda>(world, body);
  }
};
template <class Comm, class... Ps>
gpu::Outcome train(std::size_t world) {
  emulated::machine.devices = 8;
  return gpu::train_by<sx::Sharded<line::Line, Ps..., sx::On<sx::Cuda>, sx::Over<Comm>>>(
      ByNccl<Comm>{}, world);
}
template <class... Ps>
void check_same(std::size_t world) {
  CAPTURE(world);
  CHECK(train<sx::NcclInRankOrder, Ps...>(world) == gpu::train<sx::Cuda, Ps...>(world));
}

TEST_CASE("trainers over Nccl have the bits of Threads where sums are in rank order") {
  const Watchdog watchdog{"trainers over Nccl", std::chrono::seconds{280}};
  for (const std::size_t world : {1, 3}) {
    check_same<sx::NoShard>(world);
    check_same<sx::FullShard>(world);
    check_same<sx::FullShard, sx::OffloadAll, sx::ForwardPrefetch<1>>(world);
  }
  check_same<sx::HybridShard<2>>(4);
  check_same<sx::FullShard, sx::ReshardTo<2>>(4);
  check_same<sx::FullShard, sx::QuantizedWeights, sx::QuantizedGradients>(2);
}

TEST_CASE("gradients of 16 bits over Nccl have the bits of Threads, and their room is planned") {
  using Narrow = sx::MixedPrecision<sx::bf16, sx::bf16>;
  const Watchdog watchdog{"16 bits over Nccl", std::chrono::seconds{280}};
  CHECK(train<sx::Nccl, sx::FullShard, Narrow>(3) ==
        gpu::train<sx::Cuda, sx::FullShard, Narrow>(3));
  CHECK(train<sx::Nccl, sx::NoShard, Narrow>(2) == gpu::train<sx::Cuda, sx::NoShard, Narrow>(2));
  CHECK(train<sx::Nccl, sx::HybridShard<2>, Narrow>(4) ==
        gpu::train<sx::Cuda, sx::HybridShard<2>, Narrow>(4));
  using Over = sx::Sharded<line::Line, sx::FullShard, Narrow, sx::On<sx::Cuda>, sx::Over<sx::Nccl>>;
  using Near = sx::Sharded<line::Line, sx::FullShard, Narrow, sx::On<sx::Cuda>>;
  const line::Config config{.width = 1029, .depth = 3};
  CHECK(sx::plan<Over>(config, 3).full_gradients_bytes ==
        sx::plan<Near>(config, 3).full_gradients_bytes + 3 * 384 * 2);
}

TEST_CASE("sums by NCCL agree with Threads to rounding") {
  const Watchdog watchdog{"sums by NCCL", std::chrono::seconds{100}};
  gpu::check_near(train<sx::Nccl, sx::FullShard>(3), gpu::train<sx::Cuda, sx::FullShard>(3));
}

}  // namespace
