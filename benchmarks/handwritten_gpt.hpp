// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/optim/adamw.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "gpt_passes.hpp"

namespace shardexpr::benchmarks {

/// What one writes who trains one GPT on one core and nothing else: flat arrays, the units' own
/// forward and backward, AdamW as a loop. No engine, no plan, no communicator, no gradient norm.
class HandwrittenGpt {
 public:
  HandwrittenGpt(const GptConfig& config, std::uint64_t seed)
      : passes_{config, seed},
        m_{device_.allocate<float>(passes_.parameter_count(), Purpose::other)},
        v_{device_.allocate<float>(passes_.parameter_count(), Purpose::other)} {}

  /// Forward, backward and update; returns the loss.
  double step(const GptBatch& batch) {
    const double loss = passes_.run(batch);
    update();
    return loss;
  }

 private:
  void update() {
    const AdamW::Options o{};
    const float t = static_cast<float>(++steps_);
    const float unbias_m = 1 / (1 - std::pow(o.beta1, t));
    const float unbias_v = 1 / (1 - std::pow(o.beta2, t));
    float* __restrict w = passes_.parameters();
    const float* __restrict g = passes_.gradients();
    float* __restrict m = m_.data();
    float* __restrict v = v_.data();
    std::size_t i = 0;
    for (const auto& run : passes_.runs()) {
      const float decay = run.decays ? o.weight_decay : 0;
      for (; i < run.end; ++i) {
        m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
        v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
        const float ratio = m[i] * unbias_m / (std::sqrt(v[i] * unbias_v) + o.epsilon);
        w[i] -= o.learning_rate * (ratio + decay * w[i]);
      }
    }
  }

  GptPasses<float, float> passes_;
  Cpu device_;
  Cpu::Buffer<float> m_, v_;
  std::size_t steps_ = 0;
};

}  // namespace shardexpr::benchmarks
