// SPDX-License-Identifier: Apache-2.0
// Ranks that are processes of one machine, beside what MPI does for the same ranks in the same run:
// collectives, a sharded step, what is hidden of a slow network, and what comparing calls costs.
//
//   mpirun -n 2 --bind-to none bench_mpi
//
// Every process runs every benchmark, as often as the others; rank 0 tells.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/mpi.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "context.hpp"
#include "mpi_handwritten.hpp"
#include "mpi_main.hpp"
#include "mpi_turns.hpp"
#include "rehearsal.hpp"
#include "sleeping_chain.hpp"
#include "trainers_in_turns.hpp"
#include <benchmark/benchmark.h>
#include <mpi.h>

namespace shardexpr::benchmarks {
namespace {

int iterations(int wanted) { return is_rehearsal() ? 2 : wanted; }

bool holds_everywhere(bool here) {
  int mine = here, all = 0;
  MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
  return all != 0;
}

// Collectives
// ------------------------------------------------------------------------------------------

/// Element i of a rank, between 0 and 1: sums of them are rounded.
float value(std::size_t rank, std::size_t i) {
  return static_cast<float>(mix(mix(rank) + i) >> 40) * 0x1p-24f;
}
void fill(std::span<float> values, std::size_t first = 0) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(world_rank(), first + i);
}
/// To the bit: added up in rank order.
bool is_sum(std::span<const float> values, std::size_t first) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    float sum = value(0, first + i);
    for (std::size_t rank = 1; rank < world_size(); ++rank) sum += value(rank, first + i);
    if (values[i] != sum) return false;
  }
  return true;
}
bool is_gathered(std::span<const float> full) {
  const std::size_t part = full.size() / world_size();
  for (std::size_t i = 0; i < full.size(); ++i)
    if (full[i] != value(i / part, i % part)) return false;
  return true;
}

/// A rank with its device, and the sizes of a case; MiB of `full` in all, KiB in a rehearsal.
struct Rank {
  explicit Rank(const benchmark::State& state)
      : count{(static_cast<std::size_t>(state.range(0)) << (is_rehearsal() ? 10 : 20)) /
              sizeof(float) / world_size() * world_size()},
        part{count / world_size()} {}

  Cpu::Buffer<float> ordinary(std::size_t elements) {
    return device.allocate<float>(elements, Purpose::other);
  }

  std::size_t count, part;
  Cpu device;
  Cpu::Stream stream;
  Context<Cpu> ctx{device, stream};
  Mpi comm{MPI_COMM_WORLD, mpi_options(/*shares=*/true)};
};

/// `ours()` in turns with MPI's call for the same; `is_right`: it did what it is to do.
template <class Ours, class Theirs>
void against_mpi(benchmark::State& state, const Rank& rank, bool is_right, Ours ours,
                 Theirs theirs) {
  const Turns turns = turns_of_all(state, ours, theirs);
  const double bytes = static_cast<double>(rank.count * sizeof(float));
  set_rate(state, "bytes/s", bytes, turns.subject);
  set_rate(state, "mpi_bytes/s", bytes, turns.reference);
  set_speedup(state, turns);
  if (!holds_everywhere(is_right)) state.SkipWithError("the result is wrong");
}

enum class Memory { shared, ordinary };

/// Memory that a reduction reads, with this rank's values.
template <Memory memory>
auto values_in(Rank& rank) {
  auto buffer = [&] {
    if constexpr (memory == Memory::shared)
      return rank.comm.reduction_buffer<float>(rank.device, rank.count);
    else
      return rank.ordinary(rank.count);
  }();
  fill(buffer.span());
  return buffer;
}

template <Memory memory>
void reduce_scatter(benchmark::State& state) {
  guarded([&] {
    Rank rank{state};
    auto full = values_in<memory>(rank);
    auto theirs = values_in<Memory::ordinary>(rank);
    auto part = rank.ordinary(rank.part), their_part = rank.ordinary(rank.part);
    const auto ours = [&] {
      rank.comm.reduce_scatter(rank.ctx, full.span(), part.span(), Reduction::sum);
    };
    ours();
    against_mpi(state, rank, is_sum(part.span(), world_rank() * rank.part), ours, [&] {
      MPI_Reduce_scatter_block(theirs.data(), their_part.data(), static_cast<int>(rank.part),
                               MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    });
  });
}

/// Into one buffer for all ranks, or one of each.
template <Memory memory>
void gather(benchmark::State& state) {
  guarded([&] {
    Rank rank{state};
    auto full = [&] {
      if constexpr (memory == Memory::shared)
        return rank.comm.gather_buffer<float>(rank.device, rank.count);
      else
        return rank.ordinary(rank.count);
    }();
    auto part = rank.ordinary(rank.part), theirs = rank.ordinary(rank.count);
    fill(part.span());
    const auto ours = [&] {
      if constexpr (memory == Memory::shared)
        rank.comm.gather(rank.ctx, part.span(), full.span());
      else
        rank.comm.all_gather(rank.ctx, part.span(), full.span());
    };
    ours();
    against_mpi(state, rank, is_gathered(full.span()), ours, [&] {
      MPI_Allgather(part.data(), static_cast<int>(rank.part), MPI_FLOAT, theirs.data(),
                    static_cast<int>(rank.part), MPI_FLOAT, MPI_COMM_WORLD);
    });
  });
}

template <Memory memory>
void all_reduce(benchmark::State& state) {
  guarded([&] {
    Rank rank{state};
    auto values = values_in<memory>(rank);
    auto theirs = values_in<Memory::ordinary>(rank);
    rank.comm.all_reduce(rank.ctx, values.span(), Reduction::sum);
    const bool is_right = is_sum(values.span(), 0);
    against_mpi(
        state, rank, is_right,
        [&] { rank.comm.all_reduce(rank.ctx, values.span(), Reduction::mean); },
        [&] {
          MPI_Allreduce(MPI_IN_PLACE, theirs.data(), static_cast<int>(rank.count), MPI_FLOAT,
                        MPI_SUM, MPI_COMM_WORLD);
        });
  });
}

/// STREAM triad, 64 MiB an array over all ranks: what the machine's memory gives them.
void triad(benchmark::State& state) {
  guarded([&] {
    Cpu device;
    const std::size_t count =
        (is_rehearsal() ? 4096 : Triad<float>::array_bytes / sizeof(float)) / world_size();
    auto a = device.allocate<float>(count, Purpose::other);
    auto b = device.allocate<float>(count, Purpose::other);
    auto c = device.allocate<float>(count, Purpose::other);
    fill(b.span());
    fill(c.span());
    std::vector<double> seconds;
    while (state.KeepRunning()) {
      seconds.push_back(seconds_of_all([&] {
        float* __restrict to = a.data();
        const float *const from = b.data(), *const scaled = c.data();
        for (std::size_t i = 0; i < count; ++i) to[i] = from[i] + 3.0f * scaled[i];
        benchmark::ClobberMemory();
      }));
      state.SetIterationTime(seconds.back());
    }
    set_rate(state, "bytes/s", static_cast<double>(3 * count * world_size() * sizeof(float)),
             seconds);
  });
}

BENCHMARK(triad)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(iterations(20));

#define SHARDEXPR_COLLECTIVE(...)     \
  BENCHMARK(__VA_ARGS__)              \
      ->ArgName("MiB")                \
      ->Arg(16)                       \
      ->Arg(64)                       \
      ->Arg(256)                      \
      ->UseManualTime()               \
      ->Unit(benchmark::kMillisecond) \
      ->Iterations(iterations(20))
SHARDEXPR_COLLECTIVE(reduce_scatter<Memory::shared>);
SHARDEXPR_COLLECTIVE(reduce_scatter<Memory::ordinary>);
SHARDEXPR_COLLECTIVE(gather<Memory::shared>);
SHARDEXPR_COLLECTIVE(gather<Memory::ordinary>);
SHARDEXPR_COLLECTIVE(all_reduce<Memory::shared>);
SHARDEXPR_COLLECTIVE(all_reduce<Memory::ordinary>);

// A step
// -----------------------------------------------------------------------------------------------

Size size_of_step(const benchmark::State& state) {
  if (is_rehearsal()) return {{.context = 16, .embed = 32, .heads = 2, .layers = 3, .batch = 2}, 1};
  return size_of(state);
}

/// FullShard by the library, with what it needs.
class OverMpi {
 public:
  OverMpi(Mpi& comm, const GptConfig& config) : trainer_{device_, comm, config, {.seed = seed}} {}
  double step(const GptBatch& batch) {
    const StepResult result = trainer_.step(batch);
    gradient_norm_ = result.gradient_norm;
    return result.loss;
  }
  double gradient_norm() const { return gradient_norm_; }

 private:
  Cpu device_;
  Sharded<Gpt, FullShard, Over<Mpi>> trainer_;
  double gradient_norm_ = 0;
};

/// Two trainers on the same batches. Their last losses may differ by `last` of the first one, the
/// first losses and norms by a thousandth of that: else they do not do the same work. A `last` of 0
/// asks for the same bits in every step.
template <class Subject, class Reference>
void compare_all(benchmark::State& state, const Size& size, Subject& subject, Reference& reference,
                 double last) {
  const Tokens tokens{size.config, world_rank()};
  struct Seen {
    std::vector<double> losses, norms;
  } seen, reference_seen;
  const auto turn = [&](auto& trainer, Seen& to) {
    return [&] {
      for (int i = 0; i < size.steps; ++i) {
        to.losses.push_back(trainer.step(tokens.batch()));
        to.norms.push_back(trainer.gradient_norm());
      }
    };
  };
  const Turns turns = turns_of_all(state, turn(subject, seen), turn(reference, reference_seen));
  const double first = reference_seen.losses.front();
  const auto apart = [](double a, double b, double of) { return std::abs(a - b) / of; };
  const double apart_last = apart(seen.losses.back(), reference_seen.losses.back(), first);
  if (!(apart(seen.losses.front(), first, first) <= last / 1000) || !(apart_last <= last) ||
      !(apart(seen.norms.front(), reference_seen.norms.front(), reference_seen.norms.front()) <=
        last / 1000) ||
      (last == 0 && seen.losses != reference_seen.losses))
    state.SkipWithError("the two do not train alike");
  set_ratio(state, turns);
  state.counters["step_ms"] = median(turns.subject) * 1e3 / size.steps;
  state.counters["reference_ms"] = median(turns.reference) * 1e3 / size.steps;
  state.counters["loss_first"] = seen.losses.front();
  state.counters["loss_last"] = seen.losses.back();
  state.counters["apart"] = apart_last;
  state.SetLabel(std::to_string(Layout<Gpt>{size.config, 1}.parameter_count()) + " parameters");
}

template <Gathers gathers>
void full_shard_over_handwritten(benchmark::State& state) {
  guarded([&] {
    nn::use_one_blas_thread();
    const Size size = size_of_step(state);
    Mpi comm{MPI_COMM_WORLD, mpi_options(state.range(1) != 0)};
    OverMpi engine{comm, size.config};
    HandwrittenFullShard handwritten{MPI_COMM_WORLD, size.config, seed, gathers};
    compare_all(state, size, engine, handwritten, 1e-3);  // AdamW rounds otherwise
  });
}

/// How far from 1 the ratio of a thing with itself is seen.
void handwritten_over_handwritten(benchmark::State& state) {
  guarded([&] {
    nn::use_one_blas_thread();
    const Size size = size_of_step(state);
    HandwrittenFullShard one{MPI_COMM_WORLD, size.config, seed, Gathers::blocking};
    HandwrittenFullShard other{MPI_COMM_WORLD, size.config, seed, Gathers::blocking};
    compare_all(state, size, one, other, 0);
  });
}

/// Calls that are compared over calls that are not: the same step.
void compared_step(benchmark::State& state) {
  guarded([&] {
    nn::use_one_blas_thread();
    const Size size = size_of_step(state);
    const bool shares = state.range(1) != 0;
    Mpi comm{MPI_COMM_WORLD, mpi_options(shares)};
    Mpi unchecked_comm{MPI_COMM_WORLD, mpi_options(shares, /*compares=*/false)};
    OverMpi engine{comm, size.config}, unchecked{unchecked_comm, size.config};
    compare_all(state, size, engine, unchecked, 0);
  });
}

/// The same where a call is little else: reductions of a few numbers.
void compared_all_reduce(benchmark::State& state) {
  guarded([&] {
    const bool shares = state.range(1) != 0;
    const int calls = is_rehearsal() ? 10 : 1000;
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    Mpi comm{MPI_COMM_WORLD, mpi_options(shares)};
    Mpi unchecked{MPI_COMM_WORLD, mpi_options(shares, /*compares=*/false)};
    std::vector<float> values(static_cast<std::size_t>(state.range(0)), 1.0f);
    const auto turn = [&](Mpi& on) {
      return [&] {
        for (int i = 0; i < calls; ++i) on.all_reduce(ctx, std::span{values}, Reduction::mean);
      };
    };
    const Turns turns = turns_of_all(state, turn(comm), turn(unchecked));
    set_ratio(state, turns);
    state.counters["call_us"] = median(turns.subject) * 1e6 / calls;
    state.counters["unchecked_us"] = median(turns.reference) * 1e6 / calls;
    if (values.front() != 1.0f) state.SkipWithError("the mean is wrong");
  });
}

// 0.8 M and 10.8 M parameters; shared memory and MPI alone.
std::vector<std::int64_t> step_sizes() {
  if (is_rehearsal()) return {0};
  return {0, 1};
}
#define SHARDEXPR_BY_MPI(first, values, ...) \
  BENCHMARK(__VA_ARGS__)                     \
      ->ArgNames({first, "shares"})          \
      ->ArgsProduct({values, {1, 0}})        \
      ->UseManualTime()                      \
      ->Unit(benchmark::kMillisecond)        \
      ->Iterations(iterations(20))
SHARDEXPR_BY_MPI("size", step_sizes(), full_shard_over_handwritten<Gathers::blocking>);
SHARDEXPR_BY_MPI("size", step_sizes(), full_shard_over_handwritten<Gathers::ahead>);
SHARDEXPR_BY_MPI("size", step_sizes(), compared_step);
SHARDEXPR_BY_MPI("count", (std::vector<std::int64_t>{1, 1000, 100000}), compared_all_reduce);
BENCHMARK(handwritten_over_handwritten)
    ->ArgName("size")
    ->ArgsProduct({step_sizes()})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(iterations(20));

// A slow network
// --------------------------------------------------------------------------------------

/// What of all communication a chain of layers hides, whose gathers take as long as their forwards,
/// and reductions, too.
template <bool is_busy, class... Policies>
void hidden(benchmark::State& state) {
  guarded([&] {
    ChainConfig config{.is_busy = is_busy, .is_pinned = is_busy};
    if (is_rehearsal()) config.layers = 3, config.forward = std::chrono::microseconds{1000};
    const int steps = is_rehearsal() ? 1 : 5;
    const auto seconds_of = [](auto work) { return seconds_of_all(work); };
    double alone = 0, together = 0;
    while (state.KeepRunning()) {
      alone = step_seconds_alone(config, world_rank(), steps, seconds_of);
      {
        using Comm = Delayed<Mpi>;
        Comm comm{Mpi{MPI_COMM_WORLD, mpi_options(state.range(0) != 0)},
                  network_of(config, world_size())};
        Cpu device{Execution::asynchronous};
        Sharded<Chain, FullShard, Policies..., Over<Comm>> trainer{device, comm, config};
        together = step_seconds(trainer, world_rank(), steps, seconds_of);
      }
      state.SetIterationTime(together);
    }
    state.counters["sending_ms"] = sending_seconds(config) * 1e3;
    set_hidden(state, config, alone, together);
  });
}

#define SHARDEXPR_HIDDEN(...)         \
  BENCHMARK(hidden<__VA_ARGS__>)      \
      ->ArgName("shares")             \
      ->Arg(1)                        \
      ->Arg(0)                        \
      ->UseManualTime()               \
      ->Unit(benchmark::kMillisecond) \
      ->Iterations(1)
SHARDEXPR_HIDDEN(false, BackwardNone, ForwardNone);
SHARDEXPR_HIDDEN(false, BackwardPre, ForwardPrefetch<1>);
SHARDEXPR_HIDDEN(true, BackwardPre, ForwardPrefetch<1>);

}  // namespace
}  // namespace shardexpr::benchmarks

int main(int argc, char** argv) {
  return shardexpr::benchmarks::main_of_all(argc, argv, [](int&, char**) {
    shardexpr::benchmarks::add_context();
    return true;
  });
}
