// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 4: state on the host, arithmetic in 16 bits.
// [program]
#include <cmath>
#include <cstddef>
#include <cstdio>

#include "perceptron.hpp"

using perceptron::Model;

struct Measured {
  double loss;
  std::size_t resident, host;  // bytes of rank 0
};

template <class Trainer>
Measured train() {
  const perceptron::Config config{.width = 64};
  const typename Trainer::Options options{.optimizer = {.learning_rate = 3e-3f}};
  Measured measured{};
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    const perceptron::Points points{config, comm.rank()};
    double loss = 0;
    for (int step = 1; step <= 150; ++step) loss = trainer.step(points.batch()).loss;
    if (comm.rank() != 0) return;
    const sx::MemoryAccount& on_device = device.account();  // what was allocated, by purpose
    measured = {loss,
                on_device.live_bytes(sx::Purpose::parameters) +
                    on_device.live_bytes(sx::Purpose::gradients) +
                    on_device.live_bytes(sx::Purpose::optimizer),
                device.host().account().peak_bytes()};
  });
  const sx::Plan plan = sx::plan<Trainer>(config, 2);
  const bool as_planned =
      measured.resident == plan.device_resident_bytes && measured.host == plan.host_peak_bytes;
  std::printf("loss %.4f  device, resident %6zu  host %6zu  sent a step %6zu%s\n", measured.loss,
              measured.resident, measured.host, plan.sent_bytes,
              as_planned ? "" : "  NOT AS PLANNED");
  return as_planned ? measured : Measured{NAN, 0, 0};
}

int main() {
  const Measured plain = train<sx::Sharded<Model, sx::FullShard>>();
  const Measured both = train<
      sx::Sharded<Model, sx::FullShard, sx::OffloadAll, sx::MixedPrecision<sx::bf16, sx::fp32>>>();
  // bf16 has 8 bits of mantissa: other numbers, the same training.
  const bool learns = plain.loss < 0.05 && both.loss < 0.05 && plain.loss != both.loss;
  return learns && both.resident == 0 && plain.host == 0 ? 0 : 1;
}
// [program end]
