// SPDX-License-Identifier: Apache-2.0
// expect-error: SX001
// why: The pack after the model is order-free, so each argument must say on which axis it stands.
// why: A type without `axis`, or with an axis that this library does not have, cannot be placed.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

#ifdef MUST_FAIL
using Third = int;
#else
using Third = shardexpr::FullShard;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, shardexpr::AdamW, Third>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
