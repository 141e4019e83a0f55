// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>

#include <map>
#include <string>
#include <vector>

/// fp32 values by the names of their parameters.
using Weights = std::map<std::string, std::vector<float>>;

/// What a trainer that stores fp32 holds, summoned: called on every rank.
template <class Trainer>
Weights weights_of(Trainer& trainer) {
  Weights weights;
  trainer.summon([&](const std::string& name, shardexpr::Tensor<const float> value) {
    weights[name].assign(value.data, value.data + value.count());
  });
  return weights;
}
