// SPDX-License-Identifier: Apache-2.0
// expect-error: SX002
// why: An axis has one answer. Two policies on it contradict each other, or one of them would be
// why: ignored.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

#ifdef MUST_FAIL
using Second = shardexpr::NoShard;
#else
using Second = shardexpr::Sgd;
#endif
using Trainer = shardexpr::Sharded<toy::Autoencoder, shardexpr::FullShard, Second>;

// Everything that a program does with a trainer: none of it may add an error of its own.
static_assert(shardexpr::plan<Trainer>(toy::Config{}, 8).device_peak_bytes < 1'000'000);

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer::Options options;
    options.optimizer = {.learning_rate = 0.1f, .weight_decay = 0};
    options.seed = 3;
    using Comm = Trainer::Strategy::communicator;
    static_assert(sizeof(Comm*) > 0);
    Trainer trainer{device, comm, Trainer::Config{}, options};
    trainer.set_learning_rate(0.2f);
    trainer.summon([](auto&&...) {});
    const shardexpr::StepResult result = trainer.step(Trainer::Batch{});
    return result.loss + trainer.evaluate({}) + trainer.steps();
  });
}
