// SPDX-License-Identifier: Apache-2.0
// One slice of the measured strategies: STRATEGIES_SLICE of STRATEGIES_SLICES, so that several
// translation units share the compiling.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "main.hpp"
#include "measure.hpp"
#if defined(STRATEGIES_OVER_MPI)
#include "../mpi_main.hpp"
#endif
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

#if defined(STRATEGIES_OVER_MPI)
using Ranks = Mpi;
// mpirun says how many there are.
bool can_run(bool needs_groups) {
  return !needs_groups || (world_size() >= 4 && world_size() % 2 == 0);
}
void choose_ranks(benchmark::internal::Benchmark& one, bool /*needs_groups*/) {
  const auto ranks = static_cast<std::int64_t>(world_size());
  one.Args({ranks, 0})->Args({ranks, network_megabytes});
}
struct WithRanks {
  template <class Body>
  void operator()(std::size_t, Network network, Body body) const {
    guarded([&] {
      Delayed<Mpi> comm{Mpi{MPI_COMM_WORLD}, network};
      body(comm);
    });
  }
};
#else
using Ranks = Threads;
bool can_run(bool /*needs_groups*/) { return true; }
// Groups of two in a world of four; the others have a core each, too.
void choose_ranks(benchmark::internal::Benchmark& one, bool needs_groups) {
  if (!needs_groups) one.Args({2, 0})->Args({2, network_megabytes});
  one.Args({4, 0})->Args({4, network_megabytes});
}
struct WithRanks {
  template <class Body>
  void operator()(std::size_t ranks, Network network, Body body) const {
    launch(ranks, [&](Threads& threads) {
      Delayed<Threads> comm{std::move(threads), network};
      body(comm);
    });
  }
};
#endif

void register_slice() {
  for_each_strategy<STRATEGIES_SLICE, STRATEGIES_SLICES>(
      MeasuredStrategies<Delayed<Ranks>>{}, []<class S>() {
        constexpr bool needs_groups =
            detail::group_of<typename S::sharding> != 0 || S::reshard::ranks != 0;
        if (!can_run(needs_groups)) return;
        const std::string name = short_name<S>();
        auto* one = benchmark::RegisterBenchmark(name.c_str(), [name](benchmark::State& state) {
          measure_strategy<S>(state, name, WithRanks{});
        });
        one->ArgNames({"ranks", "network"})->UseManualTime()->Iterations(1);
        one->Unit(benchmark::kMillisecond);
        choose_ranks(*one, needs_groups);
      });
}
[[maybe_unused]] const bool is_listed = (strategy_slices().push_back(register_slice), true);

}  // namespace
}  // namespace shardexpr::benchmarks
