// SPDX-License-Identifier: Apache-2.0
// What computing in 16 bits saves: forward and backward of one GPT in bf16 (fp16) and in fp32, on
// one core, in turns.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/shardexpr.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "gpt_passes.hpp"
#include "turns.hpp"
#include <benchmark/benchmark.h>

namespace shardexpr::benchmarks {
namespace {

struct Size {
  GptConfig config;
  int passes;  // in one turn
};
// train_gpt's, as the quickstart runs it, and the larger one of engine.cpp.
constexpr std::array sizes{
    Size{{.context = 128, .embed = 128, .heads = 4, .layers = 4, .batch = 8}, 4},
    Size{{.context = 128, .embed = 384, .heads = 6, .layers = 6, .batch = 4}, 1}};

// Who multiplies.
template <class T>
const char* products() {
#if defined(SHARDEXPR_ONEDNN)
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>)
    if (nn::detail::OnednnProducts::of_this_thread().is_fast<T>())
      return std::is_same_v<T, float> ? "large ones by oneDNN" : "oneDNN";
#endif
  if constexpr (std::is_same_v<T, float>) return "Eigen or its BLAS";
  return "widened";
}

template <class T, class G>
void over_fp32(benchmark::State& state) {
  nn::use_one_blas_thread();
  const Size& size = sizes[static_cast<std::size_t>(state.range(0))];
  std::vector<std::int32_t> tokens(size.config.tokens()), targets(size.config.tokens());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::uint64_t bits = mix(i) >> 32;
    tokens[i] = static_cast<std::int32_t>((bits & 0xffff) % size.config.vocabulary);
    targets[i] = static_cast<std::int32_t>((bits >> 16) % size.config.vocabulary);
  }
  const GptBatch batch{tokens.data(), targets.data()};
  launch(1, [&](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    GptPasses<T, G> subject{size.config, 1};
    GptPasses<float, float> reference{size.config, 1};
    double loss = 0, reference_loss = 0;
    const auto turn = [&](auto& passes, double& last) {
      return [&] {
        return seconds_together(comm, ctx, [&] {
          for (int i = 0; i < size.passes; ++i) last = passes.run(batch);
        });
      };
    };
    const auto a = turn(subject, loss);
    const auto b = turn(reference, reference_loss);
    a();  // the first touch of caches and pages, and kernels to compile, count for neither
    b();
    const Turns turns = in_turns(state, comm, ctx, a, b);
    // Logits are off by a few roundings of themselves, and they deviate by less than 1.
    if (!(std::abs(loss - reference_loss) < 0.02))
      state.SkipWithError("the two do not compute alike");
    state.SetLabel(products<T>());
    const double to_ms = 1e3 / size.passes;
    const double flops = Gpt::step_flops(size.config);
    state.counters["ratio"] = turns.ratio();
    state.counters["ratio_low"] = turns.ratio(0.25);
    state.counters["ratio_high"] = turns.ratio(0.75);
    state.counters["pass_ms"] = median(turns.subject) * to_ms;
    state.counters["fp32_ms"] = median(turns.reference) * to_ms;
    state.counters["gflops"] = flops / (median(turns.subject) * to_ms) * 1e-6;
    state.counters["fp32_gflops"] = flops / (median(turns.reference) * to_ms) * 1e-6;
  });
}

#define SHARDEXPR_PRECISION(...)             \
  BENCHMARK_TEMPLATE(over_fp32, __VA_ARGS__) \
      ->ArgName("size")                      \
      ->Arg(0)                               \
      ->Arg(1)                               \
      ->Iterations(40)                       \
      ->UseManualTime()                      \
      ->Unit(benchmark::kMillisecond)

SHARDEXPR_PRECISION(bf16, float);
SHARDEXPR_PRECISION(bf16, bf16);
SHARDEXPR_PRECISION(fp16, float);
SHARDEXPR_PRECISION(float, float);  // how far from 1 nothing is seen

}  // namespace
}  // namespace shardexpr::benchmarks

BENCHMARK_MAIN();
