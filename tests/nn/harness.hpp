// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/model/pass.hpp>
#include <shardexpr/nn/gpt.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

// Runs units on one CPU without the engine: every parameter whole, every buffer its own.
namespace harness {

namespace sx = shardexpr;
using sx::Cpu;
using sx::Tensor;

inline Cpu& device() {
  static Cpu cpu;
  return cpu;
}
inline sx::Context<Cpu> context() {
  static Cpu::Stream stream;
  return {device(), stream};
}

/// A tensor that owns its memory.
template <class T>
struct Owned {
  Cpu::Buffer<T> buffer;
  Tensor<T> view;

  explicit Owned(sx::Shape shape)
      : buffer{device().allocate<T>(shape.count(), sx::Purpose::other)},
        view{buffer.data(), shape} {}
  operator Tensor<T>() const { return view; }
  operator Tensor<const T>() const { return view; }
  T& operator[](std::size_t i) const { return view[i]; }
  std::size_t count() const { return view.count(); }
};

/// Fills with numbers of deviation `spread` about `mean`.
template <class T, class A = sx::Accumulate<T>>
void randomize(Tensor<T> t, const char* name, A mean = 0, A spread = 1) {
  for (std::size_t i = 0; i < t.count(); ++i)
    t[i] = static_cast<T>(
        mean + spread * static_cast<A>(sx::initial_value(1, sx::hash_of(name), i, sx::normal(1))));
}
template <class T>
Owned<T> random(sx::Shape shape, const char* name, sx::Accumulate<T> mean = 0,
                sx::Accumulate<T> spread = 1) {
  Owned<T> t{shape};
  randomize<T>(t, name, mean, spread);
  return t;
}

template <class T, class G = T>
struct Parameter {
  sx::Spec spec;
  Owned<T> w;
  Owned<G> dw;
};
template <class T, class G = T>
using Parameters = std::map<std::string, Parameter<T, G>>;

/// One unit with all that its passes need.
template <class Unit, class T, class G = T>
class UnitRun {
 public:
  using Config = typename Unit::Config;
  using Batch = typename Unit::Batch;

  UnitRun(const Config& config, std::size_t index, Parameters<T, G>& parameters) : config_{config} {
    for (const sx::Spec& spec : sx::specs_of<Unit>(config)) {
      const std::string name = sx::parameter_name<Unit>(index, spec);
      if (!spec.is_tied())
        parameters.emplace(name, Parameter<T, G>{spec, Owned<T>{spec.shape}, Owned<G>{spec.shape}});
      parameters_.push_back(&parameters.at(name));
    }
    out = allocate(sx::detail::output_buffers<Unit, T>(config));
    dout = allocate(sx::detail::output_buffers<Unit, T>(config));
    saved_ = allocate(sx::detail::saved_buffers<Unit, T, Cpu>(config));
    scratch_ = allocate(sx::detail::scratch_buffers<Unit, T, Cpu>(config));
  }

  template <class In>
  void forward(const Batch& batch, const In& in) {
    using sx::detail::from_array;
    sx::Forward<Unit, Cpu, T> pass{context(), config_, batch};
    pass.w = weights();
    pass.in = from_array<decltype(pass.in)>(in);
    pass.out = from_array<decltype(pass.out)>(out);
    pass.saved = from_array<decltype(pass.saved)>(saved_);
    pass.scratch = from_array<decltype(pass.scratch)>(scratch_);
    Unit::forward(pass);
  }

  template <class In>
  void backward(const Batch& batch, const In& in, const In& din) {
    using sx::detail::from_array;
    sx::Backward<Unit, Cpu, T, G> pass{context(), config_, batch};
    pass.w = weights();
    pass.dw = gradients();
    pass.in = from_array<decltype(pass.in)>(in);
    pass.dout = from_array<decltype(pass.dout)>(dout);
    pass.din = from_array<decltype(pass.din)>(din);
    pass.saved = from_array<decltype(pass.saved)>(saved_);
    pass.scratch = from_array<decltype(pass.scratch)>(scratch_);
    Unit::backward(pass);
  }

  static constexpr std::size_t outputs =
      sx::detail::chars_in<typename Unit::template Output<sx::detail::char_of, T>>;
  std::array<sx::detail::AnyTensor, outputs> out, dout;

 private:
  static constexpr std::size_t count = sx::detail::member_count<Unit>;
  using SavedChars = sx::SavedOf<Unit, sx::detail::char_of, T>;
  using ScratchChars = sx::ScratchOf<Unit, sx::detail::char_of, T>;

  template <std::size_t N>
  std::array<sx::detail::AnyTensor, N> allocate(const std::array<sx::detail::AnyBuffer, N>& specs) {
    std::array<sx::detail::AnyTensor, N> tensors{};
    for (std::size_t i = 0; i < N; ++i) {
      memory_.push_back(device().allocate<char>(specs[i].shape.count() * specs[i].element_bytes,
                                                sx::Purpose::other));
      // Nothing may rely on zeroed memory: the engine's arena is not.
      std::fill_n(memory_.back().data(), memory_.back().count(), char{0x7f});
      tensors[i] = {memory_.back().data(), specs[i].shape};
    }
    return tensors;
  }
  auto weights() const {
    std::array<Tensor<const T>, count> w;
    for (std::size_t i = 0; i < count; ++i) w[i] = parameters_[i]->w;
    return sx::detail::from_array<typename Unit::template Params<Tensor<const T>>>(w);
  }
  auto gradients() const {
    std::array<Tensor<G>, count> dw;
    for (std::size_t i = 0; i < count; ++i) dw[i] = parameters_[i]->dw;
    return sx::detail::from_array<typename Unit::template Params<Tensor<G>>>(dw);
  }

  Config config_;
  std::vector<Parameter<T, G>*> parameters_;
  std::vector<Cpu::Buffer<char>> memory_;
  std::array<sx::detail::AnyTensor, sx::detail::chars_in<SavedChars>> saved_;
  std::array<sx::detail::AnyTensor, sx::detail::chars_in<ScratchChars>> scratch_;
};

/// A whole GPT on one rank, with gradients of parameters in G.
template <class T, class G = T>
class GptRun {
 public:
  using A = sx::Accumulate<T>;

  explicit GptRun(const sx::GptConfig& config) : embedding_{config, 0, parameters} {
    for (std::size_t i = 0; i < config.layers; ++i) blocks_.emplace_back(config, i, parameters);
    head_.emplace(config, 0, parameters);
  }

  /// Weights as a training job starts with them.
  void initialize(std::uint64_t seed) {
    for (auto& [name, p] : parameters)
      for (std::size_t i = 0; i < p.w.count(); ++i)
        p.w[i] = static_cast<T>(sx::initial_value(seed, sx::hash_of(name), i, p.spec.init));
  }
  /// Weights large enough that every term of every gradient shows.
  void randomize() {
    for (auto& [name, p] : parameters)
      harness::randomize<T>(p.w, name.c_str(), static_cast<A>(p.spec.init.mean), A(0.3));
  }

  A forward(const sx::GptBatch& batch) {
    embedding_.forward(batch, none);
    auto x = embedding_.out;
    for (auto& block : blocks_) {
      block.forward(batch, x);
      x = block.out;
    }
    head_->forward(batch, x);
    return *reinterpret_cast<A*>(head_->out[0].data);
  }

  /// What the last block of the last forward handed to the head.
  Tensor<const T> hidden() const {
    const sx::detail::AnyTensor& x = blocks_.back().out[0];
    return {reinterpret_cast<const T*>(x.data), x.shape};
  }

  void backward(const sx::GptBatch& batch, A dloss) {
    *reinterpret_cast<A*>(head_->dout[0].data) = dloss;
    auto& last = blocks_.back();
    head_->backward(batch, last.out, last.dout);
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      if (i > 0)
        blocks_[i].backward(batch, blocks_[i - 1].out, blocks_[i - 1].dout);
      else
        blocks_[i].backward(batch, embedding_.out, embedding_.dout);
    }
    embedding_.backward(batch, none, none);
  }

  void zero_gradients() {
    for (auto& [name, p] : parameters)
      for (G& g : p.dw.view.span()) g = G{};
  }

  Parameters<T, G> parameters;

 private:
  static constexpr std::array<sx::detail::AnyTensor, 0> none{};

  UnitRun<sx::gpt::Embedding, T, G> embedding_;
  std::vector<UnitRun<sx::gpt::Block, T, G>> blocks_;
  std::optional<UnitRun<sx::gpt::Head, T, G>> head_;
};

/// Deterministic tokens, without structure.
struct Tokens {
  std::vector<std::int32_t> tokens, targets;

  explicit Tokens(const sx::GptConfig& c, std::uint64_t seed = 5) {
    for (std::size_t i = 0; i < c.tokens(); ++i) {
      tokens.push_back(static_cast<std::int32_t>((sx::mix(seed + 2 * i) >> 33) % c.vocabulary));
      targets.push_back(
          static_cast<std::int32_t>((sx::mix(seed + 2 * i + 1) >> 33) % c.vocabulary));
    }
  }
  sx::GptBatch batch() const { return {tokens.data(), targets.data()}; }
};

/// d objective / d x by a central difference of fourth order: in double the error is near 1e-12.
template <class Objective>
double slope(double& x, Objective&& objective, double h = 1e-3) {
  const double at = x;
  const auto value = [&](double step) {
    x = at + step;
    return objective();
  };
  const double near = value(h) - value(-h);
  const double far = value(2 * h) - value(-2 * h);
  x = at;
  return (8 * near - far) / (12 * h);
}

/// The largest difference between `gradient` and finite differences over every `stride`-th element,
/// relative to the larger of the element and a thousandth of the largest one.
template <class Objective>
double gradient_error(Tensor<double> x, Tensor<double> gradient, Objective&& objective,
                      std::size_t stride = 1) {
  double largest = 0;
  for (double g : gradient.span()) largest = std::max(largest, std::abs(g));
  double worst = largest > 0 ? 0 : 1;  // a gradient that is zero everywhere tests nothing
  for (std::size_t i = 0; i < x.count(); i += stride) {
    const double expected = slope(x[i], objective);
    const double scale = std::max({std::abs(expected), std::abs(gradient[i]), 1e-3 * largest});
    const double error = std::abs(gradient[i] - expected) / scale;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  return worst;
}

}  // namespace harness
