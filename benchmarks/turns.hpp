// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
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

}  // namespace shardexpr::benchmarks
