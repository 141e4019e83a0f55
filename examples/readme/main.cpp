// SPDX-License-Identifier: Apache-2.0
// README.md shows what stands between the marks; cmake/CheckSnippets.cmake compares the two.
// [program]
#include <shardexpr/shardexpr.hpp>

#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace sx = shardexpr;
using Trainer = sx::Sharded<sx::Gpt, sx::FullShard, sx::OffloadAll, sx::BackwardPre,
                            sx::MixedPrecision<sx::bf16, sx::fp32>>;

int main() {
  sx::nn::use_one_blas_thread();
  const sx::GptConfig config{.vocabulary = 64, .context = 32, .embed = 64, .layers = 2, .batch = 4};
  sx::launch(2, [&](sx::Threads& comm) {  // two ranks, each a thread
    sx::Cpu device;
    Trainer trainer{device, comm, config};
    std::mt19937 random{static_cast<unsigned>(comm.rank())};
    std::vector<std::int32_t> tokens(config.tokens()), targets(config.tokens());
    for (auto& token : tokens) token = static_cast<std::int32_t>(random() % config.vocabulary);
    for (auto& token : targets) token = static_cast<std::int32_t>(random() % config.vocabulary);
    for (int step = 1; step <= 50; ++step) {
      const sx::StepResult result = trainer.step({tokens.data(), targets.data()});
      if (comm.rank() == 0 && step % 10 == 0)
        std::printf("step %d  loss %.3f  norm %.3f\n", step, result.loss, result.gradient_norm);
    }
  });
}
// [program end]

// [plan]
using namespace sx::literals;
// vocabulary, context, embed, heads, layers, batch
constexpr sx::GptConfig gpt2{50257, 1024, 768, 12, 12, 1};
static_assert(sx::plan<Trainer>(gpt2, 8).host_resident_bytes < 280_MiB);  // a rank's state
static_assert(sx::plan<Trainer>(gpt2, 8).device_peak_bytes < 600_MiB);    // all on its device
// [plan end]
