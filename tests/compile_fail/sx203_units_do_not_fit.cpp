// SPDX-License-Identifier: Apache-2.0
// expect-error: SX203
// why: What a unit puts out is what the next one takes: the engine binds one buffer to both
// why: names. In a `Repeat` a unit follows itself.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Model {
  using Config = toy::Config;
  using Batch = toy::Batch;
#ifdef MUST_FAIL
  using Units = sx::Units<toy::Encoder, toy::Decoder, toy::Mixer>;
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
