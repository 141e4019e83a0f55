// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <cstddef>

namespace shardexpr::testing {

/// A world runs `body(comm, ctx)` as every rank that lives in this process.
struct SoloWorld {
  static constexpr bool gather_aliases = false;  // `gather` moves the bytes once per rank

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
  static constexpr bool gather_aliases = true;  // one buffer for all ranks

  template <class Body>
  static void run(Body body) {
    launch(world, [&](Threads& comm) {
      Cpu device;
      Cpu::Stream stream;
      body(comm, Context<Cpu>{device, stream});
    });
  }
};

}  // namespace shardexpr::testing
