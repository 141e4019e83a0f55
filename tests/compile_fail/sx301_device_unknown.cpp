// SPDX-License-Identifier: Apache-2.0
// expect-error: SX301
// why: Naming a device in `On<...>` needs no header, making a trainer of it does. The same line
// why: appears for a device of your own that lacks an operation:
// why: `static_assert(shardexpr::Device<Mine>)` says which.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct NoDevice {};

#ifdef MUST_FAIL
using Device = shardexpr::On<NoDevice>;
#else
using Device = shardexpr::On<shardexpr::Cpu>;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, Device>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
