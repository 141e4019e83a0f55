// SPDX-License-Identifier: Apache-2.0
// Casts between dtypes beside the memory's own speed: `Cpu::cast`, as gradients and parameters go
// from one dtype to another. Bytes are those of the two arrays. A triad moves 16 where it counts
// 12, since a line is read before it is written; narrowing writes past the caches and does not.
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cpu.hpp>

#include <cstddef>
#include <span>

#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

constexpr std::size_t elements = std::size_t{16} << 20;  // 64 MiB in fp32, over all threads

/// What one thread casts.
template <class From, class To>
class Part {
 public:
  explicit Part(std::size_t count)
      : from_{device_.allocate<From>(count, Purpose::other)},
        to_{device_.allocate<To>(count, Purpose::other)} {
    for (std::size_t i = 0; i < count; ++i)  // of many exponents, few of them subnormal in fp16
      from_.data()[i] = From(static_cast<float>(i % 1021) * (i % 2 == 0 ? -0.01f : 0x1p-10f));
  }

  Context<Cpu> context() { return {device_, stream_}; }
  void pass() { device_.cast(stream_, std::span<const From>{from_.span()}, to_.span()); }

 private:
  Cpu device_;
  Cpu::Stream stream_;
  Cpu::Buffer<From> from_;
  Cpu::Buffer<To> to_;
};

template <class From, class To>
void cast(benchmark::State& state) {
  against_triad<Part<From, To>>(state, elements, sizeof(From) + sizeof(To));
}

#define SHARDEXPR_CAST(from, to)     \
  BENCHMARK_TEMPLATE(cast, from, to) \
      ->ArgName("threads")           \
      ->Arg(1)                       \
      ->Arg(2)                       \
      ->UseManualTime()              \
      ->Iterations(100)              \
      ->Unit(benchmark::kMillisecond)

SHARDEXPR_CAST(fp32, bf16);
SHARDEXPR_CAST(bf16, fp32);
SHARDEXPR_CAST(fp32, fp16);
SHARDEXPR_CAST(fp16, fp32);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
