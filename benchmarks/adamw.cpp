// SPDX-License-Identifier: Apache-2.0
// Optimizer updates beside the memory's own speed.
//
// Bytes are those of `apply_update`: p, g and each moment read, p and each moment written. Of a
// triad's 12 bytes 16 move, since a line is read before it is written; an update has read every
// line that it writes. `Streams` is AdamW without its root and division: what is left to gain.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/sgd.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <utility>

#include "triad.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

constexpr std::size_t parameters = std::size_t{16} << 20;  // 64 MiB an array, over all threads

/// The streams of AdamW with next to no arithmetic.
struct Streams {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 2;
  struct Options {
    float learning_rate = 0;
  };
  struct Update {
    Update(const Options&, std::size_t) {}
    void operator()(float& p, float g, float* m) const {
      m[0] = multiply_add(0.9f, m[0], g);
      m[1] = multiply_add(0.9f, m[1], g);
      p = multiply_add(0.5f, p, g);
    }
  };
};

/// What one thread updates.
template <class Policy>
class Part {
 public:
  explicit Part(std::size_t count)
      : p_{device_.allocate<float>(count, Purpose::parameters)},
        g_{device_.allocate<float>(count, Purpose::gradients)},
        control_{device_.allocate<UpdateControl>(1, Purpose::other)} {
    control_.data()[0] = {};
    for (auto& m : m_) m = device_.allocate<float>(count, Purpose::optimizer);
    for (std::size_t i = 0; i < count; ++i) {  // nothing that could become subnormal
      p_.data()[i] = 1;
      g_.data()[i] = 0.5f + static_cast<float>(i % 7);
    }
  }

  Context<Cpu> context() { return {device_, stream_}; }

  void update() {
    std::array<float*, Policy::moments> moments{};
    for (std::size_t k = 0; k < moments.size(); ++k) moments[k] = m_[k].data();
    const typename Policy::Update update{typename Policy::Options{}, ++step_};
    apply_update(
        context(), update, NearestRounding{}, control_.data(),
        UpdateOperands<float, float, float, float, Policy::moments>{p_.span(), g_.span(), moments});
  }

 private:
  Cpu device_;
  Cpu::Stream stream_;
  Cpu::Buffer<float> p_, g_;
  Cpu::Buffer<UpdateControl> control_;
  std::array<Cpu::Buffer<float>, Policy::moments> m_;
  std::size_t step_ = 0;
};

template <class Policy>
void update(benchmark::State& state) {
  Turns turns;
  double triad_bytes = 0;
  launch(static_cast<std::size_t>(state.range(0)), [&](Threads& comm) {
    Part<Policy> part{parameters / comm.size()};
    Triad<float> triad{comm};
    const auto one_update = [&] {
      return seconds_together(comm, part.context(), [&] { part.update(); });
    };
    const auto one_triad = [&] { return triad.seconds(comm); };
    one_update();
    one_triad();
    Turns mine = in_turns(state, comm, part.context(), one_update, one_triad);
    if (comm.rank() != 0) return;
    turns = std::move(mine);
    triad_bytes = static_cast<double>(triad.size_bytes());
  });
  const double bytes =
      static_cast<double>(parameters * sizeof(float)) * (3.0 + 2.0 * Policy::moments);
  const auto counter = [](double x) {
    return benchmark::Counter(x, benchmark::Counter::kDefaults, benchmark::Counter::kIs1000);
  };
  state.counters["bytes/s"] = counter(bytes / median(turns.subject));
  state.counters["triad"] = counter(triad_bytes / median(turns.reference));
  // Speed over speed: the ratio of times, turned, a byte.
  const double a_byte = bytes / triad_bytes;
  state.counters["of_triad"] = a_byte / turns.ratio();
  state.counters["of_triad_low"] = a_byte / turns.ratio(0.75);
  state.counters["of_triad_high"] = a_byte / turns.ratio(0.25);
}

#define SHARDEXPR_UPDATE(policy)     \
  BENCHMARK_TEMPLATE(update, policy) \
      ->ArgName("threads")           \
      ->Arg(1)                       \
      ->Arg(2)                       \
      ->UseManualTime()              \
      ->Iterations(60)               \
      ->Unit(benchmark::kMillisecond)

SHARDEXPR_UPDATE(AdamW);
SHARDEXPR_UPDATE(Streams);
SHARDEXPR_UPDATE(Sgd);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
