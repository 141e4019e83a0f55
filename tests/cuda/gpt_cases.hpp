// SPDX-License-Identifier: Apache-2.0
#pragma once
// What is asked of a GPT on Cuda, on a GPU and over the emulated runtime alike: the training of the
// Cpu to rounding, and the same bits under every strategy.
#include <shardexpr/cuda.cuh>
#include <shardexpr/device/checked.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "gpt_run.hpp"
#include <doctest/doctest.h>

namespace gpu {

template <class... Ps>
using OnCuda = sx::Sharded<sx::Gpt, Ps..., sx::On<sx::Cuda>>;

// Sizes that nothing divides; and heads of 64, which tensor cores multiply, over more rows than one
// of attention's tiles has.
inline constexpr sx::GptConfig odd{
    .vocabulary = 61, .context = 24, .embed = 36, .heads = 3, .layers = 3, .batch = 4};
inline constexpr sx::GptConfig headed{
    .vocabulary = 67, .context = 70, .embed = 64, .heads = 1, .layers = 1, .batch = 1};

/// Losses within `roundoff`, relative; norms, which sum as many roundings as there are layers,
/// within eight. A step of AdamW moves a weight by the rate at most, whose sign rounding decides
/// where a gradient is next to nothing: so weights are compared in the mean.
inline void check_close(const Outcome& got, const Outcome& wanted, double roundoff) {
  REQUIRE(got.losses.size() == wanted.losses.size());
  REQUIRE(got.weights.size() == wanted.weights.size());
  CHECK(wanted.losses.back() < wanted.losses.front());
  for (std::size_t s = 0; s < got.losses.size(); ++s) {
    CAPTURE(s);
    CHECK(got.losses[s] == doctest::Approx(wanted.losses[s]).epsilon(roundoff));
    CHECK(got.norms[s] == doctest::Approx(wanted.norms[s]).epsilon(8 * roundoff));
  }
  double sum = 0;
  for (std::size_t i = 0; i < got.weights.size(); ++i)
    sum += std::abs(static_cast<double>(got.weights[i]) - wanted.weights[i]);
  const double moved = gpt_learning_rate * static_cast<double>(got.losses.size());
  CHECK(sum / static_cast<double>(got.weights.size()) < 40 * roundoff * moved + 0x1p-20);
}

TEST_CASE("20 steps of a GPT on Cuda are those of the Cpu, to rounding") {
  check_close(train_gpt<OnCuda<sx::FullShard>>(odd, 2, 20),
              train_gpt_on_cpu(Mode::whole_fp32, odd, 2, 20), 1e-5);
  using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;
  check_close(train_gpt<OnCuda<sx::FullShard, Mixed>>(headed, 1, 20),
              train_gpt_on_cpu(Mode::mixed_bf16, headed, 1, 20), 0x1p-9);
}

#if defined(__CUDACC__)
TEST_CASE("larger heads and more of them, on a GPU") {
  // Over the emulated runtime they would take minutes.
  using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;
  for (const std::size_t heads : {2, 4}) {  // of 128 and 64
    CAPTURE(heads);
    const sx::GptConfig config{
        .vocabulary = 300, .context = 300, .embed = 256, .heads = heads, .layers = 2, .batch = 3};
    check_close(train_gpt<OnCuda<sx::FullShard, Mixed>>(config, 2, 20),
                train_gpt_on_cpu(Mode::mixed_bf16, config, 2, 20), 0x1p-9);
    check_close(train_gpt<OnCuda<sx::FullShard>>(config, 1, 20),
                train_gpt_on_cpu(Mode::whole_fp32, config, 1, 20), 1e-5);
  }
}
#endif

TEST_CASE("a GPT on Cuda in other dtypes") {
  constexpr std::size_t steps = 4;
  using Narrow = sx::MixedPrecision<sx::fp16, sx::fp32>;
  check_close(train_gpt<OnCuda<sx::FullShard, Narrow, sx::StaticLossScale>>(headed, 1, steps),
              train_gpt_on_cpu(Mode::mixed_fp16, headed, 1, steps), 0x1p-12);
  using Pure = sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>;
  check_close(train_gpt<OnCuda<sx::FullShard, Pure>>(odd, 2, steps),
              train_gpt_on_cpu(Mode::pure_bf16, odd, 2, steps), 0x1p-9);
}

TEST_CASE("a GPT on Cuda has the same bits under every strategy") {
  using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;
  constexpr std::size_t steps = 2, micro_batches = 2;
  sx::GptConfig config = odd;
  config.batch = 2;
  for (const std::size_t world : {1, 3}) {
    CAPTURE(world);
    const auto same = [&]<class... Ps>(const Outcome& plain, sx::detail::list<Ps...>) {
      CHECK(train_gpt<OnCuda<Ps...>>(config, world, steps, micro_batches) == plain);
    };
    const Outcome whole = train_gpt<OnCuda<sx::NoShard>>(config, world, steps, micro_batches);
    same(whole, sx::detail::list<sx::FullShard, sx::ForwardPrefetch<1>>{});
    same(whole, sx::detail::list<sx::ShardGradOp, sx::Recompute<sx::gpt::Block>>{});
    const Outcome mixed =
        train_gpt<OnCuda<sx::NoShard, Mixed>>(config, world, steps, micro_batches);
    same(mixed, sx::detail::list<sx::FullShard, Mixed>{});
    same(mixed, sx::detail::list<sx::ShardOptimizer, Mixed>{});
    const Outcome offloaded = train_gpt<OnCuda<sx::FullShard, Mixed, sx::OffloadAll>>(
        config, world, steps, micro_batches);
    same(offloaded, sx::detail::list<sx::FullShard, Mixed, sx::Offload<sx::OnHost, sx::OnNvme>>{});
    check_close(offloaded, mixed, 0x1p-9);
  }
}

TEST_CASE("what the layers on Cuda say that they touch is ordered, and the bits are the same") {
  using Mixed = sx::MixedPrecision<sx::bf16, sx::fp32>;
  using Checked =
      sx::Sharded<sx::Gpt, sx::FullShard, sx::OffloadAll, Mixed, sx::On<sx::Checked<sx::Cuda>>>;
  CHECK(train_gpt<Checked>(odd, 2, 2) ==
        train_gpt<OnCuda<sx::FullShard, sx::OffloadAll, Mixed>>(odd, 2, 2));
}

TEST_CASE("a bad token on Cuda ends the job with its rank's name") {
  try {
    sx::launch(2, [&](sx::Threads& comm) {
      sx::Cuda device;
      const sx::GptConfig config{
          .vocabulary = 5, .context = 2, .embed = 4, .heads = 1, .layers = 1, .batch = 1};
      OnCuda<sx::FullShard> trainer{device, comm, config};
      const std::int32_t tokens[] = {0, comm.rank() == 1 ? 5 : 1}, targets[] = {1, 2};
      (void)trainer.step({tokens, targets});
    });
    FAIL("no error");
  } catch (const sx::RankError& error) {
    CHECK(error.rank() == 1);
    CHECK(std::string{error.what()}.find("token 5 is outside the vocabulary of 5") !=
          std::string::npos);
  }
}

}  // namespace gpu
