// SPDX-License-Identifier: Apache-2.0
// What the engine costs: sharding everything beside sharding nothing, and one rank beside a loop
// written by hand.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/shardexpr.hpp>

#include "handwritten_gpt.hpp"
#include "trainers_in_turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

// Sharding changes no bit.
void full_shard_over_no_shard(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(2, [&](Threads& comm) {
    const Size& size = size_of(state);
    Engine<Threads, FullShard> sharded{comm, size.config};
    Engine<Threads, NoShard> whole{comm, size.config};
    compare(state, comm, size, sharded, whole, 0);
  });
}

// The hand-written AdamW rounds otherwise, so the losses drift apart after the first step.
void solo_over_handwritten(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(1, [&](Threads& comm) {
    const Size& size = size_of(state);
    Solo solo;
    Engine<Solo, NoShard> engine{solo, size.config};
    HandwrittenGpt handwritten{size.config, seed};
    compare(state, comm, size, engine, handwritten, 1e-3);
  });
}

void threads_full_shard_over_handwritten(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(1, [&](Threads& comm) {
    const Size& size = size_of(state);
    Engine<Threads, FullShard> engine{comm, size.config};
    HandwrittenGpt handwritten{size.config, seed};
    compare(state, comm, size, engine, handwritten, 1e-3);
  });
}

// How far from 1 the ratio of a thing with itself is seen.
void handwritten_over_handwritten(benchmark::State& state) {
  nn::use_one_blas_thread();
  launch(1, [&](Threads& comm) {
    const Size& size = size_of(state);
    HandwrittenGpt one{size.config, seed}, other{size.config, seed};
    compare(state, comm, size, one, other, 0);
  });
}

SHARDEXPR_ENGINE(full_shard_over_no_shard)->Iterations(40);
SHARDEXPR_ENGINE(solo_over_handwritten)->Iterations(40);
SHARDEXPR_ENGINE(threads_full_shard_over_handwritten)->Iterations(40);
SHARDEXPR_ENGINE(handwritten_over_handwritten)->Iterations(40);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
