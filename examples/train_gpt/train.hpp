// SPDX-License-Identifier: Apache-2.0
#pragma once
// One training run of one strategy, whatever it is.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "report.hpp"
#include "text.hpp"
#include <unistd.h>

inline sx::GptConfig config_of(const Options& o) {
  return {.vocabulary = o.vocabulary,
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

/// The device that a trainer takes; one that a rule refuses takes any.
template <class Trainer>
using DeviceOf = std::conditional_t<sx::Device<typename Trainer::Strategy::device>,
                                    typename Trainer::Strategy::device, machine::Device>;

inline sx::LearningRateSchedule schedule_of(const Options& o) {
  const double least = o.lr_least.value_or(0);
  if (o.lr_schedule == "cosine")
    return sx::LearningRateSchedule::warmup_cosine(o.warmup, o.steps, least);
  if (o.lr_schedule == "linear")
    return sx::LearningRateSchedule::warmup_linear(o.warmup, o.steps, least);
  return sx::LearningRateSchedule::warmup(o.warmup);
}

/// Errors:  BadInput for a folder that a rank could not make its file in.
inline void check_nvme(const std::string& folder) {
  if (folder.empty())
    throw BadInput("no --nvme; name a folder on the disk where a strategy keeps state");
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error))
    throw BadInput("--nvme " + folder + " is not a folder; make it first");
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    throw BadInput("--nvme " + folder + " cannot be written to: " + std::strerror(errno) +
                   "; name another folder");
}

/// What the command line says of the values that the strategy's policies take.
/// Errors:  BadInput for a value that no policy of the strategy takes; ConfigError for one out of
///          its range.
template <class Trainer>
typename Trainer::Options trainer_options(const Options& o) {
  typename Trainer::Options options;
  options.optimizer.learning_rate = o.lr;
  options.schedule = schedule_of(o);
  options.seed = o.seed;
  options.micro_batches = o.accumulate;
  if constexpr (requires { options.optimizer.weight_decay; })
    options.optimizer.weight_decay = o.weight_decay.value_or(options.optimizer.weight_decay);
  else if (o.weight_decay)
    throw BadInput("--weight-decay: the strategy's optimizer has none; leave it out");
  const float limit = o.clip.value_or(std::numeric_limits<float>::infinity());
  if constexpr (requires { options.clipping.max_norm; })
    options.clipping.max_norm = limit;
  else if constexpr (requires { options.clipping.max_value; })
    options.clipping.max_value = limit;
  else if (o.clip)
    throw BadInput("--clip: the strategy does not clip; give it ClipNorm or ClipValue");
  if constexpr (requires { options.loss_scale.scale; })
    options.loss_scale.scale = o.loss_scale.value_or(options.loss_scale.scale);
  else if constexpr (requires { options.loss_scale.initial_scale; })
    options.loss_scale.initial_scale = o.loss_scale.value_or(options.loss_scale.initial_scale);
  else if (o.loss_scale)
    throw BadInput(
        "--loss-scale: the strategy has none; give it StaticLossScale or DynamicLossScale");
  if constexpr (requires { options.nvme.directory; }) {
    check_nvme(o.nvme);
    options.nvme.directory = o.nvme;
  } else if (!o.nvme.empty() && !o.compare) {
    throw BadInput("--nvme: the strategy keeps nothing on a disk; leave it out");
  }
  Trainer::check(options);
  return options;
}

// Apart from `train_on`, as what does not depend on the trainer is compiled once.

/// One rank's micro-batches of a step.
class StepBatches {
 public:
  StepBatches(const Options& o, std::size_t tokens)
      : tokens_(o.accumulate), targets_(o.accumulate) {
    for (std::size_t m = 0; m < o.accumulate; ++m) {
      tokens_[m].resize(tokens);
      targets_[m].resize(tokens);
      batches_.push_back({tokens_[m].data(), targets_[m].data()});
    }
  }
  std::span<const sx::GptBatch> all() const { return batches_; }
  void sample(const Text& text, const Options& o, std::size_t rank, Position& position) {
    for (std::size_t m = 0; m < batches_.size(); ++m)
      text.sample(position.seed, ++position.batches, rank, o.batch, o.context, tokens_[m],
                  targets_[m]);
  }

 private:
  std::vector<std::vector<std::int32_t>> tokens_, targets_;
  std::vector<sx::GptBatch> batches_;  // views of these
};

/// Errors:  Error if the loss is not finite and no loss scale took care of that.
inline void check_loss(const sx::StepResult& result, std::size_t step) {
  if (!std::isfinite(result.loss) && !result.is_skipped)
    throw sx::Error("the loss is not finite at step " + std::to_string(step) + "; lower --lr");
}
[[noreturn]] inline void advise(const sx::NotFiniteError& error) {
  throw sx::NotFiniteError(std::string{error.what()} + "; or lower --lr");
}

/// A step; what diverges says what to do about it here.
template <class Trainer>
sx::StepResult take_step(Trainer& trainer, std::span<const sx::GptBatch> batches) {
  try {
    return trainer.step(batches);
  } catch (const sx::NotFiniteError& error) {
    advise(error);
  }
}

/// A run that begins by itself and keeps nothing.
struct KeepsNothing {
  static void begin(auto&, const Options&) {}
  static void after_step(auto&, const Options&, const Position&) {}
};

/// Trains over `o.ranks` ranks, each on its `make(rank)`; rank 0 writes the log and the progress.
/// `Keeping`: what a run begins with and leaves.
template <class Trainer, class Keeping, class Make>
Result train_on(const Options& o, const Text& text, Log& log, Make make) {
  using Clock = std::chrono::steady_clock;
  const sx::GptConfig config = config_of(o);
  Result out;
  machine::run_ranks<typename Trainer::Strategy::communicator>(o, [&](auto& comm) {
    DeviceOf<Trainer> device = make(comm.rank());
    Trainer trainer{device, comm, config, trainer_options<Trainer>(o)};
    StepBatches batches{o, config.tokens()};
    const bool speaks = comm.rank() == 0;
    Progress progress{o.position.step, o.steps, o.quiet || !speaks, machine::Job::has_terminal};
    Keeping::begin(trainer, o);
    Position position = o.position;
    while (position.step < o.steps) {
      const std::size_t step = ++position.step;
      const auto began = Clock::now();
      const std::size_t sent_before = trainer.traffic().total();
      batches.sample(text, o, comm.rank(), position);
      const float rate = trainer.learning_rate();
      const sx::StepResult result = take_step(trainer, batches.all());
      check_loss(result, step);
      const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
      const std::size_t sent = trainer.traffic().total() - sent_before;
      Keeping::after_step(trainer, o, position);
      if (!speaks) continue;
      const double tokens_per_s =
          static_cast<double>(config.tokens() * comm.size() * o.accumulate) /
          std::max(seconds, 1e-9);
      log.step(step, result, rate, tokens_per_s, sent);
      progress.step(step, result.loss, tokens_per_s);
      out.loss = result.loss;
      out.measured = {.resident_bytes = device.account().resident_bytes(),
                      .peak_bytes = device.account().peak_bytes(),
                      .nvme_bytes = trainer.nvme_bytes(),
                      .sent_bytes_per_step = sent};
      if constexpr (sx::HasHost<DeviceOf<Trainer>>) {
        out.measured.host_resident_bytes = device.host().account().resident_bytes();
        out.measured.host_peak_bytes = device.host().account().peak_bytes();
      }
    }
  });
  log.end(out.loss, out.measured);
  return out;
}
