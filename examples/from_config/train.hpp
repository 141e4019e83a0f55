// SPDX-License-Identifier: Apache-2.0
#pragma once
// Trains the GPT as a file says. `Strategy` is what shardexpr_strategy makes of it: all below is
// known to the compiler but for the sizes.
#include <shardexpr/shardexpr.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "job.hpp"

template <class Strategy>
Ended train_as(const Job& job, const Text& text) {
  namespace sx = shardexpr;
  using Trainer = typename Strategy::template Trainer<sx::Gpt>;
  const std::size_t ranks = job.ranks.value_or(Strategy::ranks != 0 ? Strategy::ranks : 2);
  if (ranks > 1024)
    throw BadInput(std::to_string(ranks) +
                   " ranks are more threads than a machine serves; give "
                   "--ranks, at most 1024");
  const std::size_t batch =
      job.batch.value_or(Strategy::micro_batch_size != 0 ? Strategy::micro_batch_size : 2);
  const sx::GptConfig config{.vocabulary = Text::least_vocabulary,
                             .context = job.context,
                             .embed = job.embed,
                             .heads = job.heads,
                             .layers = job.layers,
                             .batch = batch};

  typename Trainer::Options options;
  Strategy::set(options);
  if (job.lr) options.optimizer.learning_rate = *job.lr;
  if constexpr (requires { options.nvme.directory; }) {
    options.nvme.directory = job.nvme.empty() ? Strategy::nvme_directory : job.nvme;
    if (options.nvme.directory.empty())
      throw BadInput("no --nvme, and the file names no folder for state on a disk");
  } else if (!job.nvme.empty()) {
    throw BadInput("--nvme: the strategy keeps nothing on a disk; leave it out");
  }
  Trainer::check(options);
  (void)sx::plan<Trainer>(config, ranks, options.micro_batches);  // refuses what cannot be laid out

  Ended ended{.ranks = ranks};
  sx::launch(ranks, [&](sx::Threads& comm) {
    sx::Cpu device{Strategy::overlaps ? sx::Execution::asynchronous : sx::Execution::immediate};
    Trainer trainer{device, comm, config, options};
    std::vector<std::vector<std::int32_t>> tokens(options.micro_batches), targets = tokens;
    std::vector<sx::GptBatch> batches;
    for (std::size_t m = 0; m < options.micro_batches; ++m) {
      tokens[m].resize(config.tokens());
      targets[m].resize(config.tokens());
      batches.push_back({tokens[m].data(), targets[m].data()});
    }
    std::size_t shown = 0;
    for (std::size_t step = 1; step <= job.steps; ++step) {
      for (std::size_t m = 0; m < options.micro_batches; ++m)
        text.sample(options.seed, (step - 1) * options.micro_batches + m + 1, comm.rank(), batch,
                    config.context, tokens[m], targets[m]);
      const sx::StepResult result = trainer.step(std::span<const sx::GptBatch>{batches});
      if (!std::isfinite(result.loss) && !result.is_skipped)
        throw sx::Error("the loss is not finite at step " + std::to_string(step) + "; lower --lr");
      if (comm.rank() != 0) continue;
      ended.skipped += result.is_skipped;
      if (step == 1) ended.first_loss = result.loss;
      ended.loss = result.loss;
      if (!job.is_quiet && step * 10 / job.steps != shown) {
        shown = step * 10 / job.steps;
        std::printf("step %zu/%zu  loss %.4f\n", step, job.steps, result.loss);
        std::fflush(stdout);
      }
    }
  });
  return ended;
}
