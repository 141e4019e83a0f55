// SPDX-License-Identifier: Apache-2.0
// expect-error: SX103
// why: What is trained in is fp32 and the two 16-bit dtypes beside it. A dtype that the engine does
// why: not serve is refused rather than trained in another one in silence.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Mine {
  using axis = shardexpr::axis::Precision;
  using storage = float;
  using compute = float;
  using reduce = float;
  using gradient = float;
  using buffers = float;
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
