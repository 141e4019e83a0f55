// SPDX-License-Identifier: Apache-2.0
// What quantized collectives save and cost. Making codes and adding them up, beside the memory's
// own speed; and steps over a slow network, beside those that send values as they are.
#include <shardexpr/comm/delayed.hpp>
#include <shardexpr/comm/quantized.hpp>
#include <shardexpr/core/quantized_block.hpp>
#include <shardexpr/shardexpr.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "trainers_in_turns.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

constexpr std::size_t blocks = std::size_t{1} << 18;  // 64 MiB in fp32, over all threads

/// What one thread turns into codes, or back.
template <std::size_t bits, class T, bool back>
class Part {
 public:
  explicit Part(std::size_t count)
      : values_{device_.allocate<T>(count * block_elements, Purpose::other)},
        codes_{device_.allocate<QuantizedBlock<bits>>(count, Purpose::other)} {
    for (std::size_t i = 0; i < values_.count(); ++i)
      values_.data()[i] = T(static_cast<float>(i % 1021) * (i % 2 == 0 ? -0.01f : 0x1p-10f));
    quantize(context(), std::span<const T>{values_.span()}, codes_.span());
  }

  Context<Cpu> context() { return {device_, stream_}; }
  void pass() {
    if constexpr (back)
      dequantize(context(), std::span<const QuantizedBlock<bits>>{codes_.span()}, values_.span());
    else
      quantize(context(), std::span<const T>{values_.span()}, codes_.span());
  }

 private:
  Cpu device_;
  Cpu::Stream stream_;
  Cpu::Buffer<T> values_;
  Cpu::Buffer<QuantizedBlock<bits>> codes_;
};

template <std::size_t bits, class T, bool back>
void codes(benchmark::State& state) {
  against_triad<Part<bits, T, back>>(state, blocks,
                                     block_elements * sizeof(T) + sizeof(QuantizedBlock<bits>));
}
#define SHARDEXPR_CODES(bits, T, back)     \
  BENCHMARK_TEMPLATE(codes, bits, T, back) \
      ->ArgName("threads")                 \
      ->Arg(1)                             \
      ->Arg(2)                             \
      ->UseManualTime()                    \
      ->Iterations(100)                    \
      ->Unit(benchmark::kMillisecond)
SHARDEXPR_CODES(8, fp32, false);
SHARDEXPR_CODES(8, fp32, true);
SHARDEXPR_CODES(4, fp32, false);
SHARDEXPR_CODES(4, fp32, true);
SHARDEXPR_CODES(8, bf16, false);
SHARDEXPR_CODES(8, bf16, true);

/// Two ranks on a GPT of 0.8 M parameters, without prefetch, so that all communication shows.
/// `communication` is the time that a step takes longer than over no network, of that of the plain
/// strategy; `bytes` what the plans say of it.
template <class... Policies>
void over_network(benchmark::State& state) {
  nn::use_one_blas_thread();
  constexpr Network network{.bytes_per_second = 10e6};
  const Size& size = sizes[0];
  launch(2, [&](Threads& comm) {
    const auto rank = static_cast<int>(comm.rank());
    using Slow = Delayed<Threads>;
    Slow slow{comm.split(0, rank), network};
    using Subject = Engine<Slow, BackwardNone, ForwardNone, Policies...>;
    using Reference = Engine<Slow, BackwardNone, ForwardNone>;
    Subject subject{slow, size.config};
    Reference reference{slow, size.config};
    compare(state, comm, size, subject, reference, 0.1);

    Engine<Threads, BackwardNone, ForwardNone> fast{comm, size.config};
    Cpu device;
    Cpu::Stream stream;
    const Tokens tokens{size.config, comm.rank()};
    std::vector<double> seconds;
    for (int i = 0; i < 30; ++i)
      seconds.push_back(seconds_together(comm, Context<Cpu>{device, stream},
                                         [&] { (void)fast.step(tokens.batch()); }));
    if (comm.rank() != 0) return;
    const double alone_ms = median(seconds) * 1e3;
    const auto sent = [&]<class E>(std::type_identity<E>) {
      return static_cast<double>(plan<typename E::Trainer>(size.config, 2).sent_bytes);
    };
    const double communication = (state.counters["step_ms"].value - alone_ms) /
                                 (state.counters["reference_ms"].value - alone_ms);
    const double bytes =
        sent(std::type_identity<Subject>{}) / sent(std::type_identity<Reference>{});
    state.counters["alone_ms"] = alone_ms;
    state.counters["communication"] = communication;
    state.counters["bytes"] = bytes;
    state.counters["of_bytes"] = communication / bytes;
  });
}
#define SHARDEXPR_OVER_NETWORK(...)             \
  BENCHMARK_TEMPLATE(over_network, __VA_ARGS__) \
      ->UseManualTime()                         \
      ->Unit(benchmark::kMillisecond)           \
      ->Iterations(5)
SHARDEXPR_OVER_NETWORK(FullShard);  // of itself: 1
SHARDEXPR_OVER_NETWORK(QuantizedWeights);
SHARDEXPR_OVER_NETWORK(QuantizedGradients);
SHARDEXPR_OVER_NETWORK(QuantizedWeights, QuantizedGradients);

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
