// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/gpt_config.hpp>

#include <cstddef>
#include <optional>
#include <string>

namespace planner {

/// What was said of a model; what was not is given a value.
struct ModelWish {
  std::optional<double> parameters;
  std::optional<std::size_t> layers, embed, heads, vocabulary, context;
  std::string preset, config_file;
};

/// Elements of `Gpt`: a table of V x E, tied to the head, positions, and 12 E^2 + 13 E a block.
double parameters_of(const shardexpr::GptConfig& model);

/// The sizes that were wished for. A number of parameters is met as nearly as a width can that is a
/// multiple of a head: of 128 elements, or 64 below a width of 1024, unless heads are given.
///
/// Errors:  BadInput for wishes that do not go together, that say too little, or that are beyond
///          what can be counted.
shardexpr::GptConfig model_of(const ModelWish& wish, std::size_t batch);

}  // namespace planner
