// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <chrono>
#include <cstddef>
#include <utility>

namespace shardexpr::testing {

/// A world runs `body(comm, ctx)` as every rank that lives in this process.
struct SoloWorld {
  static std::size_t sharers(const auto&) { return 1; }  // each has a buffer of its own

  template <class Body>
  static void run(Body body) {
    Solo comm;
    Cpu device;
    Cpu::Stream stream;
    body(comm, Context<Cpu>{device, stream});
  }
};

template <std::size_t world>
struct ThreadsWorld {
  static std::size_t sharers(const auto& comm) { return comm.size(); }  // of one buffer

  template <class Body>
  static void run(Body body) {
    launch(world, [&](Threads& comm) {
      Cpu device;
      Cpu::Stream stream;
      body(comm, Context<Cpu>{device, stream});
    });
  }
};

/// A fast network, so that the suite stays short.
template <std::size_t world>
struct DelayedWorld {
  static std::size_t sharers(const auto& comm) { return comm.size(); }  // of one buffer

  template <class Body>
  static void run(Body body) {
    launch(world, [&](Threads& threads) {
      const Network network{.latency = std::chrono::microseconds{1}, .bytes_per_second = 1e10};
      Delayed<Threads> comm{std::move(threads), network};
      Cpu device;
      Cpu::Stream stream;
      body(comm, Context<Cpu>{device, stream});
    });
  }
};

}  // namespace shardexpr::testing
