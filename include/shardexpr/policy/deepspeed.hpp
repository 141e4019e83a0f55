// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <type_traits>

/// DeepSpeed's words for the policies of this library: aliases, so that both ways to write a
/// strategy are one type.
///
///   namespace ds = shardexpr::deepspeed;
///   sx::Sharded<Gpt, ds::ZeroStage<3>, ds::gradient_clipping, ds::precision<sx::bf16, sx::bf16>>
namespace shardexpr::deepspeed {

namespace detail {
template <std::size_t Stage>
struct zero {
  static_assert(Stage <= 3, "ZeroStage is 0, 1, 2 or 3");
};
template <>
struct zero<0> : std::type_identity<NoShard> {};
template <>
struct zero<1> : std::type_identity<ShardOptimizer> {};
template <>
struct zero<2> : std::type_identity<ShardGradOp> {};
template <>
struct zero<3> : std::type_identity<FullShard> {};
template <class Mixed>
using or_fp32 = std::conditional_t<std::is_void_v<Mixed>, fp32, Mixed>;
}  // namespace detail

/// zero_optimization.stage.
template <std::size_t Stage>
using ZeroStage = typename detail::zero<Stage>::type;
/// mics_shard_size.
template <std::size_t S>
using MiCS = HybridShard<S>;
/// zero_hpz_partition_size.
template <std::size_t K>
using zero_hpz_partition_size = ReshardTo<K>;

// Of stage 3, in elements.
template <std::size_t N>
using stage3_param_persistence_threshold = PersistBelow<N>;
template <std::size_t N>
using stage3_max_live_parameters = MaxLive<N>;
template <std::size_t N>
using stage3_prefetch_bucket_size = PrefetchBucket<N>;
template <std::size_t N>
using stage3_max_reuse_distance = ReuseWithin<N>;

// What `device` says in the blocks offload_param and offload_optimizer.
using none = OnDevice;
using cpu = OnHost;
using nvme = OnNvme;
/// Of the optimizer: `nvme` with sub_group_size, a multiple of 32768.
template <std::size_t SubGroupSize>
using nvme_by = OnNvmeBy<SubGroupSize>;
/// Of the optimizer: `cpu` with a ratio of Numerator/Denominator; theirs is of whole sub-groups.
template <std::size_t Numerator, std::size_t Denominator>
using cpu_ratio = Partly<Numerator, Denominator>;
/// offload_optimizer alone, offload_param alone, and both blocks in one configuration.
template <class Device>
using offload_optimizer = Offload<none, Device>;
template <class Device>
using offload_param = Offload<Device, none>;
template <class Param, class Optimizer>
using offload = Offload<Param, Optimizer>;

/// zero_quantized_weights, zero_quantized_gradients; theirs choose the size of a block by the
/// tensor.
using zero_quantized_weights = QuantizedWeights;
using zero_quantized_gradients = QuantizedGradients;

/// gradient_clipping above 0; the value is `Options::clipping.max_norm`.
using gradient_clipping = ClipNorm;

/// What trains under a `bf16` or `fp16` block; void is neither. Whatever the dtype a model was
/// loaded in, parameters are kept and updated in fp32. `communication_data_type` is the dtype of
/// reductions, by default the block's; what they leave is added up in fp32, where DeepSpeed's
/// `grad_accum_dtype` is 16-bit by default.
template <class Loaded, class Mixed = void, class CommunicationDataType = detail::or_fp32<Mixed>>
using precision = Precision<fp32, detail::or_fp32<Mixed>, CommunicationDataType, fp32>;
/// bf16_master_weights_and_grads, fp16_master_weights_and_grads; with `States` also
/// bf16_optimizer_states. DeepSpeed has them only with its CPU optimizer offloaded.
template <class Dtype, class States = fp32>
using master_weights_and_grads = Precision<Dtype, Dtype, Dtype, States>;

/// The dynamic loss scale of an `fp16` block that leaves its values out, for `Options::loss_scale`.
constexpr DynamicLossScale::Options dynamic_loss_scale() {
  return {.initial_scale = 65536,
          .growth_factor = 2,
          .backoff_factor = 0.5f,
          .growth_interval = 1000,
          .hysteresis = 2,
          .least_scale = 1};
}

}  // namespace shardexpr::deepspeed
