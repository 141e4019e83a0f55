// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/unit.hpp>
#include <shardexpr/nn/gpt_block.hpp>
#include <shardexpr/nn/gpt_config.hpp>
#include <shardexpr/nn/gpt_embedding.hpp>
#include <shardexpr/nn/gpt_head.hpp>

namespace shardexpr {

/// GPT-2 without dropout: parameters have the names and shapes of Hugging Face's GPT2LMHeadModel.
///
/// Source:  Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
struct Gpt {
  using Config = GptConfig;
  using Batch = GptBatch;
  using Units = shardexpr::Units<gpt::Embedding, Repeat<gpt::Block, &GptConfig::layers>, gpt::Head>;

  /// FLOPs of one step of one rank's micro-batch: forward, and twice that for backward. Counts what
  /// the units count.
  static constexpr double step_flops(const GptConfig& c) {
    return 3 * (static_cast<double>(c.layers) * gpt::Block::forward_flops(c) +
                gpt::Head::forward_flops(c));
  }
};

}  // namespace shardexpr
