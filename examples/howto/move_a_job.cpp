// SPDX-License-Identifier: Apache-2.0
// docs/howto/move_a_job.md: the strategy is made of a DeepSpeed file when this program is built.
// [program]
#include <cstdio>
#include <type_traits>
#include <vector>

#include "../tutorial/perceptron.hpp"
#include "Zero3.hpp"  // made of zero3.json

using Trainer = Zero3::Trainer<perceptron::Model>;
static_assert(std::is_same_v<
              Trainer, sx::Sharded<perceptron::Model, sx::FullShard, sx::ClipNorm,
                                   sx::PersistBelow<100>, sx::Offload<sx::OnDevice, sx::OnHost>,
                                   sx::MixedPrecision<sx::bf16, sx::bf16>>>);

int main() {
  Trainer::Options options;
  Zero3::set(options);  // rates, clipping, micro-batches, schedule: what the file says of run time
  const perceptron::Config config;
  double first = 0, last = 0;
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    std::vector<perceptron::Points> points;
    std::vector<perceptron::Batch> batches;
    for (std::size_t m = 0; m < options.micro_batches; ++m)
      points.emplace_back(config, comm.rank() * options.micro_batches + m);
    for (const perceptron::Points& each : points) batches.push_back(each.batch());
    for (int step = 1; step <= 100; ++step) {
      const double loss = trainer.step(batches).loss;
      if (comm.rank() != 0) continue;
      if (step == 1) first = loss;
      last = loss;
    }
  });
  std::printf("%zu micro-batches, loss %.4f, then %.4f\n", options.micro_batches, first, last);
  return options.micro_batches == 2 && last < first / 5 ? 0 : 1;
}
// [program end]
