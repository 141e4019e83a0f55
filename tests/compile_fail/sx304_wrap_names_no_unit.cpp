// SPDX-License-Identifier: Apache-2.0
// expect-error: SX304
// why: What a wrap policy does not name belongs to the root, which stays gathered for most of a
// why: step. With a name that the model does not hold, the unit that was meant would be in it, too.
// why: FSDP compares class names when it wraps, in a job that has started.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Lost {};  // a unit that the model does not hold

#ifdef MUST_FAIL
using Wrap = shardexpr::WrapEach<Lost>;
#else
using Wrap = shardexpr::WrapEach<toy::Mixer>;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, Wrap>;

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
