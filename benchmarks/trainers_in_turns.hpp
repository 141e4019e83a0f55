// SPDX-License-Identifier: Apache-2.0
#pragma once
// Two live trainers of one GPT that take turns of a few steps.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/shardexpr.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "triad.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {

struct Size {
  GptConfig config;
  int steps;  // in one turn
};
inline constexpr std::array sizes{
    Size{{.context = 128, .embed = 128, .heads = 4, .layers = 4, .batch = 4}, 5},
    Size{{.context = 128, .embed = 384, .heads = 6, .layers = 6, .batch = 4}, 1}};

/// Tokens without structure; a trainer learns them by heart.
class Tokens {
 public:
  Tokens(const GptConfig& config, std::size_t rank)
      : tokens_(config.tokens()), targets_(config.tokens()) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const std::uint64_t bits = mix(mix(rank) + i) >> 32;
      tokens_[i] = static_cast<std::int32_t>((bits & 0xffff) % config.vocabulary);
      targets_[i] = static_cast<std::int32_t>((bits >> 16) % config.vocabulary);
    }
  }
  GptBatch batch() const { return {tokens_.data(), targets_.data()}; }

 private:
  std::vector<std::int32_t> tokens_, targets_;
};

inline constexpr std::uint64_t seed = 1;

/// A trainer of the library with what it needs.
template <class Comm, class... Policies>
class Engine {
 public:
  using Trainer = Sharded<Gpt, Policies..., Over<Comm>>;
  Engine(Comm& comm, const GptConfig& config, typename Trainer::Options options = {})
      : trainer_{device_, comm, config, (options.seed = seed, options)} {}
  double step(const GptBatch& batch) { return trainer_.step(batch).loss; }

 private:
  Cpu device_;
  Trainer trainer_;
};

/// What this thread has computed so far: preemption does not count, waiting in a spin does.
inline double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Runs `subject` and `reference` in turns on the same batch. Their last losses may differ by
/// `last` of the first one, the first ones by a thousandth of that: else they do not do the same
/// work. A `last` of 0 asks for the same bits in every step.
template <class Subject, class Reference>
void compare(benchmark::State& state, Threads& comm, const Size& size, Subject& subject,
             Reference& reference, double last) {
  Cpu device;
  Cpu::Stream stream;
  const Context<Cpu> ctx{device, stream};
  const Tokens tokens{size.config, comm.rank()};
  std::vector<double> losses, reference_losses;
  Turns cpu;
  const auto turn = [&](auto& trainer, std::vector<double>& seen, std::vector<double>& computed) {
    return [&] {
      return seconds_together(comm, ctx, [&] {
        const double before = cpu_seconds();
        for (int i = 0; i < size.steps; ++i) seen.push_back(trainer.step(tokens.batch()));
        computed.push_back(cpu_seconds() - before);
      });
    };
  };
  const auto a = turn(subject, losses, cpu.subject);
  const auto b = turn(reference, reference_losses, cpu.reference);
  a();  // the first touch of caches and pages counts for neither
  b();
  cpu = {};
  const Turns turns = in_turns(state, comm, ctx, a, b);
  if (comm.rank() != 0) return;

  const auto difference = [&](std::size_t step) {
    return std::abs(losses[step] - reference_losses[step]) / reference_losses[0];
  };
  const std::size_t final_step = losses.size() - 1;
  if (!(difference(0) <= last / 1000) || !(difference(final_step) <= last) ||
      (last == 0 && losses != reference_losses))
    state.SkipWithError("the two do not train alike");
  const double to_ms = 1e3 / size.steps;
  state.counters["ratio"] = turns.ratio();
  state.counters["ratio_low"] = turns.ratio(0.25);
  state.counters["ratio_high"] = turns.ratio(0.75);
  if (comm.size() == 1) state.counters["cpu_ratio"] = cpu.ratio();
  state.counters["step_ms"] = median(turns.subject) * to_ms;
  state.counters["reference_ms"] = median(turns.reference) * to_ms;
  state.counters["loss_first"] = losses[0];
  state.counters["loss_last"] = losses[final_step];
  state.counters["apart"] = difference(final_step);
  state.SetLabel(std::to_string(Layout<Gpt>{size.config, 1}.parameter_count()) + " parameters");
}

inline const Size& size_of(const benchmark::State& state) {
  return sizes[static_cast<std::size_t>(state.range(0))];
}

}  // namespace shardexpr::benchmarks

#define SHARDEXPR_ENGINE(name) \
  BENCHMARK(name)->ArgName("size")->Arg(0)->Arg(1)->UseManualTime()->Unit(benchmark::kMillisecond)
