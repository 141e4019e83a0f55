// SPDX-License-Identifier: Apache-2.0
// expect-error: SX102
// why: A rank that keeps 1/W of the parameters has no use for the other gradients, and a full
// why: buffer of them would cost more than the parameters saved.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Mine {
  using axis = shardexpr::axis::Sharding;
#ifdef MUST_FAIL
  static constexpr bool parameters = true, gradients = false, optimizer = true;
#else
  static constexpr bool parameters = true, gradients = true, optimizer = true;
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
