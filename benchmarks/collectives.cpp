// SPDX-License-Identifier: Apache-2.0
// Collectives of `Threads` beside the memory's own speed.
//
// N = 2 ranks, S = bytes of `full`. Bytes are those that the algorithm must move: (N+1)S for
// reduce_scatter, 2S for gather into one buffer, 2NS for all_gather and for all_reduce. `of_triad`
// is that bandwidth over a triad's, measured in turns with it: medians, since neighbours on the
// machine slow both alike. Predicted: 0.70 or more at 64 MiB for reduce_scatter and gather; small
// sizes stay in cache and pass 1.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "triad.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

constexpr std::size_t ranks = 2;

template <class T>
struct Buffers {
  Cpu::Buffer<T> full, shard;
  SharedBuffer<T> gathered;
};

/// Runs `work(comm, ctx, buffers)` in the ranks, which live as long as the measurement does, and
/// a triad after each call.
template <class T, class Work>
void measure(benchmark::State& state, double bytes_per_full, Work work) {
  const std::size_t full_bytes = static_cast<std::size_t>(state.range(0)) << 20;
  const std::size_t count = full_bytes / sizeof(T);
  std::vector<double> times, triads;
  std::size_t triad_bytes = 0;
  bool goes_on = false;  // written by rank 0 between barriers
  launch(ranks, [&](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    Triad<float> triad{comm};
    Buffers<T> buffers{device.allocate<T>(count, Purpose::other),
                       device.allocate<T>(count / ranks, Purpose::other),
                       comm.gather_buffer<T>(device, count)};
    std::fill_n(buffers.full.data(), count, T(1.0f));
    triad.seconds(comm);
    work(comm, ctx, buffers);
    for (;;) {
      if (comm.rank() == 0) goes_on = state.KeepRunning();
      comm.barrier(ctx);
      if (!goes_on) break;
      const double elapsed = seconds_together(comm, ctx, [&] { work(comm, ctx, buffers); });
      const double of_triad = triad.seconds(comm);
      if (comm.rank() == 0) {
        times.push_back(elapsed);
        triads.push_back(of_triad);
        state.SetIterationTime(elapsed);
        triad_bytes = triad.size_bytes();
      }
    }
  });
  const double bytes = bytes_per_full * static_cast<double>(full_bytes);
  const double speed = bytes / median(times);
  const double triad_speed = static_cast<double>(triad_bytes) / median(triads);
  state.counters["bytes/s"] =
      benchmark::Counter(speed, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
  state.counters["triad"] =
      benchmark::Counter(triad_speed, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
  state.counters["of_triad"] = speed / triad_speed;
  state.counters["best_of_best"] =  // what a busy machine hides from the medians
      bytes / *std::min_element(times.begin(), times.end()) /
      (static_cast<double>(triad_bytes) / *std::min_element(triads.begin(), triads.end()));
}

template <class T>
void reduce_scatter_of(benchmark::State& state) {
  measure<T>(state, ranks + 1, [](Threads& comm, const Context<Cpu>& ctx, Buffers<T>& b) {
    comm.reduce_scatter(ctx, b.full.span(), b.shard.span(), Reduction::mean);
  });
}
void reduce_scatter(benchmark::State& state) { reduce_scatter_of<fp32>(state); }
void reduce_scatter_bf16(benchmark::State& state) { reduce_scatter_of<bf16>(state); }
void reduce_scatter_fp16(benchmark::State& state) { reduce_scatter_of<fp16>(state); }
void gather_aliased(benchmark::State& state) {
  measure<float>(state, 2, [](Threads& comm, const Context<Cpu>& ctx, Buffers<float>& b) {
    comm.gather(ctx, b.shard.span(), b.gathered.span());
  });
}
void all_gather_copying(benchmark::State& state) {
  measure<float>(state, 2 * ranks, [](Threads& comm, const Context<Cpu>& ctx, Buffers<float>& b) {
    comm.all_gather(ctx, b.shard.span(), b.full.span());
  });
}
void all_reduce(benchmark::State& state) {
  measure<float>(state, 2 * ranks, [](Threads& comm, const Context<Cpu>& ctx, Buffers<float>& b) {
    comm.all_reduce(ctx, b.full.span(), Reduction::mean);
  });
}

/// The time of one barrier, over a thousand in a row.
void barrier(benchmark::State& state) {
  for (auto _ : state) {
    double elapsed = 0;
    launch(ranks, [&](Threads& comm) {
      Cpu device;
      Cpu::Stream stream;
      const Context<Cpu> ctx{device, stream};
      for (int i = 0; i < 100; ++i) comm.barrier(ctx);
      const double seconds = seconds_together(comm, ctx, [&] {
        for (int i = 0; i < 1000; ++i) comm.barrier(ctx);
      });
      if (comm.rank() == 0) elapsed = seconds / 1000;
    });
    state.SetIterationTime(elapsed);
  }
}

#define SHARDEXPR_COLLECTIVE(name) \
  BENCHMARK(name)->ArgName("MiB")->Arg(1)->Arg(8)->Arg(64)->UseManualTime()->Iterations(40)

SHARDEXPR_COLLECTIVE(reduce_scatter)->Unit(benchmark::kMillisecond);
SHARDEXPR_COLLECTIVE(reduce_scatter_bf16)->Unit(benchmark::kMillisecond);
SHARDEXPR_COLLECTIVE(reduce_scatter_fp16)->Unit(benchmark::kMillisecond);
SHARDEXPR_COLLECTIVE(gather_aliased)->Unit(benchmark::kMillisecond);
SHARDEXPR_COLLECTIVE(all_gather_copying)->Unit(benchmark::kMillisecond);
SHARDEXPR_COLLECTIVE(all_reduce)->Unit(benchmark::kMillisecond);
BENCHMARK(barrier)->UseManualTime()->Iterations(20)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
