// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 6: micro-batches, clipping, a schedule of the rate, a loss scale.
// [program]
#include <cstddef>
#include <cstdio>
#include <vector>

#include "perceptron.hpp"

using Trainer =
    sx::Sharded<perceptron::Model, sx::FullShard, sx::MixedPrecision<sx::fp16, sx::fp16>,
                sx::DynamicLossScale, sx::ClipNorm, sx::ReduceAtEnd>;

int main() {
  const perceptron::Config config;
  constexpr std::size_t micro_batches = 4, warmup = 10, steps = 120;
  const Trainer::Options options{
      .optimizer = {.learning_rate = 2e-2f, .weight_decay = 0.01f},
      .clipping = {.max_norm = 0.5f},
      .loss_scale = {.initial_scale = 16777216, .growth_interval = 50},  // far too large
      .micro_batches = micro_batches,
      .schedule = sx::LearningRateSchedule::warmup_cosine(warmup, steps, 0.1)};
  std::size_t skipped = 0;
  double first = 0, last = 0, largest_rate = 0;

  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};
    std::vector<perceptron::Points> points;
    std::vector<perceptron::Batch> batches;
    for (std::size_t m = 0; m < micro_batches; ++m) {
      points.emplace_back(config, comm.rank() * micro_batches + m);
      batches.push_back(points[m].batch());
    }
    while (trainer.steps() < steps) {  // a step that was skipped does not count
      const double rate = static_cast<double>(trainer.learning_rate());
      const sx::StepResult result = trainer.step(batches);
      if (comm.rank() != 0) continue;
      if (result.is_skipped) {
        ++skipped;
        std::printf("skipped: gradients overflow at a loss scale of %.0f\n", result.loss_scale);
        continue;
      }
      const std::size_t step = trainer.steps();
      if (step == 1) first = result.loss;
      last = result.loss;
      if (rate > largest_rate) largest_rate = rate;
      if (step == 1 || step % 40 == 0)
        std::printf("step %3zu  loss %.4f  norm %.3f  rate %.4f  loss scale %.0f\n", step,
                    result.loss, result.gradient_norm, rate, result.loss_scale);
    }
  });
  std::printf("%zu steps were skipped\n", skipped);
  const bool has_warmed_up = largest_rate > 0.0199 && largest_rate < 0.0201;
  return skipped > 0 && has_warmed_up && last < first / 10 ? 0 : 1;
}
// [program end]
