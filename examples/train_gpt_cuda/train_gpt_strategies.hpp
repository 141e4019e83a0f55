// SPDX-License-Identifier: Apache-2.0
#pragma once
// The strategies that train_gpt_cuda is compiled with. An axis left out takes its default; what
// makes no sense does not compile, with one line that says why. A header of this name in a folder
// that comes first replaces it.
#include <shardexpr/cuda.cuh>

namespace strategies {
using namespace shardexpr;  // policies are written without sx::

template <class... Policies>
using OnGpu = Sharded<Gpt, Policies..., ClipNorm, On<Cuda>>;
using Mixed = MixedPrecision<bf16, fp32>;

using strategy_mixed_bf16 = OnGpu<FullShard, Mixed>;
using strategy_full_shard = OnGpu<FullShard>;
using strategy_shard_grad_op = OnGpu<ShardGradOp>;
using strategy_no_shard = OnGpu<NoShard>;
using strategy_pure_bf16 = OnGpu<FullShard, Precision<bf16, bf16, bf16, bf16>, RoundStochastic>;
using strategy_offload_all = OnGpu<FullShard, OffloadAll, Mixed>;
using strategy_optimizer_on_nvme = OnGpu<FullShard, Offload<OnDevice, OnNvme>, Mixed>;
}  // namespace strategies

#define TRAIN_GPT_EACH_STRATEGY(ENTRY) \
  ENTRY(mixed_bf16)                    \
  ENTRY(full_shard)                    \
  ENTRY(shard_grad_op) ENTRY(no_shard) ENTRY(pure_bf16) ENTRY(offload_all) ENTRY(optimizer_on_nvme)

// Those that --trace knows; left out, all. Each is compiled twice.
#define TRAIN_GPT_EACH_TRACED(ENTRY) ENTRY(mixed_bf16) ENTRY(offload_all)
