// SPDX-License-Identifier: Apache-2.0
// Tutorial, chapter 2: what a strategy holds and sends, known before anything runs.
// [program]
#include <shardexpr/shardexpr.hpp>

#include <cstddef>
#include <cstdio>

namespace sx = shardexpr;
using namespace sx::literals;

// GPT-2 of 124 million parameters: vocabulary, context, embed, heads, layers, batch
constexpr sx::GptConfig gpt2{50257, 1024, 768, 12, 12, 1};
constexpr std::size_t ranks = 8;

// A job that does not fit does not build.
constexpr sx::Plan sharded = sx::plan<sx::Sharded<sx::Gpt, sx::FullShard>>(gpt2, ranks);
static_assert(sharded.device_resident_bytes < 300_MiB);      // of parameters, gradients, moments
static_assert(sharded.device_peak_bytes < 1_GiB + 256_MiB);  // and of all that a step needs

template <class... Policies>
sx::Plan show(const char* name) {
  const sx::Plan plan = sx::plan<sx::Sharded<sx::Gpt, Policies...>>(gpt2, ranks);
  std::printf("%-28s %12zu %12zu %12zu\n", name, plan.device_resident_bytes, plan.device_peak_bytes,
              plan.sent_bytes);
  return plan;
}

int main() {
  std::printf("%zu parameters, %zu ranks; bytes of each rank\n", sharded.parameter_count, ranks);
  std::printf("%-28s %12s %12s %12s\n", "", "resident", "peak", "sent a step");
  const sx::Plan none = show<sx::NoShard>("NoShard");
  const sx::Plan optimizer = show<sx::ShardOptimizer>("ShardOptimizer");
  const sx::Plan gradients = show<sx::ShardGradOp>("ShardGradOp");
  const sx::Plan full = show<sx::FullShard>("FullShard");
  const sx::Plan offloaded = show<sx::FullShard, sx::OffloadAll>("FullShard, OffloadAll");
  const bool falls = none.device_resident_bytes > optimizer.device_resident_bytes &&
                     optimizer.device_resident_bytes > gradients.device_resident_bytes &&
                     gradients.device_resident_bytes > full.device_resident_bytes &&
                     offloaded.device_resident_bytes == 0;
  return falls && full == sharded ? 0 : 1;
}
// [program end]
