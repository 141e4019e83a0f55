// SPDX-License-Identifier: Apache-2.0
// What docs/howto/own-model.md says to do with a model, done with the tutorial's.
#include <shardexpr/device/checked.hpp>

#include <cstddef>
#include <cstdint>

#include "../../examples/tutorial/perceptron.hpp"
#include <doctest/doctest.h>

TEST_CASE("the units of the perceptron name what they read and write") {
  // [checked]
  using Trainer = sx::Sharded<perceptron::Model, sx::FullShard, sx::On<sx::Checked<sx::Cpu>>>;
  // [checked end]
  for (const bool freezes_layers : {false, true}) {
    const perceptron::Config config{.freezes_layers = freezes_layers};
    double loss = 0;
    sx::launch(2, [&](sx::Threads& comm) {
      sx::Checked<sx::Cpu> device{sx::Execution::asynchronous};
      Trainer trainer{device, comm, config};
      const perceptron::Points points{config, comm.rank()};
      double mine = 0;
      for (int step = 1; step <= 2; ++step) mine = trainer.step(points.batch()).loss;
      if (comm.rank() == 0) loss = mine;
    });
    CHECK(loss > 0);
  }
}
