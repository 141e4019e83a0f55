// SPDX-License-Identifier: Apache-2.0
// expect-error: SX101
// why: A rank that keeps 1/W of the gradients can update 1/W of the parameters. An optimizer that
// why: every rank runs on everything would need the rest. ZeRO's stages nest for this reason.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Mine {
  using axis = shardexpr::axis::Sharding;
#ifdef MUST_FAIL
  static constexpr bool parameters = false, gradients = true, optimizer = false;
#else
  static constexpr bool parameters = false, gradients = true, optimizer = true;
#endif
};
using Trainer = shardexpr::Sharded<toy::Autoencoder, Mine>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
