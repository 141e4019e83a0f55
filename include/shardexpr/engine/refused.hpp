// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
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
    using reshard = Anything;
    using backward_prefetch = Anything;
    using forward_prefetch = Anything;
    using persistence = Anything;
    using live_limit = Anything;
    using prefetch_limit = Anything;
    using reuse = Anything;
    using gather_limit = Anything;
    using wrap = Anything;
    using accumulation = Anything;
    using recompute = Anything;
    using optimizer = Anything;
    using precision = Anything;
    using device = Anything;
    using communicator = Anything;
  };
  using Config = Anything;
  using Batch = Anything;
  using Device = Anything;
  using Compute = float;
  using Gradient = float;
  template <class Unit>
  using Parameters = typename Unit::template Params<Anything>;
  template <class Unit>
  using Gradients = Parameters<Unit>;
  struct Options {
    typename options_of<typename pick<axis::Optimizer, AdamW, Ps...>::type>::type optimizer;
    unsigned long long seed = 0, micro_batches = 1;
  };
  // A guard: `w->weight`, `dw.reduce()`.
  template <class Unit>
  struct Guard {
    Parameters<Unit> parameters;
    const Parameters<Unit>& operator*() const { return parameters; }
    const Parameters<Unit>* operator->() const { return &parameters; }
    void reduce() {}
  };

  template <class Device, class Comm>
  Refused(Device&, Comm&, Anything = {}, Anything = {}) {}

  StepResult step(Anything = {}) { return {}; }
  double evaluate(Anything = {}) { return 0; }
  void summon(Anything = {}, Anything = {}) {}
  template <class Unit>
  Guard<Unit> gather(unsigned long long = 0) {
    return {};
  }
  template <class Unit>
  Guard<Unit> open_gradients(unsigned long long = 0) {
    return {};
  }
  StepResult apply(double) { return {}; }
  Anything context() { return {}; }
  const Refused& layout() const { return *this; }
  unsigned long long parameter_count() const { return 0; }  // of the layout
  MeshShape mesh() const { return {}; }
  Anything config() const { return {}; }
  Traffic traffic() const { return {}; }
  Options options() const { return {}; }
  void set_learning_rate(float) {}
  unsigned long long steps() const { return 0; }
};

}  // namespace shardexpr::detail
