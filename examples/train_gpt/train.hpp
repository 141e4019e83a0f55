// SPDX-License-Identifier: Apache-2.0
#pragma once
// One training run of one strategy, whatever it is.
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "options.hpp"
#include "report.hpp"
#include "text.hpp"

namespace sx = shardexpr;

inline sx::GptConfig config_of(const Options& o) {
  return {.vocabulary = Text::vocabulary,
          .context = o.context,
          .embed = o.embed,
          .heads = o.heads,
          .layers = o.layers,
          .batch = o.batch};
}

struct Result {
  double loss = 0;
  Measured measured;
};

/// Runs `body(comm)` in each rank of the strategy's communicator.
template <class Comm, class Body>
void run_ranks(std::size_t ranks, Body body) {
  if constexpr (std::is_same_v<Comm, sx::Solo>) {
    Comm comm;
    body(comm);
  } else {
    sx::launch(ranks, body);
  }
}

/// The device that a trainer takes; one that a rule refuses takes any.
template <class Trainer>
using DeviceOf = std::conditional_t<sx::Device<typename Trainer::Strategy::device>,
                                    typename Trainer::Strategy::device, sx::Cpu>;

/// The device of one rank. A device that wraps another is made of `before`, too.
template <class D, class... Before>
D make_device(const Options&, Before&&... before) {
  return D(std::forward<Before>(before)...);
}

/// Trains over `o.ranks` ranks, each on its `make(rank)`; rank 0 writes the log and the progress.
template <class Trainer, class Make>
Result train_on(const Options& o, const Text& text, Log& log, Make make) {
  using Clock = std::chrono::steady_clock;
  const sx::GptConfig config = config_of(o);
  Result out;
  run_ranks<typename Trainer::Strategy::communicator>(o.ranks, [&](auto& comm) {
    DeviceOf<Trainer> device = make(comm.rank());
    typename Trainer::Options options;
    options.optimizer.learning_rate = o.lr;
    options.seed = o.seed;
    Trainer trainer{device, comm, config, options};
    std::vector<std::int32_t> tokens(config.tokens()), targets(config.tokens());
    const bool speaks = comm.rank() == 0;
    Progress progress{o.steps, o.quiet || !speaks};
    for (std::size_t step = 1; step <= o.steps; ++step) {
      const auto began = Clock::now();
      const std::size_t sent_before = comm.traffic().total();
      text.sample(o.seed, step, comm.rank(), o.batch, o.context, tokens, targets);
      const sx::StepResult result = trainer.step({tokens.data(), targets.data()});
      if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm))
        throw sx::Error("loss or gradient is not finite at step " + std::to_string(step) +
                        "; lower --lr");
      if (!speaks) continue;
      const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
      const double tokens_per_s =
          static_cast<double>(config.tokens() * comm.size()) / std::max(seconds, 1e-9);
      const std::size_t sent = comm.traffic().total() - sent_before;
      log.step(step, result, tokens_per_s, sent);
      progress.step(step, result.loss, tokens_per_s);
      out = {result.loss, {resident_bytes(device.account()), device.account().peak_bytes(), sent}};
    }
  });
  log.end(out.loss, out.measured);
  return out;
}
