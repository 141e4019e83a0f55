// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/nn/gpt_config.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

/// One rank's micro-batch of a step, counted from 0, by the formula of
/// tests/fixtures/gpt_fixture.py.
inline void formula_batch(const shardexpr::GptConfig& c, std::size_t world, std::size_t step,
                          std::size_t rank, std::vector<std::int32_t>& tokens,
                          std::vector<std::int32_t>& targets) {
  tokens.clear();
  targets.clear();
  for (std::size_t row = 0; row < c.batch; ++row) {
    const std::uint64_t h = shardexpr::mix((step * world + rank) * c.batch + row);
    std::uint64_t token = (h >> 33) % c.vocabulary;
    for (std::size_t i = 0; i < c.context; ++i) {
      tokens.push_back(static_cast<std::int32_t>(token));
      token = (3 * token + 7 + (shardexpr::mix(h + i) >> 33) % 2) % c.vocabulary;
      targets.push_back(static_cast<std::int32_t>(token));
    }
  }
}
