// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 5: is the backward of a model the derivative of its forward?
// [program]
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "perceptron.hpp"

// With plain gradient descent and a rate of 1, what a step takes off a parameter is its gradient.
using Trainer = sx::Sharded<perceptron::Model, sx::NoShard, sx::Sgd, sx::Over<sx::Solo>>;

/// All parameters, one after the other.
std::vector<float> parameters(Trainer& trainer) {
  std::vector<float> all;
  trainer.summon([&](const std::string&, auto value) {
    all.insert(all.end(), value.data, value.data + value.count());
  });
  return all;
}
void set_parameters(Trainer& trainer, const std::vector<float>& all) {
  std::size_t at = 0;
  trainer.summon(sx::WriteFrom{0}, [&](const std::string&, auto value) {
    for (std::size_t i = 0; i < value.count(); ++i) value[i] = all[at++];
  });
}

int main() {
  const perceptron::Config config{.width = 5, .rows = 8};
  const perceptron::Points points{config, 1};
  sx::Cpu device;
  sx::Solo comm;
  Trainer trainer{device, comm, config, {.optimizer = {.learning_rate = 1}}};

  const std::vector<float> at = parameters(trainer);
  const sx::StepResult result = trainer.step(points.batch());
  const std::vector<float> after = parameters(trainer);

  const float h = 1.0f / 128;
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < at.size(); ++i) {
    std::vector<float> moved = at;
    moved[i] = at[i] + h;
    set_parameters(trainer, moved);
    const double above = trainer.evaluate(points.batch());
    moved[i] = at[i] - h;
    set_parameters(trainer, moved);
    const double below = trainer.evaluate(points.batch());

    const double slope = (above - below) / (2 * static_cast<double>(h));
    const double gradient = static_cast<double>(at[i]) - static_cast<double>(after[i]);
    worst = std::max(worst, std::abs(gradient - slope));
    largest = std::max(largest, std::abs(gradient));
  }
  std::printf("loss %.4f, norm of the gradient %.4f\n", result.loss, result.gradient_norm);
  std::printf("%zu gradients, the largest %.4f; off by at most %.6f\n", at.size(), largest, worst);
  return largest > 0.05 && worst < 1e-3 * largest ? 0 : 1;
}
// [program end]
