// SPDX-License-Identifier: Apache-2.0
#pragma once
// A GPT that the Cpu trains, for what a GPU trained to be compared with. Compiled apart: nvcc must
// not see Eigen.
#include <shardexpr/nn/gpt_config.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gpu {

/// What a run leaves.
struct Outcome {
  std::vector<double> losses, norms;
  std::vector<float> weights;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

enum class Mode { whole_fp32, mixed_bf16, mixed_fp16, pure_bf16 };

inline constexpr float gpt_learning_rate = 1e-3f;
inline constexpr std::uint64_t gpt_seed = 1234;
inline constexpr float gpt_loss_scale = 1024;

/// Steps of NoShard on the Cpu over `world` ranks, on the batches of
/// tests/support/formula_batch.hpp.
Outcome train_gpt_on_cpu(Mode mode, const shardexpr::GptConfig& config, std::size_t world,
                         std::size_t steps);

}  // namespace gpu
