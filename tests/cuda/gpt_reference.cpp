// SPDX-License-Identifier: Apache-2.0
#include "gpt_reference.hpp"

#include <shardexpr/device/cpu.hpp>
#include <shardexpr/nn/cpu/blas.hpp>

#include <cstddef>

#include "gpt_run.hpp"

namespace gpu {

Outcome train_gpt_on_cpu(Mode mode, const sx::GptConfig& config, std::size_t world,
                         std::size_t steps) {
  using sx::bf16;
  using sx::Gpt;
  using sx::NoShard;
  sx::nn::use_one_blas_thread();
  switch (mode) {
    case Mode::whole_fp32:
      return train_gpt<sx::Sharded<Gpt, NoShard>>(config, world, steps);
    case Mode::mixed_bf16:
      return train_gpt<sx::Sharded<Gpt, NoShard, sx::MixedPrecision<bf16, sx::fp32>>>(config, world,
                                                                                      steps);
    case Mode::mixed_fp16:
      return train_gpt<
          sx::Sharded<Gpt, NoShard, sx::MixedPrecision<sx::fp16, sx::fp32>, sx::StaticLossScale>>(
          config, world, steps);
    case Mode::pure_bf16:
      return train_gpt<sx::Sharded<Gpt, NoShard, sx::Precision<bf16, bf16, bf16, bf16>>>(
          config, world, steps);
  }
  return {};
}

}  // namespace gpu
