// SPDX-License-Identifier: Apache-2.0
#pragma once
// One strategy trains the GPT for a few steps: how long a step takes, what of its communication
// shows, and what it held and sent, beside its plan.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../rehearsal.hpp"
#include "../trace_overlap.hpp"
#include "../trainers_in_turns.hpp"
#include "../triad.hpp"
#include "axes.hpp"
#include "main.hpp"
#include "timeline.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {

struct StrategyFigures {
  std::vector<double> step_seconds, losses;
  double compute_s = 0, communication_s = 0, exposed_s = 0, transfers_s = 0;  // of a step
  MemoryAccount device, host;
  std::size_t nvme_bytes = 0, sent_bytes = 0;
  Plan plan;
};

inline GptConfig trained_config() {
  if (is_rehearsal()) return {.context = 8, .embed = 16, .heads = 2, .layers = 3, .batch = 1};
  return sizes[strategy_options().size].config;
}

/// Trains on this rank's device, `make(trace, rank)`; every rank calls it. Times are rank 0's.
template <class S, class Comm, class Make>
StrategyFigures train_strategy(Comm& comm, Make make, Trace& trace, const std::string& name) {
  using Trainer = sharded<Gpt, S>;
  const StrategyOptions& given = strategy_options();
  const GptConfig config = trained_config();
  const std::size_t steps = given.steps;
  typename S::device device = make(trace, comm.rank());
  typename Trainer::Options options;
  options.seed = seed;
  if constexpr (requires { options.nvme.directory; }) options.nvme.directory = given.swap;
  Trainer trainer{device, comm, config, options};
  const Tokens tokens{config, comm.rank()};

  StrategyFigures out;
  out.losses.push_back(trainer.step(tokens.batch()).loss);
  const TraceMark warm{trace};
  const std::size_t sent_before = trainer.traffic().total();
  for (std::size_t s = 0; s < steps; ++s) {
    const auto began = Clock::now();
    out.losses.push_back(trainer.step(tokens.batch()).loss);
    out.step_seconds.push_back(std::chrono::duration<double>(Clock::now() - began).count());
  }
  const auto a_step = [&](std::int64_t ns) { return static_cast<double>(ns) * 1e-9 / steps; };
  const auto compute = warm.busy({"compute"}, comm.rank());
  const auto communication = warm.busy({"communication", "copies"}, comm.rank());
  const auto others = warm.busy({"up", "down", "host", "disk reads", "disk writes"}, comm.rank());
  out.compute_s = a_step(length(compute));
  out.communication_s = a_step(length(communication));
  out.exposed_s = a_step(length(communication) - common(communication, compute));
  out.transfers_s = a_step(length(others));
  out.device = device.account();
  out.host = device.host().account();
  out.nvme_bytes = trainer.nvme_bytes();
  out.sent_bytes = (trainer.traffic().total() - sent_before) / steps;
  out.plan = plan<Trainer>(config, comm.size());
  if (!given.timelines.empty()) {
    const TraceMark last{trace};
    (void)trainer.step(tokens.batch());
    // Streams of other ranks may still run, but what this rank recorded is complete.
    if (comm.rank() == 0) write_timeline(given.timelines, name, trace, last);
  }
  return out;
}

/// Whether a rank held and sent what its plan says, to the byte.
inline bool equals_plan(const StrategyFigures& seen) {
  const Plan& plan = seen.plan;
  return seen.device.resident_bytes() == plan.device_resident_bytes &&
         seen.device.peak_bytes() == plan.device_peak_bytes &&
         seen.host.resident_bytes() == plan.host_resident_bytes &&
         seen.host.peak_bytes() == plan.host_peak_bytes && seen.nvme_bytes == plan.nvme_bytes &&
         seen.sent_bytes == plan.sent_bytes;
}

/// Whether losses are within `tolerance`, a fraction, of those of the first strategy that computes
/// alike; 0: the same bits.
inline bool losses_agree(const std::string& computes_as, const std::vector<double>& losses,
                         double tolerance) {
  static std::map<std::string, std::vector<double>> curves;
  const auto [at, is_new] = curves.emplace(computes_as, losses);
  const std::size_t common_steps = std::min(at->second.size(), losses.size());
  return std::equal(losses.begin(), losses.begin() + static_cast<std::ptrdiff_t>(common_steps),
                    at->second.begin(), [&](double loss, double first) {
                      return std::abs(loss - first) <= tolerance * std::abs(first);
                    });
}

/// What decides about bits: dtypes, ranks, and the shard group of a hybrid strategy.
template <class S>
std::string computes_as(std::size_t ranks) {
  using P = typename S::precision;
  return std::string{dtype_name<typename P::compute>} + " " + std::to_string(ranks) + " " +
         std::to_string(detail::group_of<typename S::sharding>);
}

/// The benchmark of one strategy: state's arguments are the ranks and the network's MB/s, 0 for
/// none. `with_ranks(ranks, network, body)` runs `body(comm)` in each rank that this process has,
/// `with_ranks.device(trace, rank)` makes its device, and losses agree within
/// `with_ranks.loss_tolerance`.
template <class S, class WithRanks>
void measure_strategy(benchmark::State& state, const std::string& name, WithRanks with_ranks) {
  const auto ranks = static_cast<std::size_t>(state.range(0));
  const double megabytes = static_cast<double>(state.range(1));
  Network network;
  if (megabytes != 0) network.bytes_per_second = megabytes * 1e6;
  const std::string full_name =
      name + " ranks " + std::to_string(ranks) + " network " + std::to_string(state.range(1));
  StrategyFigures seen;
  while (state.KeepRunning()) {
    Trace trace;
    with_ranks(ranks, network, [&](auto& comm) {
      StrategyFigures mine = train_strategy<S>(comm, with_ranks.device, trace, full_name);
      if (comm.rank() == 0) seen = std::move(mine);
    });
    if (seen.step_seconds.empty()) seen.step_seconds.push_back(0);  // another process has rank 0
    if (trace.dropped_events() != 0) state.SkipWithError("the trace was too short");
    state.SetIterationTime(median(seen.step_seconds));
  }
  if (seen.losses.empty()) return;
  if (!equals_plan(seen)) state.SkipWithError("a rank held or sent other bytes than planned");
  if (!losses_agree(computes_as<S>(ranks), seen.losses, with_ranks.loss_tolerance))
    state.SkipWithError("the losses are not those of a strategy that computes alike");

  const GptConfig config = trained_config();
  std::vector<double> sorted = seen.step_seconds;
  std::sort(sorted.begin(), sorted.end());
  const double step = median(sorted);
  const auto count = [&](const char* key, std::size_t value) {
    state.counters[key] = static_cast<double>(value);
  };
  state.counters["tokens/s"] = static_cast<double>(config.tokens() * ranks) / step;
  state.counters["step_ms"] = step * 1e3;
  state.counters["step_ms_low"] = sorted.front() * 1e3;
  state.counters["step_ms_high"] = sorted.back() * 1e3;
  state.counters["compute_ms"] = seen.compute_s * 1e3;
  state.counters["communication_ms"] = seen.communication_s * 1e3;
  state.counters["exposed_ms"] = seen.exposed_s * 1e3;
  state.counters["transfers_ms"] = seen.transfers_s * 1e3;
  state.counters["sending_ms"] =
      std::chrono::duration<double, std::milli>(network.time_of(seen.plan.sent_bytes)).count();
  count("sent_bytes", seen.sent_bytes);
  count("device_peak_bytes", seen.device.peak_bytes());
  count("host_peak_bytes", seen.host.peak_bytes());
  count("nvme_bytes", seen.nvme_bytes);
  count("planned_sent_bytes", seen.plan.sent_bytes);
  count("planned_device_resident_bytes", seen.plan.device_resident_bytes);
  count("planned_device_peak_bytes", seen.plan.device_peak_bytes);
  count("planned_host_resident_bytes", seen.plan.host_resident_bytes);
  count("planned_host_peak_bytes", seen.plan.host_peak_bytes);
  count("planned_nvme_bytes", seen.plan.nvme_bytes);
  state.counters["loss_first"] = seen.losses.front();
  state.counters["loss_last"] = seen.losses.back();
  state.SetLabel(trainer_name<sharded<Gpt, S>>());
}

}  // namespace shardexpr::benchmarks
