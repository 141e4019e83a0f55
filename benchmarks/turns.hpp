// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "triad.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {

/// What two kinds of work took when they were run in turns, in seconds.
struct Turns {
  std::vector<double> subject, reference;

  /// Quantile `q` of subject over reference, pair by pair: what slows the machine for longer than
  /// a pair slows both.
  double ratio(double q = 0.5) const {
    std::vector<double> ratios(subject.size());
    std::transform(subject.begin(), subject.end(), reference.begin(), ratios.begin(),
                   [](double s, double r) { return s / r; });
    std::sort(ratios.begin(), ratios.end());
    return ratios[static_cast<std::size_t>(q * static_cast<double>(ratios.size() - 1) + 0.5)];
  }
};

/// Times `subject()` and `reference()` in turns, for as long as `state` runs; each returns the
/// seconds it took. Who begins changes from pair to pair. The benchmark's own time is the
/// subject's.
///
/// Order:   every rank must call it; rank 0 is the thread that `state` belongs to.
template <class Subject, class Reference>
Turns in_turns(benchmark::State& state, Threads& comm, const Context<Cpu>& ctx, Subject subject,
               Reference reference) {
  Turns turns;
  for (bool reference_first = false;; reference_first = !reference_first) {
    int goes_on = comm.rank() == 0 && state.KeepRunning();
    comm.broadcast(ctx, std::span{&goes_on, 1}, 0);
    if (!goes_on) return turns;
    if (reference_first) turns.reference.push_back(reference());
    turns.subject.push_back(subject());
    if (!reference_first) turns.reference.push_back(reference());
    if (comm.rank() == 0) state.SetIterationTime(turns.subject.back());
  }
}

/// Measures `Part{count}.pass()` of each thread, as many as `state` says, beside a triad.
/// `of_triad` is speed over speed, with its quartiles.
///
/// Units:   `bytes_per_element` that a pass moves; `count` elements over all threads.
template <class Part>
void against_triad(benchmark::State& state, std::size_t count, std::size_t bytes_per_element) {
  Turns turns;
  double triad_bytes = 0;
  launch(static_cast<std::size_t>(state.range(0)), [&](Threads& comm) {
    Part part{count / comm.size()};
    Triad<float> triad{comm};
    const auto one_pass = [&] {
      return seconds_together(comm, part.context(), [&] { part.pass(); });
    };
    const auto one_triad = [&] { return triad.seconds(comm); };
    one_pass();
    one_triad();
    Turns mine = in_turns(state, comm, part.context(), one_pass, one_triad);
    if (comm.rank() != 0) return;
    turns = std::move(mine);
    triad_bytes = static_cast<double>(triad.size_bytes());
  });
  const double bytes = static_cast<double>(count * bytes_per_element);
  const auto counter = [](double x) {
    return benchmark::Counter(x, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
  };
  state.counters["bytes/s"] = counter(bytes / median(turns.subject));
  state.counters["triad"] = counter(triad_bytes / median(turns.reference));
  const double a_byte = bytes / triad_bytes;  // a ratio of times, turned, a byte
  state.counters["of_triad"] = a_byte / turns.ratio();
  state.counters["of_triad_low"] = a_byte / turns.ratio(0.75);
  state.counters["of_triad_high"] = a_byte / turns.ratio(0.25);
}

}  // namespace shardexpr::benchmarks
