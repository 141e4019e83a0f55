// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include "toy.hpp"

// The toy with most of it frozen, in every way: whole units at the start and in the middle, one of
// two parameters, and a parameter that two units share.
namespace frozen_toy {

using toy::Config;

/// `Base` under another description. Counts its passes, and refuses gradients of what it froze.
template <class Self, class Base>
struct Variant : Base {
  static inline std::atomic<std::size_t> forwards{0}, backwards{0};

  template <class D, class T>
  static void forward(const sx::Forward<Self, D, T>& p) {
    ++forwards;
    sx::Forward<Base, D, T> q{p.context, p.config, p.batch};
    q.w = p.w;
    q.in = p.in;
    q.out = p.out;
    q.saved = p.saved;
    q.scratch = p.scratch;
    Base::forward(q);
  }
  template <class D, class T, class G>
  static void backward(const sx::Backward<Self, D, T, G>& p) {
    ++backwards;
    check(p.dw.weight.data, Self::trains_weight, "weight");
    check(p.dw.bias.data, Self::trains_bias, "bias");
    sx::Backward<Base, D, T, G> q{p.context, p.config, p.batch};
    q.w = p.w;
    q.dw = p.dw;
    q.in = p.in;
    q.dout = p.dout;
    q.din = p.din;
    q.saved = p.saved;
    q.scratch = p.scratch;
    Base::backward(q);
  }

 private:
  static void check(const void* gradient, bool trains, const char* name) {
    if ((gradient != nullptr) != trains)
      throw std::logic_error(std::string{name} + (trains ? " has no gradient" : " has a gradient"));
  }
};

struct FrozenEncoder : Variant<FrozenEncoder, toy::Encoder> {
  static constexpr bool trains_weight = false, trains_bias = false;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Encoder::describe(c);
    return {sx::frozen(specs.weight), sx::frozen(specs.bias)};
  }
};
/// Below the first unit that trains: no backward.
struct FrozenMixer : Variant<FrozenMixer, toy::Mixer> {
  static constexpr bool trains_weight = false, trains_bias = false;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Mixer::describe(c);
    return {sx::frozen(specs.weight), sx::frozen(specs.bias)};
  }
};
struct BiasMixer : Variant<BiasMixer, toy::Mixer> {
  static constexpr sx::Name prefix = "bias_mixer.";
  static constexpr bool trains_weight = false, trains_bias = true;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Mixer::describe(c);
    return {sx::frozen(specs.weight), specs.bias};
  }
};
/// Above it: its backward hands on what the unit before needs.
struct PassingMixer : Variant<PassingMixer, toy::Mixer> {
  static constexpr sx::Name prefix = "passing_mixer.";
  static constexpr bool trains_weight = false, trains_bias = false;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Mixer::describe(c);
    return {sx::frozen(specs.weight), sx::frozen(specs.bias)};
  }
};
struct WeightMixer : Variant<WeightMixer, toy::Mixer> {
  static constexpr sx::Name prefix = "weight_mixer.";
  static constexpr bool trains_weight = true, trains_bias = false;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    const auto specs = toy::Mixer::describe(c);
    return {specs.weight, sx::frozen(specs.bias)};
  }
};
/// Its weight is the encoder's, so frozen here too.
struct TiedDecoder : Variant<TiedDecoder, toy::Decoder> {
  static constexpr bool trains_weight = false, trains_bias = true;
  static constexpr Params<sx::Spec> describe(const Config& c) {
    return {toy::Decoder::describe(c).bias, sx::tied<FrozenEncoder>("weight")};
  }
};

struct Model {
  using Config = toy::Config;
  using Batch = toy::Batch;
  using Units = sx::Units<FrozenEncoder, sx::Repeat<FrozenMixer, &Config::depth>, BiasMixer,
                          PassingMixer, WeightMixer, TiedDecoder>;
};

/// Whether a parameter of the model is trained, by the name that `summon` gives.
inline bool is_trained(std::string_view name) {
  return name == "bias_mixer.bias" || name == "weight_mixer.weight" || name == "decoder.bias";
}

}  // namespace frozen_toy
