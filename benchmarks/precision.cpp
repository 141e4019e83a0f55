// SPDX-License-Identifier: Apache-2.0
// What precision and clipping cost or save: a step of the GPT in 16 bits beside one in fp32, and
// one that clips beside one that does not.
#include <shardexpr/shardexpr.hpp>

#include <limits>

#include "trainers_in_turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

template <class Precision>
void mixed_over_fp32(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(2, [&](Threads& comm) {
    const Size& size = size_of(state);
    Engine<Threads, FullShard, Precision> mixed{comm, size.config};
    Engine<Threads, FullShard> full{comm, size.config};
    compare(state, comm, size, mixed, full, 0.1);
  });
}

// A limit that nothing reaches: the factor is 1, and multiplied all the same.
void clip_norm_over_none(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(2, [&](Threads& comm) {
    const Size& size = size_of(state);
    using Clipped = Engine<Threads, FullShard, ClipNorm>;
    typename Clipped::Trainer::Options options;
    options.clipping.max_norm = std::numeric_limits<float>::max();
    Clipped clipped{comm, size.config, options};
    Engine<Threads, FullShard> plain{comm, size.config};
    compare(state, comm, size, clipped, plain, 0);
  });
}

using MixedBf16 = MixedPrecision<bf16, fp32>;
void bf16_over_fp32(benchmark::State& state) { mixed_over_fp32<MixedBf16>(state); }

SHARDEXPR_ENGINE(bf16_over_fp32)->Iterations(40);
SHARDEXPR_ENGINE(clip_norm_over_none)->Iterations(40);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
