// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/engine/step_result.hpp>
#include <shardexpr/engine/transfer_bytes.hpp>
#include <shardexpr/io/nvme_options.hpp>
#include <shardexpr/optim/learning_rate.hpp>
#include <shardexpr/optim/parameter_groups.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <array>

namespace shardexpr::detail {

/// Made of anything, braces included.
struct Anything {
  constexpr Anything() = default;
  template <class... A>
  constexpr Anything(A&&...) {}
};

// The options of the policy that the pack names, as far as they can be told.
template <class P>
struct options_of : std::type_identity<typename axis_traits<typename P::axis>::standard::Options> {
};
template <class P>
  requires requires { typename P::Options; }
struct options_of<P> : std::type_identity<typename P::Options> {};

/// What `Sharded` becomes when a rule refuses it: the rule's one line, and every public verb
/// without behaviour, so that nothing follows from it. A test compares its verbs with those of
/// `sharded`.
template <auto Broken, class M, class... Ps>
struct Refused : Report<decltype(Broken), Broken> {
  static constexpr bool is_refused = true;
  using Model = Refused;          // so that Trainer::Model::Config is there
  using Strategy = StrategyOf<>;  // not RefusedStrategy: it would repeat the line
  using Config = Anything;
  using Batch = Anything;
  using Device = Anything;
  using Storage = float;
  using Compute = float;
  using Gradient = float;
  template <class Unit>
  using Parameters = typename Unit::template Params<Tensor<const Compute>>;
  template <class Unit>
  using Gradients = typename Unit::template Params<Tensor<Gradient>>;
  struct Options {
    typename options_of<typename pick<axis::Optimizer, AdamW, Ps...>::type>::type optimizer;
    typename options_of<typename pick<axis::Clipping, ClipNone, Ps...>::type>::type clipping;
    typename options_of<typename pick<axis::LossScale, LossScaleNone, Ps...>::type>::type
        loss_scale;
    unsigned long long seed = 0, micro_batches = 1;
    std::array<GroupOptions, max_parameter_groups> groups{};
    LearningRateSchedule schedule{};
    NvmeOptions nvme{};
  };
  // A guard: `w->weight`, `dw.reduce()`.
  template <class Views>
  struct Guard {
    Views views;
    const Views& operator*() const { return views; }
    const Views* operator->() const { return &views; }
    void reduce() {}
  };
  // Of a loop of one's own.
  struct Context {
    Anything device, stream;
    void run(const auto&...) const {}
    void for_each(const auto&...) const {}
  };

  template <class Device, class Comm>
  Refused(Device&, Comm&, Anything = {}, Anything = {}) {}

  static void check(const Options&) {}
  StepResult step(Anything = {}) { return {}; }
  double evaluate(Anything = {}) { return 0; }
  void summon(Anything = {}, Anything = {}) {}
  template <class Unit>
  Guard<Parameters<Unit>> gather(unsigned long long = 0) {
    return {};
  }
  template <class Unit>
  Guard<Gradients<Unit>> open_gradients(unsigned long long = 0) {
    return {};
  }
  void for_each_buffer(Anything) {}
  template <class Unit>
  Anything buffers(unsigned long long = 0) {
    return {};
  }
  StepResult apply(double) { return {}; }
  void drop_gradients() {}
  Context context() { return {}; }
  const Refused& layout() const { return *this; }
  unsigned long long parameter_count() const { return 0; }  // of the layout
  MeshShape mesh() const { return {}; }
  Anything config() const { return {}; }
  Traffic traffic() const { return {}; }
  TransferBytes transfers() const { return {}; }
  unsigned long long nvme_bytes() const { return 0; }
  Options options() const { return {}; }
  float learning_rate(unsigned long long = 0) const { return 0; }
  void set_learning_rate(float) {}
  unsigned long long steps() const { return 0; }
  float loss_scale() const { return 1; }
};

}  // namespace shardexpr::detail
