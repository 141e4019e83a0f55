// SPDX-License-Identifier: Apache-2.0
// What a network's time adds to a communicator: how much, where, and that nothing else changes.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <chrono>
#include <ctime>
#include <limits>
#include <string>
#include <vector>

#include "../support/deferred.hpp"
#include "watchdog.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Times = std::vector<std::chrono::nanoseconds>;

/// Writes down what it is asked for and returns at once.
struct Noted {
  Times* times;
  void operator()(std::chrono::nanoseconds time) const { times->push_back(time); }
};

static_assert(Communicator<Delayed<Solo>, Cpu>);
static_assert(Communicator<Delayed<Delayed<Threads>>, Cpu>);
static_assert(Communicator<Delayed<Threads, Noted>, Deferred>);
static_assert(Delayed<Threads>::gather_is_shared == Threads::gather_is_shared);
static_assert(Delayed<Solo>::gather_is_shared == Solo::gather_is_shared);

// 1 byte a ns, so that times read as bytes.
constexpr Network network{.latency = 1s, .bytes_per_second = 1e9};

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

TEST_CASE("a network's time is latency + bytes / bandwidth") {
  CHECK(network.time_of(0) == 1s);
  CHECK(network.time_of(1500) == 1s + 1500ns);
  CHECK(Network{}.time_of(std::numeric_limits<std::size_t>::max()) == 0ns);
  CHECK(Network{.latency = 5us}.time_of(1000) == 5us);
  CHECK(Network{.latency = 0ns, .bytes_per_second = 2.5e9}.time_of(1000) == 400ns);
  // No overflow, whatever is asked.
  const Network slow{.latency = std::chrono::nanoseconds::max(), .bytes_per_second = 1e-300};
  CHECK(slow.time_of(1000) > 24h);
  CHECK(Clock::now() + slow.time_of(1000) > Clock::now());
}

TEST_CASE("a network that is none is refused in one line, and the communicator is left alone") {
  const auto refused = [](Network wrong, const std::string& what) {
    Solo comm;
    CAPTURE(what);
    try {
      Delayed<Solo> delayed{std::move(comm), wrong};
      FAIL("not refused");
    } catch (const ConfigError& error) {
      CHECK(error.what() == what);
    }
  };
  refused({.latency = -1ns}, "a network's latency must be at least 0, got -1 ns");
  for (const double bad : {0.0, -1.0, -std::numeric_limits<double>::infinity()})
    refused({.bytes_per_second = bad},
            "a network's bytes_per_second must be above 0, got " + std::to_string(bad));
  refused({.bytes_per_second = std::numeric_limits<double>::quiet_NaN()},
          "a network's bytes_per_second must be above 0, got nan");

  launch(2, [](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    CHECK_THROWS_AS((Delayed<Threads>{std::move(comm), {.latency = -1ns}}), ConfigError);
    comm.barrier(Context<Cpu>{device, stream});  // still this rank
  });
}

TEST_CASE("every collective waits once, for the bytes that it counts") {
  Watchdog watchdog{"times"};
  for (const std::size_t world : {1, 2, 5})
    launch(world, [&](Threads& threads) {
      Times times;
      Delayed<Threads, Noted> comm{std::move(threads), network, {&times}};
      Cpu device;
      Cpu::Stream stream;
      const Context<Cpu> ctx{device, stream};
      std::vector<float> shard(10), full(10 * world), other(10 * world), odd(world + 1);
      auto buffer = comm.gather_buffer<float>(device, 10 * world);
      const std::size_t peers = world - 1;

      const auto waits = [&](std::size_t bytes, auto call) {
        CAPTURE(world);
        const Traffic before = comm.traffic();
        times.clear();
        call();
        CHECK(times == Times{1s + std::chrono::nanoseconds{bytes}});
        CHECK((comm.traffic() - before).total() == bytes);
      };
      waits(peers * 40, [&] { comm.all_gather(ctx, shard, std::span{full}); });
      waits(peers * 40, [&] { comm.gather(ctx, shard, buffer.span()); });
      waits(peers * 40, [&] { comm.reduce_scatter(ctx, full, std::span{shard}, Reduction::sum); });
      waits(2 * peers * ceil_div(world + 1, world) * 4,
            [&] { comm.all_reduce(ctx, std::span{odd}, Reduction::mean); });
      waits(comm.rank() == world - 1 ? peers * 40 : 0,
            [&] { comm.broadcast(ctx, std::span{shard}, world - 1); });
      waits(peers * 40, [&] { comm.all_to_all(ctx, full, std::span{other}); });
      waits(0, [&] { comm.barrier(ctx); });

      times.clear();
      auto half = comm.split(static_cast<int>(comm.rank() % 2), 0);
      CHECK(times.empty());
      CHECK(half.network().time_of(7) == network.time_of(7));
      half.barrier(ctx);
      CHECK(times == Times{1s});
      CHECK(comm.rank() < world);
    });
}

TEST_CASE("the wait is an operation of the caller's stream, before the collective") {
  Times times;
  Delayed<Solo, Noted> comm{Solo{}, network, {&times}};
  Deferred device;
  Deferred::Stream stream, other;
  const Context<Deferred> ctx{device, stream};
  std::vector<float> shard{1, 2, 3}, full(3);
  bool copied_before = true;
  ctx.run(reads(), writes(), [&] { CHECK(times.empty()); });
  comm.all_gather(ctx, shard, std::span{full});
  CHECK(times.empty());
  CHECK(stream.work.size() == 3);
  CHECK(other.work.empty());
  stream.run_until(2);
  CHECK(times == Times{1s});
  copied_before = full[0] != 0;
  device.synchronize(stream);
  CHECK_FALSE(copied_before);
  CHECK(full == shard);
}

TEST_CASE("a network without a time adds no operation") {
  Delayed<Solo> comm{Solo{}, {}};
  Deferred device;
  Deferred::Stream stream;
  comm.barrier(Context<Deferred>{device, stream});
  CHECK(stream.work.empty());
}

TEST_CASE("it sleeps: at least the time, and off the processor") {
  Watchdog watchdog{"sleeps"};
  launch(2, [](Threads& threads) {
    Delayed<Threads> comm{std::move(threads), {.latency = 50ms, .bytes_per_second = 1e6}};
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    std::vector<std::byte> shard(50'000), full(100'000);  // 50 ms more
    const auto began = Clock::now();
    const double used_before = thread_seconds();
    comm.all_gather(ctx, shard, std::span{full});
    CHECK(Clock::now() - began >= 100ms);
    CHECK(thread_seconds() - used_before < 0.05);
  });
}

TEST_CASE("what the communicator refuses or loses passes through") {
  Watchdog watchdog{"errors"};
  try {
    launch(3, [](Threads& threads) {
      Delayed<Threads> comm{std::move(threads), {.latency = 1us}};
      Cpu device;
      Cpu::Stream stream;
      const Context<Cpu> ctx{device, stream};
      std::vector<float> shard(3), full(9);
      CHECK_THROWS_WITH_AS(comm.all_gather(ctx, shard, std::span{full}.first(8)),
                           "all_gather #1 of 3 fp32: full has 8 elements, must have 3 ranks x 3",
                           ConfigError);
      CHECK(comm.traffic() == Traffic{});
      if (comm.rank() == 1)
        comm.barrier(ctx);
      else
        comm.all_gather(ctx, shard, std::span{full});
      FAIL("ranks that call differently went on");
    });
    FAIL("launch returned");
  } catch (const RankError& error) {
    CAPTURE(error.what());
    CHECK(std::string{error.what()}.find("barrier #2") != std::string::npos);
    CHECK_THROWS_AS(std::rethrow_if_nested(error), CommError);
  }
}

}  // namespace shardexpr::testing
