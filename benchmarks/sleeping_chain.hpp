// SPDX-License-Identifier: Apache-2.0
#pragma once
// A chain of units whose computing takes a set time, and what of its communication is hidden.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

#include "triad.hpp"
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>

namespace shardexpr::benchmarks {

struct ChainConfig {
  std::size_t layers = 14, elements = 16384;
  std::chrono::microseconds forward{20000};  // of a layer; its backward takes twice as long
  bool is_busy = false;
  bool is_pinned = false;  // who computes stays on a core of its rank's own

  double forward_seconds() const { return std::chrono::duration<double>(forward).count(); }
};
struct ChainBatch {
  std::size_t rank = 0;
};

namespace chain {

/// Gives the calling thread a core of its rank's own: two that compute at once must not be put on
/// one, which takes a system milliseconds to notice.
inline void stay_on_core(std::size_t rank) {
  static thread_local bool stays = false;
  if (std::exchange(stays, true)) return;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(rank % std::max(1u, std::thread::hardware_concurrency()), &cores);
  pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
}

/// Computes elsewhere, as on an accelerator, and leaves the cores to the collectives; or keeps one
/// busy, so that collectives must wait for the system to interrupt it.
inline void compute_for(std::chrono::microseconds time, bool is_busy) {
  const auto end = Clock::now() + time;
  if (!is_busy) return std::this_thread::sleep_until(end);
  while (Clock::now() < end) benchmark::ClobberMemory();
}

template <template <class> class Of, class T>
struct Carried {
  Of<T> x;
};

/// Parameters are touched by one element, so that time is what the configuration says.
template <class Self, std::size_t weight>
struct Unit {
  using Config = ChainConfig;
  using Batch = ChainBatch;
  template <class T>
  struct Params {
    T w;
  };
  static constexpr Params<Spec> describe(const Config& c) {
    return {{"w", shape(weight == 0 ? 1 : c.elements), normal(0.1f)}};
  }
  template <template <class> class Of, class T>
  using Output = Carried<Of, T>;
  template <class T>
  static constexpr Output<BufferSpec, T> output(const Config&) {
    return {shape(1)};
  }
  template <class D, class T>
  static void forward(const Forward<Self, D, T>& p) {
    const auto time = weight * p.config.forward;
    if constexpr (requires { p.in.x; })
      p.context.run(reads(p.w.w, p.in.x), writes(p.out.x),
                    [out = p.out, time, is_busy = p.config.is_busy] {
                      compute_for(time, is_busy);
                      out.x[0] = 0;
                    });
    else
      p.context.run(reads(p.w.w), writes(p.out.x),
                    [out = p.out, rank = p.batch.rank, is_pinned = p.config.is_pinned] {
                      if (is_pinned) stay_on_core(rank);
                      out.x[0] = 0;
                    });
  }
  template <class D, class T, class G>
  static void backward(const Backward<Self, D, T, G>& p) {
    const auto time = 2 * weight * p.config.forward;
    p.context.run(reads(p.w.w, p.dout.x), writes(p.dw.w),
                  [dw = p.dw, time, is_busy = p.config.is_busy] {
                    compute_for(time, is_busy);
                    dw.w[0] += 1;
                  });
  }
};
struct First : Unit<First, 0> {
  template <template <class> class Of, class T>
  using Input = Nothing<Of, T>;
};
struct Layer : Unit<Layer, 1> {
  static constexpr Name prefix = "layer.#.";
  template <template <class> class Of, class T>
  using Input = Carried<Of, T>;
};
struct Last : Unit<Last, 0> {
  template <template <class> class Of, class T>
  using Input = Carried<Of, T>;
};

}  // namespace chain

struct Chain {
  using Config = ChainConfig;
  using Batch = ChainBatch;
  using Units = shardexpr::Units<chain::First, Repeat<chain::Layer, &Config::layers>, chain::Last>;
};

/// Over it a gather of a layer takes as long as the layer's forward; so does a reduction, which
/// sends as much.
inline Network network_of(const ChainConfig& config, std::size_t world) {
  const double ranks = static_cast<double>(world);
  const double sent = (ranks - 1) / ranks * static_cast<double>(config.elements * sizeof(float));
  return {.bytes_per_second = sent / config.forward_seconds()};
}

/// Seconds a step, the median of `steps`; `seconds_of(work)` are those of one.
template <class Trainer, class SecondsOf>
double step_seconds(Trainer& trainer, std::size_t rank, int steps, SecondsOf seconds_of) {
  std::vector<double> seen;
  for (int s = 0; s < steps + 1; ++s) {
    const double seconds = seconds_of([&] { (void)trainer.step(ChainBatch{rank}); });
    if (s > 0) seen.push_back(seconds);  // the first warms up
  }
  return median(seen);
}
/// The same of one rank without a network.
template <class SecondsOf>
double step_seconds_alone(const ChainConfig& config, std::size_t rank, int steps,
                          SecondsOf seconds_of) {
  Cpu device{Execution::asynchronous};
  Solo solo;
  Sharded<Chain, NoShard, Over<Solo>> trainer{device, solo, config};
  return step_seconds(trainer, rank, steps, seconds_of);
}

/// Two gathers and a reduction a layer.
inline double sending_seconds(const ChainConfig& config) {
  return 3 * static_cast<double>(config.layers) * config.forward_seconds();
}
/// What a step over `network_of(config)` takes more than one alone, in all and of its sending.
inline void set_hidden(benchmark::State& state, const ChainConfig& config, double alone,
                       double together) {
  state.counters["exposed_ms"] = (together - alone) * 1e3;
  state.counters["alone_ms"] = alone * 1e3;
  state.counters["hidden"] = 1 - (together - alone) / sending_seconds(config);
}

}  // namespace shardexpr::benchmarks
