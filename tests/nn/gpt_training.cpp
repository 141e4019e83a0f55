// SPDX-License-Identifier: Apache-2.0
// The GPT under the engine: PyTorch's training curve, and the same bits under every sharding.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/checked.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/nn/cpu/blas.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../support/fixture.hpp"
#include "../support/formula_batch.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;

struct Curve {
  std::vector<double> losses, norms;
  std::vector<float> weights;
  friend bool operator==(const Curve&, const Curve&) = default;
};

template <class Trainer>
Curve train(const sx::GptConfig& config, std::size_t world, std::size_t steps, std::uint64_t seed,
            sx::Execution execution = sx::Execution::immediate) {
  Curve curve;
  sx::nn::use_one_blas_thread();
  sx::launch(world, [&](sx::Threads& comm) {
    typename Trainer::Device device{execution};
    typename Trainer::Options options;
    options.seed = seed;
    if constexpr (requires { options.loss_scale.scale; }) options.loss_scale.scale = 1024;
    options.optimizer = {.learning_rate = 1e-3f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .epsilon = 1e-8f,
                         .weight_decay = 0.1f};
    Trainer trainer{device, comm, config, options};
    std::vector<std::int32_t> tokens, targets;
    for (std::size_t s = 0; s < steps; ++s) {
      formula_batch(config, world, s, comm.rank(), tokens, targets);
      const sx::StepResult result = trainer.step({tokens.data(), targets.data()});
      if (comm.rank() != 0) continue;
      curve.losses.push_back(result.loss);
      curve.norms.push_back(result.gradient_norm);
    }
    const sx::Plan plan = sx::plan<Trainer>(config, world);
    CHECK(device.account().peak_bytes() == plan.device_peak_bytes);
    CHECK(trainer.traffic().total() == steps * plan.sent_bytes);
    trainer.summon([&](const std::string&, auto value) {
      if (comm.rank() == 0)
        curve.weights.insert(curve.weights.end(), value.data, value.data + value.count());
    });
  });
  return curve;
}

TEST_CASE("gpt: 20 steps of FullShard over two ranks are PyTorch's") {
  const Fixture fixture;
  REQUIRE(fixture.steps == 20);
  const Curve curve =
      train<sx::Sharded<sx::Gpt, sx::FullShard>>(fixture.config, fixture.world, 20, fixture.seed);
  std::size_t at = fixture.training;
  for (std::size_t s = 0; s < 20; ++s) {
    CAPTURE(s);
    CHECK(curve.losses[s] == doctest::Approx(fixture.number("loss", at)).epsilon(1e-5));
    CHECK(curve.norms[s] == doctest::Approx(fixture.number("gradient_norm", at)).epsilon(1e-4));
  }
}

/// A mode of tests/fixtures/gpt_precision.json. Both sides round every product and every sum that
/// leaves a register to the dtype, in another order: their losses lie within one rounding of it,
/// relative to the loss, their norms, sums of as many roundings as there are layers, within eight.
template <class... Policies>
void check_mode(const Fixture& fixture, const std::string& mode, double unit_roundoff) {
  CAPTURE(mode);
  const Fixture modes{"gpt_precision.json"};
  using Trainer = sx::Sharded<sx::Gpt, Policies...>;
  const Curve curve = train<Trainer>(fixture.config, fixture.world, 20, fixture.seed);
  const Curve whole = train<sx::Sharded<sx::Gpt, sx::NoShard, Policies...>>(
      fixture.config, fixture.world, 20, fixture.seed);
  CHECK(curve == whole);
  std::size_t at = modes.json.find('"' + mode + '"');
  for (std::size_t s = 0; s < 20; ++s) {
    CAPTURE(s);
    CHECK(curve.losses[s] == doctest::Approx(modes.number("loss", at)).epsilon(unit_roundoff));
    CHECK(curve.norms[s] ==
          doctest::Approx(modes.number("gradient_norm", at)).epsilon(8 * unit_roundoff));
  }
}
TEST_CASE("gpt: 20 steps in 16 bits are PyTorch's, within the rounding of the dtype") {
  const Fixture fixture;
  using sx::bf16;
  check_mode<sx::MixedPrecision<bf16, sx::fp32>>(fixture, "mixed_bf16", 0x1p-9);
  check_mode<sx::Precision<bf16, bf16, bf16, bf16>>(fixture, "pure_bf16", 0x1p-9);
  check_mode<sx::MixedPrecision<sx::fp16, sx::fp32>, sx::StaticLossScale>(fixture, "mixed_fp16",
                                                                          0x1p-12);
}

TEST_CASE("gpt: the same bits under every sharding") {
  // No size here divides by 2, 3 or 4, nor by a block.
  const sx::GptConfig config{
      .vocabulary = 37, .context = 11, .embed = 21, .heads = 3, .layers = 2, .batch = 3};
  for (std::size_t world = 1; world <= 4; ++world) {
    CAPTURE(world);
    const Curve reference = train<sx::Sharded<sx::Gpt, sx::NoShard>>(config, world, 20, 5);
    CHECK(reference.weights.size() == sx::Layout<sx::Gpt>{config, 1}.parameter_count());
    CHECK(reference.losses.back() < reference.losses.front());
    CHECK(train<sx::Sharded<sx::Gpt, sx::ShardOptimizer>>(config, world, 20, 5) == reference);
    CHECK(train<sx::Sharded<sx::Gpt, sx::ShardGradOp>>(config, world, 20, 5) == reference);
    CHECK(train<sx::Sharded<sx::Gpt, sx::FullShard>>(config, world, 20, 5) == reference);
  }
}

// What the layers say that they read and write is what orders them: proven on streams of threads.
TEST_CASE("gpt: the same bits under other policies, asynchronous and without a race") {
  const sx::GptConfig config{
      .vocabulary = 37, .context = 11, .embed = 21, .heads = 3, .layers = 3, .batch = 2};
  using Checked = sx::On<sx::Checked<sx::Cpu>>;
  const auto same = [&]<class... Policies>(std::size_t world, sx::detail::list<Policies...>) {
    const Curve reference = train<sx::Sharded<sx::Gpt, sx::NoShard>>(config, world, 10, 5);
    CHECK(train<sx::Sharded<sx::Gpt, Policies..., Checked>>(
              config, world, 10, 5, sx::Execution::asynchronous) == reference);
  };
  same(2, sx::detail::list<sx::Recompute<sx::gpt::Block>, sx::ForwardPrefetch<1>>{});
  same(3, sx::detail::list<sx::WrapEach<sx::gpt::Block>, sx::PersistBelow<100>>{});
  same(4, sx::detail::list<sx::ReshardTo<2>, sx::PrefetchBucket<20000>>{});
  same(2, sx::detail::list<sx::ShardGradOp, sx::Recompute<>>{});
}

TEST_CASE("gpt: a bad token on one rank ends the job with that rank's name") {
  const auto train_badly = [](sx::Execution execution) {
    sx::launch(2, [&](sx::Threads& comm) {
      sx::Cpu device{execution};
      const sx::GptConfig config{
          .vocabulary = 5, .context = 2, .embed = 4, .heads = 1, .layers = 1, .batch = 1};
      sx::Sharded<sx::Gpt, sx::FullShard> trainer{device, comm, config};
      const std::int32_t tokens[] = {0, comm.rank() == 1 ? 5 : 1}, targets[] = {1, 2};
      (void)trainer.step({tokens, targets});
    });
  };
  for (const sx::Execution execution : {sx::Execution::immediate, sx::Execution::asynchronous})
    try {
      train_badly(execution);
      FAIL("no error");
    } catch (const sx::RankError& error) {
      CHECK(error.rank() == 1);
      CHECK(std::string{error.what()}.find("token") != std::string::npos);
    }
}

}  // namespace
