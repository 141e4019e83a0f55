// SPDX-License-Identifier: Apache-2.0
// expect-error: SX303
// why: Units are ordinary templates over device and dtype. One that cannot be called for the
// why: device and dtype of this strategy cannot be trained by it.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/one_unit.hpp"

struct Unit : OneUnit<Unit> {
#ifdef MUST_FAIL
  static void backward() {}
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
