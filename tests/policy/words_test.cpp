// SPDX-License-Identifier: Apache-2.0
// The other frameworks' words are the same types, so that switching between them is a matter of
// spelling.
#include <shardexpr/policy/deepspeed.hpp>
#include <shardexpr/policy/fsdp.hpp>

#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

namespace sx = shardexpr;
namespace fsdp = shardexpr::fsdp;
namespace ds = shardexpr::deepspeed;

namespace {

template <class A, class B>
inline constexpr bool same = std::is_same_v<A, B>;
struct Block;

static_assert(same<fsdp::FULL_SHARD, sx::FullShard> && same<ds::ZeroStage<3>, sx::FullShard>);
static_assert(same<fsdp::SHARD_GRAD_OP, sx::ShardGradOp> &&
              same<ds::ZeroStage<2>, sx::ShardGradOp>);
static_assert(same<ds::ZeroStage<1>, sx::ShardOptimizer>);
static_assert(same<fsdp::NO_SHARD, sx::NoShard> && same<ds::ZeroStage<0>, sx::NoShard>);
static_assert(same<fsdp::HYBRID_SHARD<4>, sx::HybridShard<4>> &&
              same<ds::MiCS<4>, sx::HybridShard<4>>);
static_assert(same<fsdp::HYBRID_SHARD_ZERO2<4>, sx::HybridShardGradOp<4>>);
static_assert(same<fsdp::reshard_after_forward<2>, ds::zero_hpz_partition_size<2>>);
static_assert(same<fsdp::reshard_after_forward<2>, sx::ReshardTo<2>>);
static_assert(same<fsdp::BACKWARD_PRE, sx::BackwardPre>);
static_assert(same<fsdp::BACKWARD_POST, sx::BackwardPost>);
static_assert(same<fsdp::NO_PREFETCH, sx::BackwardNone>);
static_assert(same<fsdp::forward_prefetch<true>, sx::ForwardPrefetch<1>>);
static_assert(same<fsdp::forward_prefetch<false>, sx::ForwardNone>);
static_assert(same<fsdp::TRANSFORMER_BASED_WRAP<Block>, sx::WrapEach<Block>>);
static_assert(same<fsdp::SIZE_BASED_WRAP<1000>, sx::WrapBySize<1000>>);
static_assert(same<fsdp::NO_WRAP, sx::WrapWhole>);
static_assert(same<fsdp::activation_checkpointing<Block>, sx::Recompute<Block>>);
static_assert(same<ds::zero_quantized_weights, sx::QuantizedWeights>);
static_assert(same<ds::zero_quantized_gradients, sx::QuantizedGradients>);
static_assert(same<fsdp::no_sync, sx::ReduceAtEnd>);
static_assert(same<fsdp::sync_each_batch, sx::ReduceEveryMicroBatch>);
static_assert(same<ds::stage3_param_persistence_threshold<9>, sx::PersistBelow<9>>);
static_assert(same<ds::stage3_max_live_parameters<9>, sx::MaxLive<9>>);
static_assert(same<ds::stage3_prefetch_bucket_size<9>, sx::PrefetchBucket<9>>);
static_assert(same<ds::stage3_max_reuse_distance<9>, sx::ReuseWithin<9>>);
static_assert(same<ds::gradient_clipping, sx::ClipNorm>);

// Each place of the guide's table of offloading.
static_assert(same<fsdp::offload_params<true>, sx::OffloadAll>);
static_assert(same<fsdp::offload_params<false>, sx::OffloadNone>);
static_assert(same<fsdp::CPUOffloadPolicy, sx::Offload<sx::OnHost, sx::OnHost>>);
static_assert(same<ds::offload_param<ds::cpu>, sx::Offload<sx::OnHost, sx::OnDevice>>);
static_assert(same<ds::offload_param<ds::nvme>, sx::Offload<sx::OnNvme, sx::OnDevice>>);
static_assert(same<ds::offload_optimizer<ds::cpu>, sx::Offload<sx::OnDevice, sx::OnHost>>);
static_assert(same<ds::offload_optimizer<ds::nvme>, sx::Offload<sx::OnDevice, sx::OnNvme>>);
static_assert(same<ds::offload<ds::none, ds::none>, sx::OffloadNone>);
static_assert(same<ds::offload<ds::cpu, ds::cpu>, fsdp::offload_params<true>>);
static_assert(same<ds::offload<ds::nvme, ds::nvme>, sx::Offload<sx::OnNvme, sx::OnNvme>>);
static_assert(same<ds::offload<ds::cpu, ds::nvme_by<1 << 16>>,
                   sx::Offload<sx::OnHost, sx::OnNvmeBy<1 << 16>>>);
static_assert(same<ds::offload_optimizer<ds::cpu_ratio<3, 10>>,
                   sx::Offload<sx::OnDevice, sx::Partly<3, 10>>>);
static_assert(same<sx::StrategyOf<ds::ZeroStage<3>, ds::offload<ds::cpu, ds::cpu>>,
                   sx::StrategyOf<fsdp::FULL_SHARD, fsdp::offload_params<true>>>);

// One strategy in three spellings.
static_assert(
    same<sx::StrategyOf<fsdp::FULL_SHARD, fsdp::BACKWARD_PRE, fsdp::precision<sx::bf16, sx::bf16>>,
         sx::StrategyOf<ds::precision<sx::bf16, sx::bf16>, ds::ZeroStage<3>>>);
static_assert(same<sx::StrategyOf<sx::MixedPrecision<sx::bf16, sx::bf16>>,
                   sx::StrategyOf<ds::precision<sx::bf16, sx::bf16>, ds::ZeroStage<3>>>);

// The guide's three rows, and the modes around them.
using Pure = sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>;
static_assert(same<fsdp::precision<sx::bf16>, Pure>);
static_assert(same<fsdp::precision<sx::bf16, sx::bf16>, sx::MixedPrecision<sx::bf16, sx::bf16>>);
static_assert(same<ds::precision<sx::bf16, sx::bf16>, sx::MixedPrecision<sx::bf16, sx::bf16>>);
static_assert(same<fsdp::precision<sx::fp32>, sx::FullPrecision>);
static_assert(same<fsdp::precision<sx::fp32, sx::fp16>, sx::MixedPrecision<sx::fp16, sx::fp16>>);
static_assert(same<ds::precision<sx::bf16>, sx::FullPrecision>);  // always prepared in fp32
static_assert(same<ds::precision<sx::fp16, sx::fp16>, sx::MixedPrecision<sx::fp16, sx::fp16>>);
static_assert(
    same<ds::precision<sx::bf16, sx::bf16, sx::fp32>, sx::MixedPrecision<sx::bf16, sx::fp32>>);
static_assert(same<ds::master_weights_and_grads<sx::bf16, sx::bf16>, Pure>);
static_assert(same<ds::master_weights_and_grads<sx::fp16>,
                   sx::Precision<sx::fp16, sx::fp16, sx::fp16, sx::fp32>>);
static_assert(same<fsdp::mixed_precision<sx::fp32, sx::bf16, sx::fp32>,
                   sx::MixedPrecision<sx::bf16, sx::fp32>>);
static_assert(same<fsdp::mixed_precision<sx::bf16, sx::fp32>,
                   sx::Precision<sx::bf16, sx::fp32, sx::fp32, sx::bf16>>);

// Reduced gradients are kept in the wider of storage and reduce.
static_assert(same<Pure::gradient, sx::bf16>);
static_assert(same<sx::MixedPrecision<sx::bf16, sx::bf16>::gradient, sx::fp32>);
static_assert(same<sx::Precision<sx::bf16, sx::bf16, sx::fp32, sx::bf16>::gradient, sx::fp32>);

TEST_CASE("DeepSpeed's dynamic loss scale tolerates one overflow, PyTorch's none") {
  sx::DynamicLossScale::Scaler deepspeed{ds::dynamic_loss_scale()}, torch{{}};
  CHECK(deepspeed.scale() == 65536);
  deepspeed.update(false);
  torch.update(false);
  CHECK(deepspeed.scale() == 65536);
  CHECK(torch.scale() == 32768);
  deepspeed.update(false);
  CHECK(deepspeed.scale() == 32768);
  for (int step = 0; step < 999; ++step) deepspeed.update(true);
  CHECK(deepspeed.scale() == 32768);
  deepspeed.update(true);  // grows, and is patient again
  CHECK(deepspeed.scale() == 65536);
  deepspeed.update(false);
  CHECK(deepspeed.scale() == 65536);
  for (int step = 0; step < 1999; ++step) torch.update(true);
  CHECK(torch.scale() == 32768);
  torch.update(true);
  CHECK(torch.scale() == 65536);
}

TEST_CASE("a dynamic scale stops at its least, and then says so") {
  sx::DynamicLossScale::Scaler scaler{
      {.initial_scale = 4, .backoff_factor = 0.25f, .least_scale = 2}};
  scaler.update(false);
  CHECK(scaler.scale() == 2);
  CHECK_THROWS_WITH_AS(scaler.update(false),
                       "gradients are not finite at the least loss scale, 2.000000: the loss "
                       "itself diverges",
                       sx::Error);
  CHECK(scaler.scale() == 2);
}

template <class Policy>
void refuse(typename Policy::Options options) {
  CHECK_THROWS_AS(Policy::check(options), sx::ConfigError);
}
TEST_CASE("scales and clips out of range are refused") {
  using Dynamic = sx::DynamicLossScale;
  refuse<sx::StaticLossScale>({.scale = 0});
  refuse<sx::StaticLossScale>({.scale = std::numeric_limits<float>::infinity()});
  refuse<sx::StaticLossScale>({.scale = std::numeric_limits<float>::quiet_NaN()});
  refuse<Dynamic>({.initial_scale = 0.5f});
  refuse<Dynamic>({.initial_scale = std::numeric_limits<float>::infinity()});
  refuse<Dynamic>({.growth_factor = 0.5f});
  refuse<Dynamic>({.backoff_factor = 1});
  refuse<Dynamic>({.backoff_factor = 0});
  refuse<Dynamic>({.growth_interval = 0});
  refuse<Dynamic>({.hysteresis = 0});
  refuse<Dynamic>({.least_scale = 0});
  CHECK_NOTHROW(Dynamic::check({}));
  CHECK_THROWS_AS(sx::ClipNorm::check({.max_norm = 0}), sx::ConfigError);
  CHECK_THROWS_AS(sx::ClipNorm::check({.max_norm = std::numeric_limits<float>::quiet_NaN()}),
                  sx::ConfigError);
  CHECK_THROWS_AS(sx::ClipValue::check({.max_value = -1}), sx::ConfigError);
  CHECK_NOTHROW(sx::ClipNorm::check({}));
}

}  // namespace
