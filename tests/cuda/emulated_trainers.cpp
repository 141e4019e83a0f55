// SPDX-License-Identifier: Apache-2.0
// Trainers and collectives over Cuda, whose runtime is emulated: the engine's own work, transfers
// and disks in the order of a GPU's streams, to the bits of the Cpu.
#include <shardexpr/device/cuda.cuh>

#include <chrono>
#include <cstddef>

#include "../comm/conformance.hpp"
#include "../comm/watchdog.hpp"
#include "../support/far.hpp"
#include "gpu_cases.hpp"  // these tests run here too
#include <doctest/doctest.h>

namespace {

using shardexpr::testing::Watchdog;

/// Delays in one in four operations of the GPU.
struct Delays {
  Delays() { emulated::machine.longest_delay = std::chrono::microseconds{20}; }
  ~Delays() { emulated::machine.longest_delay = {}; }
};

TEST_CASE("all a program can do with a trainer on Cuda gives the bits of the Cpu") {
  const Watchdog watchdog{"trainers on Cuda", std::chrono::seconds{280}};
  const Delays delays;
  far::check_stories<sx::Cuda>({2});
}
TEST_CASE("plan equals run on Cuda") {
  const Watchdog watchdog{"plans on Cuda", std::chrono::seconds{200}};
  far::check_plans<sx::Cuda>();
}
TEST_CASE("what is not finite is found on Cuda, and has its name") {
  far::check_not_finite_is_named<sx::Cuda>();
}

template <std::size_t world>
struct CudaWorld {
  static std::size_t sharers(const auto& comm) { return comm.size(); }  // of one buffer

  template <class Body>
  static void run(Body body) {
    sx::launch(world, [&](sx::Threads& comm) {
      // On two GPUs that reach each other's memory.
      sx::Cuda device{static_cast<int>(comm.rank() % 2)};
      sx::Cuda::Stream stream{device, "collectives"};
      body(comm, sx::Context<sx::Cuda>{device, stream});
    });
  }
};
TEST_CASE_TEMPLATE("Threads over Cuda conform", World, CudaWorld<1>, CudaWorld<2>, CudaWorld<4>,
                   CudaWorld<5>) {
  const Watchdog watchdog{"conformance over Cuda", std::chrono::seconds{280}};
  const Delays delays;
  sx::testing::conformance<World>();
}

}  // namespace
