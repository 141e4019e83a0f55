// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 1: two ranks train a small GPT of which each keeps one half.
// [program]
#include <shardexpr/shardexpr.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace sx = shardexpr;
using Trainer = sx::Sharded<sx::Gpt, sx::FullShard>;  // the model and the strategy

int main() {
  sx::nn::use_one_blas_thread();  // each rank computes on one core
  const sx::GptConfig config{.vocabulary = 32, .context = 16, .embed = 32, .layers = 2, .batch = 4};
  const Trainer::Options options{.optimizer = {.learning_rate = 5e-3f}};  // AdamW's, the default
  double first = 0, last = 0;

  sx::launch(2, [&](sx::Threads& comm) {  // this body runs twice, as rank 0 and as rank 1
    sx::Cpu device;
    Trainer trainer{device, comm, config, options};

    // Each rank has texts of its own: here each token is the one before it plus 3, or plus 5.
    const std::size_t stride = comm.rank() == 0 ? 3 : 5;
    std::vector<std::int32_t> tokens(config.tokens()), targets(config.tokens());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<std::int32_t>(i * stride % config.vocabulary);
      targets[i] = static_cast<std::int32_t>((i + 1) * stride % config.vocabulary);
    }

    for (int step = 1; step <= 60; ++step) {
      const sx::StepResult result = trainer.step({tokens.data(), targets.data()});
      if (comm.rank() != 0) continue;  // the result is the same on every rank
      if (step == 1) first = result.loss;
      last = result.loss;
      if (step == 1 || step % 20 == 0) std::printf("step %2d  loss %.3f\n", step, result.loss);
    }
  });
  return last < first / 10 ? 0 : 1;  // ln 32 = 3.47 at first
}
// [program end]
