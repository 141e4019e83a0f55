// SPDX-License-Identifier: Apache-2.0
// expect-error: SX002
// why: An axis has one answer. Two policies on it contradict each other, or one of them would be
// why: ignored.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

#ifdef MUST_FAIL
using Second = shardexpr::NoShard;
#else
using Second = shardexpr::Sgd;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, shardexpr::FullShard, Second>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step({}).loss;
  });
}
