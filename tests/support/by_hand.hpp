// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <vector>

#include "toy.hpp"

/// The toy's units called one by one, on activations of our own: what a program with its own
/// control flow does. Unit 0 is the encoder, the last one the decoder.
class ByHand {
 public:
  ByHand(const toy::Config& config, std::size_t units)
      : config_{config},
        hidden_(units - 1, std::vector<float>(config.rows * config.width)),
        d_hidden_{hidden_},
        active_{hidden_},
        d_active_(config.rows * config.width),
        error_(config.rows * config.inputs) {}

  float loss = 0;
  float d_loss = 1;

  template <class U, class D, class W>
  void forward(const sx::Context<D>& on, const toy::Batch& batch, std::size_t u, const W& w) {
    sx::Forward<U, D, float> p{on, config_, batch};
    p.w = w;
    bind_inputs(p, u);
    if constexpr (requires { p.out.loss; })
      p.out.loss = {&loss, {}};
    else
      p.out.h = hidden(hidden_[u]);
    U::forward(p);
  }
  template <class U, class D, class W, class G>
  void backward(const sx::Context<D>& on, const toy::Batch& batch, std::size_t u, const W& w,
                const G& dw) {
    sx::Backward<U, D, float> p{on, config_, batch};
    p.w = w;
    p.dw = dw;
    bind_inputs(p, u);
    if constexpr (requires { p.din.h; }) p.din.h = hidden(d_hidden_[u - 1]);
    if constexpr (requires { p.dout.loss; })
      p.dout.loss = {{&d_loss, {}}};
    else
      p.dout.h = {hidden(d_hidden_[u])};
    U::backward(p);
  }

 private:
  template <class Pass>
  void bind_inputs(Pass& p, std::size_t u) {
    if constexpr (requires { p.in.h; }) p.in.h = {hidden(hidden_[u - 1])};
    if constexpr (requires { p.saved.active; }) {
      p.saved.active = hidden(active_[u]);
      p.scratch.d_active = hidden(d_active_);
    }
    if constexpr (requires { p.saved.error; })
      p.saved.error = {error_.data(), sx::shape(config_.rows, config_.inputs)};
  }
  sx::Tensor<float> hidden(std::vector<float>& values) const {
    return {values.data(), sx::shape(config_.rows, config_.width)};
  }

  toy::Config config_;
  std::vector<std::vector<float>> hidden_, d_hidden_, active_;
  std::vector<float> d_active_, error_;
};
