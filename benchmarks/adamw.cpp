// SPDX-License-Identifier: Apache-2.0
// Optimizer updates beside the memory's own speed.
//
// Bytes are those of `apply_update`: p, g and each moment read, p, each moment and the copy
// written. Of a triad's 12 bytes 16 move, since a line is read before it is written; an update has
// read every line that it writes. `Streams` is AdamW without its root and division: what is left to
// gain.
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/fma.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/sgd.hpp>

#include <cstddef>

#include "turns.hpp"
#include "update_part.hpp"
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

template <class Policy, class Gradient, class Compute>
void update(benchmark::State& state) {
  using Measured = Part<Policy, Gradient, Compute>;
  against_triad<Measured>(state, parameters, Measured::bytes_per_element);
}

#define SHARDEXPR_UPDATE(policy, gradient, compute)     \
  BENCHMARK_TEMPLATE(update, policy, gradient, compute) \
      ->ArgName("threads")                              \
      ->Arg(1)                                          \
      ->Arg(2)                                          \
      ->UseManualTime()                                 \
      ->Iterations(60)                                  \
      ->Unit(benchmark::kMillisecond)

SHARDEXPR_UPDATE(AdamW, fp32, fp32);
SHARDEXPR_UPDATE(AdamW, fp32, bf16);
SHARDEXPR_UPDATE(AdamW, bf16, bf16);
SHARDEXPR_UPDATE(AdamW, fp32, fp16);
SHARDEXPR_UPDATE(AdamW, fp16, fp16);
SHARDEXPR_UPDATE(Streams, fp32, fp32);
SHARDEXPR_UPDATE(Sgd, fp32, fp32);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
