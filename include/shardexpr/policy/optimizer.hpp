// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

namespace shardexpr {

class AdamWUpdate;  // optim/adamw.hpp
class SgdUpdate;    // optim/sgd.hpp

/// An optimizer keeps `moments` buffers as long as the parameters, is given its rates at run time
/// as `Options`, and updates an element by `Update`, which is made of the options and the number of
/// the step (optim/update.hpp).
template <class P>
concept OptimizerPolicy = OnAxis<P, axis::Optimizer> && requires(typename P::Options options) {
  { P::moments } -> std::convertible_to<std::size_t>;
  { options.learning_rate } -> std::convertible_to<float>;
  typename P::Update;
};

/// Adam with decoupled weight decay: two moments an element.
/// Source:  Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
struct AdamW {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 2;
  using Update = AdamWUpdate;
  struct Options {
    float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f;
  };
};

/// Gradient descent: no state.
struct Sgd {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 0;
  using Update = SgdUpdate;
  struct Options {
    float learning_rate = 1e-2f, weight_decay = 0;
  };
};

template <>
struct axis_traits<axis::Optimizer> {
  template <class P>
  static constexpr bool accepts = OptimizerPolicy<P>;
  using standard = AdamW;
};

}  // namespace shardexpr
