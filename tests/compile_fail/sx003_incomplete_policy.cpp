// SPDX-License-Identifier: Apache-2.0
// expect-error: SX003
// why: Rules, plan and engine ask a policy the questions of its axis and no others; a policy that
// why: leaves one unanswered cannot be judged. The axis concept (`ShardingPolicy`,
// why: `OptimizerPolicy`, ...) lists them.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Mine {
  using axis = shardexpr::axis::Sharding;
  static constexpr bool parameters = false, gradients = true;
#ifndef MUST_FAIL
  static constexpr bool optimizer = true;
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
