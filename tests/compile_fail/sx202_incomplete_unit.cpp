// SPDX-License-Identifier: Apache-2.0
// expect-error: SX202
// why: The engine, the plan and checkpoints read a unit's description and nothing else. `Params`
// why: must be an aggregate of one field type, and `describe` must return it filled with `Spec`.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/one_unit.hpp"

struct Unit : OneUnit<Unit> {
#ifdef MUST_FAIL
  static constexpr int describe(const toy::Config&) { return 0; }
#endif
};
using Trainer = shardexpr::Sharded<OneUnitModel<Unit>>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
