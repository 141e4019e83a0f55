// SPDX-License-Identifier: Apache-2.0
#pragma once
// Processes that mpirun starts: each runs the same benchmarks as often as the others, so that all
// make the same calls. What is timed is what the slowest took.
#include <shardexpr/comm/mpi.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "triad.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>
#include <mpi.h>

namespace shardexpr::benchmarks {

inline std::size_t world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return static_cast<std::size_t>(rank);
}
inline std::size_t world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return static_cast<std::size_t>(size);
}

/// Runs `work()` in every process; the time from the last one's arrival to the last one's end, the
/// same in all. They are of one machine: their clocks are one.
template <class Work>
double seconds_of_all(Work work) {
  const auto now = [] {
    return static_cast<std::int64_t>(Clock::now().time_since_epoch().count());
  };
  std::array<std::int64_t, 2> mine{now()}, last{};
  MPI_Barrier(MPI_COMM_WORLD);
  work();
  mine[1] = now();
  MPI_Allreduce(mine.data(), last.data(), 2, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
  return std::chrono::duration<double>(Clock::duration{last[1] - last[0]}).count();
}

/// Times `subject()` and `reference()` in turns, as often as `state` iterates, after one turn that
/// does not count: the first touch of caches and pages. Who begins changes from turn to turn.
///
/// Order:   every process must call it; `state` iterates a fixed number of times.
template <class Subject, class Reference>
Turns turns_of_all(benchmark::State& state, Subject subject, Reference reference) {
  Turns turns;
  seconds_of_all(subject);
  seconds_of_all(reference);
  for (bool reference_first = false; state.KeepRunning(); reference_first = !reference_first) {
    if (reference_first) turns.reference.push_back(seconds_of_all(reference));
    turns.subject.push_back(seconds_of_all(subject));
    if (!reference_first) turns.reference.push_back(seconds_of_all(reference));
    state.SetIterationTime(turns.subject.back());
  }
  return turns;
}

inline void set_ratio(benchmark::State& state, const Turns& turns) {
  state.counters["ratio"] = turns.ratio();
  state.counters["ratio_low"] = turns.ratio(0.25);
  state.counters["ratio_high"] = turns.ratio(0.75);
}
/// How many times as fast as the reference: the ratio, turned.
inline void set_speedup(benchmark::State& state, const Turns& turns) {
  state.counters["speedup"] = 1 / turns.ratio();
  state.counters["speedup_low"] = 1 / turns.ratio(0.75);
  state.counters["speedup_high"] = 1 / turns.ratio(0.25);
}
inline void set_rate(benchmark::State& state, const char* name, double bytes,
                     const std::vector<double>& seconds) {
  state.counters[name] = benchmark::Counter(bytes / median(seconds), benchmark::Counter::kDefaults,
                                            benchmark::Counter::kIs1000);
}

/// `compares`: MpiOptions::compare_calls. `shares`: ranks of a machine share memory; else MPI moves
/// everything.
inline MpiOptions mpi_options(bool shares, bool compares = true) {
  MpiOptions options;
  options.compare_calls = compares;
  options.node_ranks = shares ? 0 : 1;
  return options;
}

}  // namespace shardexpr::benchmarks
