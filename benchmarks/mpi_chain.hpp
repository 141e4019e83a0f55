// SPDX-License-Identifier: Apache-2.0
#pragma once
// A chain of units whose computing takes a set time.
#include <shardexpr/shardexpr.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>

#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>

namespace shardexpr::benchmarks {

struct ChainConfig {
  std::size_t layers = 14, elements = 16384;
  std::chrono::microseconds forward{20000};  // of a layer; its backward takes twice as long
  bool is_busy = false;
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
  const auto end = std::chrono::steady_clock::now() + time;
  if (!is_busy) return std::this_thread::sleep_until(end);
  while (std::chrono::steady_clock::now() < end) benchmark::ClobberMemory();
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
                    [out = p.out, rank = p.batch.rank, is_busy = p.config.is_busy] {
                      if (is_busy) stay_on_core(rank);
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

}  // namespace shardexpr::benchmarks
