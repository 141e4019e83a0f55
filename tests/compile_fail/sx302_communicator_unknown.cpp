// SPDX-License-Identifier: Apache-2.0
// expect-error: SX302
// why: Naming a communicator in `Over<...>` needs no header, making a trainer of it does. For one
// why: of your own, the concepts `CanAllGather`, `CanReduceScatter`, ... say which collective is
// why: missing.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

class Elsewhere;  // its header was not included

#ifdef MUST_FAIL
using Comm = shardexpr::Over<Elsewhere>;
#else
using Comm = shardexpr::Over<shardexpr::Threads>;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, Comm>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
