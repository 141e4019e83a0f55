// SPDX-License-Identifier: Apache-2.0
// expect-error: SX204
// why: The first unit reads the batch alone; the last one puts out the loss, one scalar, from
// why: which backward starts.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Model {
  using Config = toy::Config;
  using Batch = toy::Batch;
#ifdef MUST_FAIL
  using Units = sx::Units<toy::Encoder, toy::Mixer>;
#else
  using Units = sx::Units<toy::Encoder, toy::Mixer, toy::Decoder>;
#endif
};
using Trainer = shardexpr::Sharded<Model>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
