// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/option_check.hpp>
#include <shardexpr/policy/axis.hpp>

namespace shardexpr {

class AdamWUpdate;        // optim/adamw.hpp
class AdamUpdate;         // optim/adam.hpp
class SgdUpdate;          // optim/sgd.hpp
class SgdMomentumUpdate;  // optim/sgd_momentum.hpp
class LionUpdate;         // optim/lion.hpp
class AdagradUpdate;      // optim/adagrad.hpp

/// An optimizer keeps `moments` buffers as long as the parameters, zero at first, is given its
/// rates at run time as `Options`, and updates an element by `Update`, which is made of the options
/// and the number of the step (optim/update.hpp).
///
/// It may have `static void check(const Options&)`, which throws ConfigError for options that make
/// no sense. Trainers call it when they are made, and when a rate is set.
template <class P>
concept OptimizerPolicy = OnAxis<P, axis::Optimizer> && requires(typename P::Options options) {
  { P::moments } -> std::convertible_to<std::size_t>;
  { options.learning_rate } -> std::convertible_to<float>;
  typename P::Update;
};

namespace detail {

template <class Options>
void check_adam(const char* name, const Options& o) {
  const OptionCheck check{name};
  check.at_least_zero("learning_rate", o.learning_rate);
  check.below_one("beta1", o.beta1);
  check.below_one("beta2", o.beta2);
  check.above_zero("epsilon", o.epsilon);
  check.at_least_zero("weight_decay", o.weight_decay);
}

}  // namespace detail

/// Adam with decoupled weight decay: two moments an element. `torch.optim.AdamW`.
/// Source:  Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
struct AdamW {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 2;
  using Update = AdamWUpdate;
  /// What is given at run time.
  struct Options {
    float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f;
  };
  static void check(const Options& o) { detail::check_adam("AdamW", o); }
};

/// Adam; weight decay is an L2 penalty, added to the gradient. `torch.optim.Adam`.
/// Source:  Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
struct Adam {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 2;
  using Update = AdamUpdate;
  /// What is given at run time.
  struct Options {
    float learning_rate = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 0;
  };
  static void check(const Options& o) { detail::check_adam("Adam", o); }
};

/// Gradient descent: no state. `torch.optim.SGD` without momentum.
struct Sgd {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 0;
  using Update = SgdUpdate;
  /// What is given at run time.
  struct Options {
    float learning_rate = 1e-2f, weight_decay = 0;
  };
  static void check(const Options& o) {
    const OptionCheck check{"Sgd"};
    check.at_least_zero("learning_rate", o.learning_rate);
    check.at_least_zero("weight_decay", o.weight_decay);
  }
};

/// Gradient descent with a running sum of gradients: one moment. `torch.optim.SGD` with momentum.
/// Source:  Sutskever et al., On the importance of initialization and momentum in deep learning,
///          ICML 2013, section 2, in PyTorch's form: the rate is outside the running sum.
struct SgdMomentum {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 1;
  using Update = SgdMomentumUpdate;
  /// What is given at run time.
  struct Options {
    float learning_rate = 1e-2f, momentum = 0.9f, dampening = 0;
    bool nesterov = false;
    float weight_decay = 0;
  };
  static void check(const Options& o) {
    const OptionCheck check{"SgdMomentum"};
    check.at_least_zero("learning_rate", o.learning_rate);
    check.require(o.momentum > 0 && o.momentum < 1, "momentum", o.momentum,
                  "one in (0, 1), or use Sgd, which keeps no moment");
    check.below_one("dampening", o.dampening);
    check.require(!o.nesterov || o.dampening == 0, "dampening", o.dampening,
                  "0 with nesterov, which is defined for nothing else");
    check.at_least_zero("weight_decay", o.weight_decay);
  }
};

/// The sign of an interpolated gradient, every element by the same step: one moment.
/// Source:  Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, algorithm 2.
struct Lion {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 1;
  using Update = LionUpdate;
  /// What is given at run time.
  struct Options {
    float learning_rate = 1e-4f, beta1 = 0.9f, beta2 = 0.99f, weight_decay = 0;
  };
  static void check(const Options& o) {
    const OptionCheck check{"Lion"};
    check.at_least_zero("learning_rate", o.learning_rate);
    check.below_one("beta1", o.beta1);
    check.below_one("beta2", o.beta2);
    check.at_least_zero("weight_decay", o.weight_decay);
  }
};

/// Rates that fall with the sum of squared gradients: one moment. `torch.optim.Adagrad`.
/// Source:  Duchi, Hazan & Singer, Adaptive Subgradient Methods, JMLR 12 (2011), section 1, the
///          diagonal case.
struct Adagrad {
  using axis = axis::Optimizer;
  static constexpr std::size_t moments = 1;
  using Update = AdagradUpdate;
  /// What is given at run time.
  struct Options {
    float learning_rate = 1e-2f;
    float learning_rate_decay = 0;  ///< the rate of step t is divided by 1 + (t - 1) of this
    float epsilon = 1e-10f, weight_decay = 0;
  };
  static void check(const Options& o) {
    const OptionCheck check{"Adagrad"};
    check.at_least_zero("learning_rate", o.learning_rate);
    check.at_least_zero("learning_rate_decay", o.learning_rate_decay);
    check.above_zero("epsilon", o.epsilon);
    check.at_least_zero("weight_decay", o.weight_decay);
  }
};

template <>
struct axis_traits<axis::Optimizer> {
  template <class P>
  static constexpr bool accepts = OptimizerPolicy<P>;
  using standard = AdamW;
};

}  // namespace shardexpr
