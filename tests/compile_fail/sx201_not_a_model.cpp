// SPDX-License-Identifier: Apache-2.0
// expect-error: SX201
// why: A model is three types: `Config` (its sizes), `Batch` (what a rank computes on) and
// why: `Units` (its units in forward order).
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>

#include "../support/toy.hpp"

struct Model {
  using Config = toy::Config;
#ifndef MUST_FAIL
  using Batch = toy::Batch;
#endif
  using Units = toy::Autoencoder::Units;
};
using Trainer = shardexpr::Sharded<Model>;

int main() {
  shardexpr::Cpu device;
  shardexpr::launch(1, [&](shardexpr::Threads& comm) {
    Trainer trainer{device, comm, {}};
    return trainer.step(Trainer::Batch{}).loss;
  });
}
