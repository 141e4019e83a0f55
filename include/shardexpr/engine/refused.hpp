// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/policy/strategy.hpp>

namespace shardexpr::detail {

/// Made of anything, braces included.
struct Anything {
  constexpr Anything() = default;
  template <class... A>
  constexpr Anything(A&&...) {}
};

// The options of the optimizer that the pack names, as far as they can be told.
template <class P>
struct options_of : std::type_identity<AdamW::Options> {};
template <class P>
  requires requires { typename P::Options; }
struct options_of<P> : std::type_identity<typename P::Options> {};

/// What `Sharded` becomes when a rule refuses it: the rule's one line, and every public verb
/// without behaviour, so that nothing follows from it. A test compares its verbs with those of
/// `sharded`.
template <auto Broken, class M, class... Ps>
struct Refused : Report<decltype(Broken), Broken> {
  static constexpr bool is_refused = true;
  using Model = Refused;  // so that Trainer::Model::Config is there
  struct Strategy {       // not RefusedStrategy: it would repeat the line
    using sharding = Anything;
    using optimizer = Anything;
    using precision = Anything;
    using device = Anything;
    using communicator = Anything;
  };
  using Config = Anything;
  using Batch = Anything;
  struct Options {
    typename options_of<typename pick<axis::Optimizer, AdamW, Ps...>::type>::type optimizer;
    unsigned long long seed = 0;
  };

  template <class Device, class Comm>
  Refused(Device&, Comm&, Anything = {}, Anything = {}) {}

  StepResult step(Anything = {}) { return {}; }
  double evaluate(Anything = {}) { return 0; }
  void summon(Anything = {}) {}
  const Refused& layout() const { return *this; }
  unsigned long long parameter_count() const { return 0; }  // of the layout
  Options options() const { return {}; }
  void set_learning_rate(float) {}
  unsigned long long steps() const { return 0; }
};

}  // namespace shardexpr::detail
