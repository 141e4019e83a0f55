// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/step_order.hpp>
#include <shardexpr/policy/prefetch.hpp>
#include <shardexpr/policy/recompute.hpp>
#include <shardexpr/policy/rules.hpp>

#include <cstddef>
#include <vector>

namespace shardexpr {

namespace detail {

/// The layout's grouping by a strategy's wrap and persistence.
template <class Strategy, class Model>
constexpr typename Layout<Model>::Grouping grouping_of() {
  typename Layout<Model>::Grouping grouping;
  Layout<Model>::for_each_stage([&]<std::size_t S>() {
    grouping.in_root[S] = !Strategy::wrap::template own<typename Model::Units::template Unit<S>>;
  });
  grouping.least = Strategy::wrap::least;
  grouping.persist_below = Strategy::persistence::persist_below;
  return grouping;
}

/// Whether a unit's saved activations are rebuilt: it saves some, and the strategy says so.
template <class Strategy, class Unit>
inline constexpr bool rebuilds =
    Strategy::recompute::template rebuilds<Unit>&& saves_something<Unit>;

/// What the strategy says of the order of a step.
template <class Strategy>
constexpr OrderRules order_rules() {
  using Sharding = typename Strategy::sharding;
  OrderRules rules;
  rules.gathers = Sharding::parameters;
  rules.reshards = Strategy::reshard::ranks != 0;
  rules.replicates = group_of<Sharding> != 0;
  rules.reduce_each = Strategy::accumulation::reduce_each;
  rules.ahead = Strategy::backward_prefetch::ahead;
  // Not where the strategy asks for least memory.
  rules.overlaps_reduce = !gathers_in_turn<Strategy>() || rules.ahead != GatherAhead::never;
  rules.publishes = Sharding::optimizer && !Sharding::parameters;
  rules.publishes_persistent = Sharding::optimizer;
  rules.forward_depth = Strategy::forward_prefetch::depth;
  rules.bucket = Strategy::prefetch_limit::ahead_elements;
  // One unit ahead, unless a bucket counts.
  rules.backward_depth = rules.bucket == unlimited ? 1 : unlimited;
  rules.live_limit = Strategy::live_limit::live_elements;
  rules.group_limit = Strategy::gather_limit::live_groups;
  rules.reuse = Strategy::reuse::reuse_elements;
  // BackwardPre is not among them: it is the default.
  rules.asks_for_groups =
      rules.gathers &&
      (rules.reshards || rules.forward_depth != 0 || rules.ahead == GatherAhead::after_compute ||
       rules.live_limit != unlimited || rules.group_limit != unlimited ||
       rules.bucket != unlimited || rules.reuse != 0);
  return rules;
}
/// Whether ranks that keep all of the flat each update a part of it.
template <class Strategy>
constexpr bool is_published(const FlatLayout& flat) {
  return order_rules<Strategy>().is_published(flat);
}

}  // namespace detail

/// The order of a training step, in one place: the engine executes it, the plan counts it, tests
/// record it. The order of units is in the model's type, so nothing is traced. Which order it is
/// follows from numbers (`StepOrder`), compiled once; what is done is compiled for each strategy.
///
/// A visitor has, g a group and u a unit, each by its place in forward order, S a unit's stage:
///
///   gather(g)            parts of the sharding -> full parameters
///   keep(g)              before a release: this rank keeps its 1/K (ReshardTo)
///   regather(g)          what `keep` kept, of K ranks -> full parameters
///   release(g)           full parameters are not needed
///   forward<S>(u), rebuild<S>(u), backward<S>(u)
///                        compute; `rebuild` is a forward for what backward wants saved
///   open_gradients(g)    full gradients of zero
///   reduce(g)            full gradients -> what the rank keeps
///   replicate(g)         what the rank keeps -> the mean over the copies (hybrid sharding)
///   close_gradients(g)   full gradients are not needed
///   update(g)            of what the rank keeps
///   publish(g)           what this rank updated -> the ranks that keep it whole
///
/// A step is `forward` and `backward` of each micro-batch, then `update`. Positions count what is
/// computed: 0 ... L-1 the forward of units 0 ... L-1, L ... the backward of units L-1 ... 0.
template <class Strategy, class Model>
class Schedule {
  using Verb = detail::Verb;
  template <std::size_t S>
  using UnitAt = typename Model::Units::template Unit<S>;
  static constexpr detail::OrderRules rules = detail::order_rules<Strategy>();

 public:
  // Vectors are given their value here and in the plan: clang 14 makes no vector(n) in constants.
  /// Errors:  throws ConfigError if a bound of the strategy cannot be kept with this model.
  constexpr explicit Schedule(const Layout<Model>& layout)
      : layout_{&layout}, order_{layout, rules} {
    // So that passes allocate nothing: rarely does one do more.
    actions_.reserve(8 * layout.unit_count() + 8 * layout.group_count());
  }

  /// Forward of every unit. What is needed soon stays gathered for `backward`. `evaluate` is a pass
  /// that no backward follows: nothing stays.
  template <class Visitor>
  constexpr void forward(Visitor& visitor) {
    perform(detail::Pass{detail::Pass::Kind::forward}, visitor);
  }
  /// Forward of every unit with nothing kept.
  template <class Visitor>
  constexpr void evaluate(Visitor& visitor) {
    perform(detail::Pass{detail::Pass::Kind::evaluate}, visitor);
  }

  /// Backward of every unit down to the first that has something to train. Between micro-batches
  /// the gradients are reduced as the strategy says; after the `last` all are.
  template <class Visitor>
  constexpr void backward(Visitor& visitor, bool last = true) {
    perform(detail::Pass{detail::Pass::Kind::backward, last}, visitor);
  }

  template <class Visitor>
  constexpr void update(Visitor& visitor) {
    perform(detail::Pass{detail::Pass::Kind::update}, visitor);
  }

 private:
  template <class Visitor>
  constexpr void perform(const detail::Pass& pass, Visitor& visitor) {
    order_.write(pass, actions_);
    std::size_t done = 0;
    try {
      for (; done < actions_.size(); ++done)
        perform(actions_[done].verb, actions_[done].at, visitor);
    } catch (...) {
      order_.end_after(pass, done, actions_);
      throw;
    }
  }
  template <class Visitor>
  constexpr void perform(Verb verb, std::size_t at, Visitor& visitor) {
    switch (verb) {
      case Verb::gather:
        if constexpr (rules.gathers) visitor.gather(at);
        break;
      case Verb::keep:
        if constexpr (rules.reshards) visitor.keep(at);
        break;
      case Verb::regather:
        if constexpr (rules.reshards) visitor.regather(at);
        break;
      case Verb::release:
        if constexpr (rules.gathers) visitor.release(at);
        break;
      case Verb::open_gradients:
        visitor.open_gradients(at);
        break;
      case Verb::reduce:
        visitor.reduce(at);
        break;
      case Verb::replicate:
        if constexpr (rules.replicates) visitor.replicate(at);
        break;
      case Verb::close_gradients:
        visitor.close_gradients(at);
        break;
      case Verb::update:
        visitor.update(at);
        break;
      case Verb::publish:
        if constexpr (rules.publishes_persistent) visitor.publish(at);
        break;
      case Verb::forward:
        at_stage(at, [&]<std::size_t S>() { visitor.template forward<S>(at); });
        break;
      case Verb::backward:
        at_stage(at, [&]<std::size_t S>() {
          if constexpr (detail::rebuilds<Strategy, UnitAt<S>>) visitor.template rebuild<S>(at);
          visitor.template backward<S>(at);
        });
        break;
    }
  }
  /// Calls `visit.template operator()<S>()` for the stage S of unit u.
  template <class Visit>
  constexpr void at_stage(std::size_t u, Visit visit) const {
    const std::size_t stage = layout_->unit(u).stage;
    Layout<Model>::for_each_stage([&]<std::size_t S>() {
      if (S == stage) visit.template operator()<S>();
    });
  }

  const Layout<Model>* layout_;
  detail::StepOrder order_;
  detail::StepOrder::Actions actions_;  // of the pass
};

}  // namespace shardexpr
