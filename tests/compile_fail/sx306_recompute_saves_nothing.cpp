// SPDX-License-Identifier: Apache-2.0
// expect-error: SX306
// why: What is rebuilt is what a unit saves beside its output; the output is kept in any case. For
// why: a unit without `Saved` the policy would have no effect.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

#ifdef MUST_FAIL
using Rebuilt = shardexpr::Recompute<toy::Encoder>;
#else
using Rebuilt = shardexpr::Recompute<toy::Mixer>;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, Rebuilt>;

// Everything that a program does with a trainer: none of it may add an error of its own.
static_assert(shardexpr::plan<Trainer>(toy::Config{}, 8).device_peak_bytes < 1'000'000);

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    trainer.summon([](auto&&...) {});
    const auto weights = trainer.gather<toy::Mixer>(1);
    trainer.open_gradients<toy::Mixer>(1)->bias[0] += weights->bias[0];
    return trainer.step(Trainer::Batch{}).loss;
  });
}
