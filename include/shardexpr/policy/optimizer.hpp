// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

namespace shardexpr {

/// An optimizer keeps `moments` buffers as long as the parameters and is given its rates at run
/// time as `Options`. How it updates an element is an `Update` (optim/), either nested in the
/// policy or, for ours, a specialization of `optimizer_update`.
template <class P>
concept OptimizerPolicy = OnAxis<P, axis::Optimizer> && requires {
  { P::moments } -> std::convertible_to<std::size_t>;
  typename P::Options;
};

/// Adam with decoupled weight decay: two moments an element.
/// Source:  Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
struct AdamW {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 2;
  struct Options {
    float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f;
  };
};

/// Gradient descent: no state.
struct Sgd {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 0;
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
