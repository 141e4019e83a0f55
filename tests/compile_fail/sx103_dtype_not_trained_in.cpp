// SPDX-License-Identifier: Apache-2.0
// expect-error: SX103
// why: Storage, compute, reduction and optimizer are questions of the precision axis, and the
// why: engine serves one answer today. Another one is refused rather than trained in fp32 in
// why: silence.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Mine {
  using axis = shardexpr::axis::Precision;
  using storage = float;
  using compute = float;
  using reduce = float;
#ifdef MUST_FAIL
  using optimizer = double;
#else
  using optimizer = float;
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
