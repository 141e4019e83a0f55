// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <type_traits>

/// PyTorch FSDP's and Accelerate's words for the policies of this library: aliases, so that both
/// ways to write a strategy are one type.
///
///   using namespace shardexpr::fsdp;
///   sx::Sharded<Gpt, FULL_SHARD, BACKWARD_POST, precision<sx::bf16, sx::bf16>>
namespace shardexpr::fsdp {

// fsdp_sharding_strategy
using FULL_SHARD = FullShard;
using SHARD_GRAD_OP = ShardGradOp;
using NO_SHARD = NoShard;
/// `S` ranks share one copy: dim 1 of the device mesh.
template <std::size_t S>
using HYBRID_SHARD = HybridShard<S>;
template <std::size_t S>
using HYBRID_SHARD_ZERO2 = HybridShardGradOp<S>;

/// FSDP2's `reshard_after_forward=K`. True is FULL_SHARD, false SHARD_GRAD_OP.
template <std::size_t K>
using reshard_after_forward = ReshardTo<K>;

// fsdp_backward_prefetch, fsdp_forward_prefetch
using BACKWARD_PRE = BackwardPre;
using BACKWARD_POST = BackwardPost;
using NO_PREFETCH = BackwardNone;
template <bool On>
using forward_prefetch = std::conditional_t<On, ForwardPrefetch<1>, ForwardNone>;

// fsdp_auto_wrap_policy
template <class... Unit>
using TRANSFORMER_BASED_WRAP = WrapEach<Unit...>;
template <std::size_t MinNumParams>
using SIZE_BASED_WRAP = WrapBySize<MinNumParams>;
using NO_WRAP = WrapWhole;

/// fsdp_activation_checkpointing.
template <class... Unit>
using activation_checkpointing = Recompute<Unit...>;

/// fsdp_offload_params, FSDP's `CPUOffload(offload_params)`.
template <bool On>
using offload_params = std::conditional_t<On, OffloadAll, OffloadNone>;
/// FSDP2's `offload_policy`.
using CPUOffloadPolicy = OffloadAll;

using no_sync = ReduceAtEnd;
using sync_each_batch = ReduceEveryMicroBatch;

/// Accelerate: what a model loaded as `Loaded` trains in under `mixed_precision: Mixed`; void is
/// "no". Without mixed precision everything stays as loaded, the optimizer too. With it parameters
/// are upcast to fp32, and gradients are reduced in the 16-bit dtype.
template <class Loaded, class Mixed = void>
using precision =
    std::conditional_t<std::is_void_v<Mixed>, Precision<Loaded, Loaded, Loaded, Loaded>,
                       Precision<fp32, Mixed, Mixed, fp32>>;
/// torch's own `MixedPrecision(param_dtype, reduce_dtype)` over parameters of `Original`, which
/// nobody upcasts.
template <class Original, class ParamDtype, class ReduceDtype = ParamDtype>
using mixed_precision = Precision<Original, ParamDtype, ReduceDtype, Original>;

}  // namespace shardexpr::fsdp
