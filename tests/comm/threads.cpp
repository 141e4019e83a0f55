// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <atomic>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <vector>

#include "watchdog.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {

TEST_CASE("launch runs every rank once, rank 0 on the calling thread") {
  Watchdog watchdog{"launch"};
  std::vector<std::thread::id> ids(5);
  launch(5, [&](Threads& comm) {
    CHECK(comm.size() == 5);
    ids[comm.rank()] = std::this_thread::get_id();
  });
  CHECK(ids[0] == std::this_thread::get_id());
  for (std::size_t i = 1; i < 5; ++i) CHECK(ids[i] != ids[0]);
}

TEST_CASE("launch of one rank passes its exception on") {
  try {
    launch(1, [](Threads&) { throw std::logic_error{"alone"}; });
    FAIL("launch returned");
  } catch (const RankError& e) {
    CHECK(e.rank() == 0);
    CHECK_THROWS_AS(std::rethrow_if_nested(e), std::logic_error);
  }
}

TEST_CASE("no rank passes a barrier before all have come") {
  Watchdog watchdog{"barrier", std::chrono::seconds{120}};
  for (std::size_t world : {2, 3, 8}) {
    std::atomic<std::size_t> arrived{0};
    std::atomic<std::size_t> early{0};
    launch(world, [&](Threads& comm) {
      Cpu device;
      Cpu::Stream stream;
      const Context<Cpu> ctx{device, stream};
      for (std::size_t round = 1; round <= 500; ++round) {
        arrived.fetch_add(1, std::memory_order_relaxed);
        comm.barrier(ctx);
        if (arrived.load(std::memory_order_relaxed) < round * world) early.fetch_add(1);
      }
    });
    CHECK(early == 0);
  }
}

TEST_CASE("ranks that wait sleep") {
  Watchdog watchdog{"sleep"};
  for (std::size_t world : {2, 8}) {
    const std::clock_t before = std::clock();  // CPU time of all threads
    launch(world, [](Threads& comm) {
      Cpu device;
      Cpu::Stream stream;
      if (comm.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds{300});
      comm.barrier(Context<Cpu>{device, stream});
    });
    CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < 0.1);
  }
}

TEST_CASE("a moved communicator is the rank") {
  Watchdog watchdog{"move"};
  launch(2, [](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    std::vector<Threads> held;
    {
      Threads sub = comm.split(0, 0);
      sub.barrier(ctx);
      held.push_back(std::move(sub));
    }
    float x = 1;
    held[0].all_reduce(ctx, std::span{&x, 1}, Reduction::sum);
    CHECK(x == 2);
    CHECK(held[0].traffic().all_reduce_bytes == 8);
  });
}

TEST_CASE("gather buffers outlive their communicator, and are freed with the last handle") {
  Watchdog watchdog{"gather buffer"};
  std::vector<Cpu> devices(2);
  std::vector<SharedBuffer<float>> kept(2);
  launch(2, [&](Threads& comm) {
    Cpu& device = devices[comm.rank()];
    Cpu::Stream stream;
    auto buffer = comm.gather_buffer<float>(device, 1000);
    const std::vector<float> shard(500, 1.0f + static_cast<float>(comm.rank()));
    comm.gather(Context<Cpu>{device, stream}, shard, buffer.span());
    kept[comm.rank()] = std::move(buffer);
  });
  CHECK(kept[0].data() == kept[1].data());
  kept[0] = {};
  CHECK(devices[0].account().live_bytes() == 0);
  CHECK(devices[1].account().live_bytes() == 2000);
  CHECK(kept[1].span()[499] == 1);
  CHECK(kept[1].span()[500] == 2);
}

TEST_CASE("a sub-communicator may outlive its parent") {
  Watchdog watchdog{"outlive"};
  const auto team = std::make_shared<Team>(2);
  const auto run = [&](std::size_t rank) {
    Cpu device;
    Cpu::Stream stream;
    Threads sub = Threads{team, rank}.split(0, 0);
    for (int i = 0; i < 100; ++i) sub.barrier(Context<Cpu>{device, stream});
  };
  std::thread other{run, 1};
  run(0);
  other.join();
}

}  // namespace shardexpr::testing
