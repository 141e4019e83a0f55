// SPDX-License-Identifier: Apache-2.0
// One slice of the measured strategies: STRATEGIES_SLICE of STRATEGIES_SLICES, so that several
// translation units share the compiling.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/device/traced.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "main.hpp"
#include "measure.hpp"
#if defined(STRATEGIES_OVER_MPI)
#include "../mpi_main.hpp"
#elif defined(STRATEGIES_OVER_NCCL)
#include "nccl_ranks.hpp"
#endif
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

#if defined(STRATEGIES_OVER_NCCL)

using Device = Traced<Cuda>;
using Ranks = Nccl;
bool can_run(bool needs_groups) { return !rank_counts(gpu_count(), needs_groups).empty(); }
void choose_ranks(benchmark::internal::Benchmark& one, bool needs_groups) {
  for (const std::size_t ranks : rank_counts(gpu_count(), needs_groups))
    one.Args({static_cast<std::int64_t>(ranks), 0});
}
struct WithRanks {
  // NCCL adds in an order of its own, which depends on the collective.
  static constexpr double loss_tolerance = 1e-2;
  static Device device(Trace& trace, std::size_t rank) {
    return Device{trace, rank, static_cast<int>(rank)};
  }
  template <class Body>
  void operator()(std::size_t ranks, Network, Body body) const {
    launch_nccl(ranks, body);
  }
};

#else

using Device = Traced<Cpu>;
struct OnCpu {
  static constexpr double loss_tolerance = 0;
  static Device device(Trace& trace, std::size_t rank) {
    return Device{trace, rank, Execution::asynchronous};
  }
};

#if defined(STRATEGIES_OVER_MPI)
using Ranks = Delayed<Mpi>;
// mpirun says how many there are.
bool can_run(bool needs_groups) {
  return !needs_groups || (world_size() >= 4 && world_size() % 2 == 0);
}
void choose_ranks(benchmark::internal::Benchmark& one, bool /*needs_groups*/) {
  const auto ranks = static_cast<std::int64_t>(world_size());
  one.Args({ranks, 0})->Args({ranks, network_megabytes});
}
struct WithRanks : OnCpu {
  template <class Body>
  void operator()(std::size_t, Network network, Body body) const {
    guarded([&] {
      Delayed<Mpi> comm{Mpi{MPI_COMM_WORLD}, network};
      body(comm);
    });
  }
};
#else
using Ranks = Delayed<Threads>;
bool can_run(bool /*needs_groups*/) { return true; }
// Groups of two in a world of four; the others have a core each, too.
void choose_ranks(benchmark::internal::Benchmark& one, bool needs_groups) {
  if (!needs_groups) one.Args({2, 0})->Args({2, network_megabytes});
  one.Args({4, 0})->Args({4, network_megabytes});
}
struct WithRanks : OnCpu {
  template <class Body>
  void operator()(std::size_t ranks, Network network, Body body) const {
    launch(ranks, [&](Threads& threads) {
      Delayed<Threads> comm{std::move(threads), network};
      body(comm);
    });
  }
};
#endif
#endif

// Not a lambda: nvcc takes none whose template parameter is not among its arguments.
struct Register {
  template <class S>
  void operator()() const {
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
  }
};
void register_slice() {
  for_each_strategy<STRATEGIES_SLICE, STRATEGIES_SLICES>(MeasuredStrategies<Device, Ranks>{},
                                                         Register{});
}
[[maybe_unused]] const bool is_listed = (strategy_slices().push_back(register_slice), true);

}  // namespace
}  // namespace shardexpr::benchmarks
