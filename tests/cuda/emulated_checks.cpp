// SPDX-License-Identifier: Apache-2.0
// What is refused or found before it does harm on Cuda: a strategy that will not fit, and, by
// Checked<Cuda>, operations that no event orders.
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cuda.cuh>

#include <chrono>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../comm/watchdog.hpp"
#include "../support/error_of.hpp"
#include "gpu_trainers.hpp"
#include "restore.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using emulated::Restore;
using shardexpr::testing::Watchdog;
using std::chrono::seconds;
using Checked = sx::Checked<sx::Cuda>;

static_assert(sx::Device<Checked> && sx::HasHost<Checked> && !sx::detail::runs_on_host<Checked>);
static_assert(sx::detail::runs_on_host<Checked::Host>);

// Memory
// -------------------------------------------------------------------------------------------

const line::Config config{.width = 100'000, .depth = 2};

template <class Device, class... Ps>
using Trainer = sx::Sharded<line::Line, Ps..., sx::On<Device>>;

/// What making a trainer ends with, in one rank.
template <class T>
std::string error_of_making(const line::Config& of, const typename T::Options& options = {}) {
  return error_of([&] {
    sx::launch(1, [&](sx::Threads& comm) {
      typename T::Device device;
      const T trainer{device, comm, of, options};
    });
  });
}

TEST_CASE_TEMPLATE("a strategy that needs more than the GPU has is refused, with the numbers",
                   Device, sx::Cuda, Checked) {
  const Restore restore;
  using Whole = Trainer<Device, sx::NoShard>;
  const std::size_t needed = sx::plan<Whole>(config, 1).device_peak_bytes;
  CHECK(needed == 8'803'456);
  emulated::machine.memory_bytes = needed;
  CHECK(error_of_making<Whole>(config) == "");
  emulated::machine.memory_bytes = needed - 1;
  CHECK(error_of_making<Whole>(config) ==
        "rank 0: a rank of this strategy needs 8.3 MiB (8803456 bytes) on the device, 2.2 MiB "
        "(2401024 bytes) of it for activations, and 8.3 MiB (8803455 bytes) are available there: "
        "shard over more ranks, offload, recompute, or take a smaller batch (sx::plan tells the "
        "bytes of each)");
  // Two ranks need less each.
  const std::size_t half = sx::plan<Trainer<Device, sx::FullShard>>(config, 2).device_peak_bytes;
  CHECK(half < needed);
}

TEST_CASE("it is refused before anything is allocated") {
  const Restore restore;
  emulated::machine.memory_bytes = 1000;
  sx::launch(1, [&](sx::Threads& comm) {
    sx::Cuda device;
    CHECK_THROWS_AS((Trainer<sx::Cuda>{device, comm, config}), sx::ConfigError);
    CHECK(emulated::Memory::instance().used_bytes(0) == 0);
    CHECK(emulated::Memory::instance().pinned_count() == 0);
    CHECK(device.account().peak_bytes() == 0);
  });
}

TEST_CASE("the plan is that of the ranks and micro-batches that there are") {
  const Restore restore;
  using Summing = Trainer<sx::Cuda, sx::FullShard>;
  const std::size_t one = sx::plan<Summing>(config, 1, 1).device_peak_bytes,
                    two = sx::plan<Summing>(config, 1, 2).device_peak_bytes;
  REQUIRE(one < two);
  emulated::machine.memory_bytes = one;
  typename Summing::Options options;
  CHECK(error_of_making<Summing>(config, options) == "");
  options.micro_batches = 2;
  CHECK(error_of_making<Summing>(config, options).find("of this strategy needs") !=
        std::string::npos);
  const std::size_t shared = sx::plan<Summing>(config, 2).device_peak_bytes;
  REQUIRE(2 * shared > one);
  emulated::machine.memory_bytes = shared;
  CHECK(error_of_making<Summing>(config).find("of this strategy needs") != std::string::npos);
  CHECK(error_of([] {
          sx::launch(2, [](sx::Threads& comm) {  // a GPU each
            sx::Cuda device{static_cast<int>(comm.rank())};
            const Summing trainer{device, comm, config};
          });
        }).find("of this strategy needs") == std::string::npos);
}

TEST_CASE("memory that is kept counts as available") {
  const Restore restore;
  using Whole = Trainer<sx::Cuda, sx::NoShard>;
  emulated::machine.memory_bytes = sx::plan<Whole>(config, 1).device_peak_bytes;
  sx::launch(1, [&](sx::Threads& comm) {
    sx::Cuda device;
    { const Whole trainer{device, comm, config}; }
    CHECK(emulated::Memory::instance().used_bytes(0) > 0);
    const Whole again{device, comm, config};
  });
}

TEST_CASE("what will not fit beside the GPU is refused too, and mistakes are told before") {
  const Restore restore;
  emulated::machine.memory_bytes = std::numeric_limits<std::size_t>::max() / 2;
  using Away = Trainer<sx::Cuda, sx::OffloadAll>;
  const line::Config huge{.width = std::size_t{1} << 42, .depth = 2};
  const std::string error = error_of_making<Away>(huge);
  INFO(error);
  CHECK(error.find("rank 0: a rank of this strategy needs 262144.0 GiB (281474976710856 bytes) on "
                   "the host, and ") == 0);
  CHECK(error.find(" are available there: shard over more ranks, or keep state on NVMe (sx::plan "
                   "tells the bytes)") != std::string::npos);
  typename Away::Options options;
  options.micro_batches = 0;
  const std::string mistake = error_of_making<Away>(huge, options);
  CHECK(mistake.find("micro") != std::string::npos);
  CHECK(mistake.find("needs") == std::string::npos);
}

TEST_CASE("bytes as a message tells them") {
  CHECK(sx::detail::bytes_text(17) == "17 bytes");
  CHECK(sx::detail::bytes_text(1023 * 1024) == "1047552 bytes");
  CHECK(sx::detail::bytes_text((5u << 20) + (9u << 20) / 10) == "5.8 MiB (6186598 bytes)");
  CHECK(sx::detail::bytes_text(std::size_t{3} << 29) == "1.5 GiB (1610612736 bytes)");
}

// Races
// --------------------------------------------------------------------------------------------

struct Add {
  float* to;
  const float* from;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { to[i] += from[i]; }
};
__global__ void add_all(float* to, const float* from, std::size_t count) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) to[i] += from[i];
}

TEST_CASE("what a library enqueues is checked by what it says") {
  const Watchdog watchdog{"checked enqueue", seconds{60}};
  Checked device{sx::CheckOptions{}};
  Checked::Stream compute{device, "compute"}, copies{device, "copies"};
  Checked::Event event;
  constexpr std::size_t n = 1000;
  const auto a = device.allocate<float>(n, sx::Purpose::other);
  const auto b = device.allocate<float>(n, sx::Purpose::other);
  const auto h = device.host().allocate<float>(n, sx::Purpose::other);
  const sx::Context<Checked> ctx{device, compute};
  const std::shared_ptr<const sx::detail::OutsideFailure> danger;
  const auto launch = [&](cudaStream_t on) {
    sx::detail::cuda_launch(on, 4, 256, "add", add_all, a.data(),
                            static_cast<const float*>(b.data()), n);
  };
  const auto copy = [&](const auto& from) {
    return error_of([&] { device.copy(copies, std::span<const float>{from.span()}, h.span()); });
  };
  const auto order = [&] {
    device.record(event, compute);
    device.wait(copies, event);
    device.synchronize(copies);
    device.synchronize(compute);
  };
  for (int how = 0; how < 3; ++how) {
    CAPTURE(how);
    if (how == 0)
      ctx.enqueue(sx::reads(b, a), sx::writes(a), launch);
    else if (how == 1)
      device.enqueue(compute, sx::reads(b, a), sx::writes(a), launch, danger);
    else
      ctx.for_each(n, sx::reads(b, a), sx::writes(a), Add{a.data(), b.data()});
    const std::string race = copy(a);
    CHECK(race.find("race on bytes [0, 4000) of a buffer") == 0);
    CHECK(race.find("on stream \"copies\", not ordered behind the write") != std::string::npos);
    CHECK(copy(b) == "");  // both only read
    order();
    CHECK(copy(a) == "");
    // Nor may it write what is still read.
    CHECK(error_of([&] { ctx.enqueue(sx::reads(b), sx::writes(a), launch); }).find("race") == 0);
    order();
  }
}

/// A trainer's steps, with one wait left out.
template <class... Ps>
std::string error_without_wait(std::size_t n) {
  return error_of([&] {
    sx::launch(1, [&](sx::Threads& comm) {
      Checked device{sx::CheckOptions{}};
      device.drop_wait(n);
      Trainer<Checked, Ps...> trainer{device, comm, line::Config{.width = 100, .depth = 2}};
      for (int s = 0; s < 2; ++s) (void)trainer.step(line::Batch{});
    });
  });
}
TEST_CASE("trainers on a checked GPU are without a race, and to the same bits") {
  const Watchdog watchdog{"checked trainers", seconds{280}};
  using sx::FullShard, sx::OffloadAll;
  CHECK(gpu::train<Checked, FullShard>(2) == gpu::train<sx::Cuda, FullShard>(2));
  CHECK(gpu::train<Checked, OffloadAll>(2) == gpu::train<sx::Cuda, OffloadAll>(2));
  for (const std::size_t n : {0, 3, 7}) {
    CAPTURE(n);
    CHECK(error_without_wait<OffloadAll>(n).find("race on bytes") != std::string::npos);
  }
  CHECK(error_without_wait<OffloadAll>(100'000) == "");
}

}  // namespace
