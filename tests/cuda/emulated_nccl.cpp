// SPDX-License-Identifier: Apache-2.0
// Collectives by NCCL, which is emulated as the runtime is.
#include <shardexpr/comm/nccl.cuh>
#include <shardexpr/device/cuda.cuh>

#include <chrono>
#include <cstddef>

#include "../comm/conformance.hpp"
#include "../comm/watchdog.hpp"
#include "nccl_world.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

/// Eight GPUs whose operations may come late.
struct Gpus {
  Gpus() {
    emulated::machine.devices = 8;
    emulated::machine.longest_delay = std::chrono::microseconds{20};
  }
  ~Gpus() { emulated::machine = {}; }
};

TEST_CASE_TEMPLATE("Nccl conforms", World, NcclWorld<Nccl, 1>, NcclWorld<Nccl, 2>,
                   NcclWorld<Nccl, 3>, NcclWorld<Nccl, 5>, NcclWorld<NcclInRankOrder, 1>,
                   NcclWorld<NcclInRankOrder, 2>, NcclWorld<NcclInRankOrder, 4>,
                   NcclWorld<NcclInRankOrder, 5>) {
  const Watchdog watchdog{"conformance of Nccl", std::chrono::seconds{280}};
  const Gpus gpus;
  conformance<World>();
  CHECK(emulated::nccl.alive == 0);
  CHECK(emulated::nccl.registered == 0);
}

}  // namespace
}  // namespace shardexpr::testing
