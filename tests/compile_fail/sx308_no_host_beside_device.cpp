// SPDX-License-Identifier: Apache-2.0
// expect-error: SX308
// why: What is offloaded lies in the host's memory and is updated there. A device of your own says
// why: how by a `Host` and `host()`; `static_assert(shardexpr::HasHost<Mine>)` says what is
// missing.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

namespace sx = shardexpr;

struct Alone : sx::Cpu {
  void host() = delete;
};

#ifdef MUST_FAIL
using Offload = sx::OffloadAll;
#else
using Offload = sx::OffloadNone;
#endif
using Trainer = sx::Sharded<toy::Autoencoder, sx::On<Alone>, Offload>;

int main() {
  Alone device;
  sx::launch(1, [&](sx::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
