// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "frozen_toy.hpp"

// The toy with parameter groups: biases do not decay, and the encoder's weight, with its tie, has a
// group of its own.
namespace grouped_toy {

using frozen_toy::Variant;
using toy::Config;

struct Encoder : Variant<Encoder, toy::Encoder> {
  static constexpr bool trains_weight = true, trains_bias = true;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Encoder::describe(c);
    return {sx::in_group(2, specs.weight), sx::without_decay(specs.bias)};
  }
};
struct Mixer : Variant<Mixer, toy::Mixer> {
  static constexpr bool trains_weight = true, trains_bias = true;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Mixer::describe(c);
    return {specs.weight, sx::without_decay(specs.bias)};
  }
};
struct Decoder : Variant<Decoder, toy::Decoder> {
  static constexpr bool trains_weight = true, trains_bias = true;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {sx::without_decay(toy::Decoder::describe(c).bias), sx::tied<Encoder>("weight")};
  }
};
struct Autoencoder {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<Encoder, sx::Repeat<Mixer, &Config::depth>, Decoder>;
};

}  // namespace grouped_toy
