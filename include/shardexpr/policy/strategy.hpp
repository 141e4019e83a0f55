// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/accumulation.hpp>
#include <shardexpr/policy/axis.hpp>
#include <shardexpr/policy/backend.hpp>
#include <shardexpr/policy/clipping.hpp>
#include <shardexpr/policy/compression.hpp>
#include <shardexpr/policy/loss_scale.hpp>
#include <shardexpr/policy/offload.hpp>
#include <shardexpr/policy/optimizer.hpp>
#include <shardexpr/policy/precision.hpp>
#include <shardexpr/policy/prefetch.hpp>
#include <shardexpr/policy/recompute.hpp>
#include <shardexpr/policy/reshard.hpp>
#include <shardexpr/policy/residency.hpp>
#include <shardexpr/policy/rounding.hpp>
#include <shardexpr/policy/rules.hpp>
#include <shardexpr/policy/sharding.hpp>
#include <shardexpr/policy/wrap.hpp>

#include <type_traits>

namespace shardexpr {

/// A strategy in normal form: one policy an axis, in the order of `detail::Axes`. Users write packs
/// in any order; `StrategyOf` makes this of them.
template <class... Ps>
struct Strategy {
  /// The policy on an axis.
  template <class Axis>
  using on = typename detail::pick<Axis, void, Ps...>::type;

  using sharding = on<axis::Sharding>;
  using reshard = on<axis::Reshard>;
  using offload = on<axis::Offload>;
  using backward_prefetch = on<axis::BackwardPrefetch>;
  using forward_prefetch = on<axis::ForwardPrefetch>;
  using persistence = on<axis::Persistence>;
  using live_limit = on<axis::LiveLimit>;
  using prefetch_limit = on<axis::PrefetchLimit>;
  using reuse = on<axis::Reuse>;
  using gather_limit = on<axis::GatherLimit>;
  using wrap = on<axis::Wrap>;
  using accumulation = on<axis::Accumulation>;
  using clipping = on<axis::Clipping>;
  using recompute = on<axis::Recompute>;
  using optimizer = on<axis::Optimizer>;
  using precision = on<axis::Precision>;
  using loss_scale = on<axis::LossScale>;
  using rounding = on<axis::Rounding>;
  using weight_compression = on<axis::WeightCompression>;
  using gradient_compression = on<axis::GradientCompression>;
  using device = typename on<axis::Device>::device;
  using communicator = typename on<axis::Communicator>::communicator;
};

namespace detail {

// Adding an axis: its header, and its tag here.
using Axes =
    list<axis::Sharding, axis::Reshard, axis::Offload, axis::BackwardPrefetch,
         axis::ForwardPrefetch, axis::Persistence, axis::LiveLimit, axis::PrefetchLimit,
         axis::Reuse, axis::GatherLimit, axis::Wrap, axis::Accumulation, axis::Clipping,
         axis::Recompute, axis::Optimizer, axis::Precision, axis::LossScale, axis::Rounding,
         axis::WeightCompression, axis::GradientCompression, axis::Device, axis::Communicator>;

template <class Axes, class... Ps>
struct grammar;
template <class... Axis, class... Ps>
struct grammar<list<Axis...>, Ps...> {
  template <class P>
  static constexpr bool known = (OnAxis<P, Axis> || ...);
  template <class P>
  static constexpr bool complete = ((!OnAxis<P, Axis> ||
                                     axis_traits<Axis>::template accepts<P>)&&...);

  static constexpr bool policies = (known<Ps> && ...);
  static constexpr bool all_complete = (complete<Ps> && ...);
  static constexpr bool unique = ((count_on<Axis, Ps...> <= 1) && ...);
};

// Apart from `grammar`: a default may ask the others' members, which only complete policies have.
template <class Axes, class... Ps>
struct normalize;
template <class... Axis, class... Ps>
struct normalize<list<Axis...>, Ps...> : std::type_identity<Strategy<chosen<Axis, Ps...>...>> {};

/// The first rule that a pack breaks; its order is that of the codes.
template <class... Ps>
consteval Rule first_broken() {
  using G = grammar<Axes, Ps...>;
  if constexpr (!G::policies)
    return Rule::SX001;
  else if constexpr (!G::unique)
    return Rule::SX002;
  else if constexpr (!G::all_complete)
    return Rule::SX003;
  else
    return first_broken_combination<typename normalize<Axes, Ps...>::type>();
}

/// Says why a rule refuses, in one `static_assert`, when it is made complete.
template <class Rules, Rules Broken>
struct Report;
template <Rule Broken>
struct Report<Rule, Broken> {
#define SHARDEXPR_ASSERT_RULE(code, broken, what, advice) \
  static_assert(Broken != Rule::code, "[" #code "] " what ": " advice " (docs/diagnostics.md)");
  SHARDEXPR_GRAMMAR_RULES(SHARDEXPR_ASSERT_RULE)
  SHARDEXPR_COMBINATION_RULES(SHARDEXPR_ASSERT_RULE)
#undef SHARDEXPR_ASSERT_RULE
};

/// What an illegal pack makes. Naming it is quiet: clang 14 drops an alias in whose making an
/// assertion fails, and every use of it would be one more error. Making it complete is not. It
/// answers as the default strategy does, so that nothing follows from the rule's line; the line is
/// a member's, because clang forgets every base where one is refused.
template <auto Broken, class... Ps>
struct RefusedStrategy : normalize<Axes>::type {
  Report<decltype(Broken), Broken> report;
};

template <Rule Broken, class... Ps>
struct normal_form : std::type_identity<RefusedStrategy<Broken, Ps...>> {};
template <class... Ps>
struct normal_form<Rule::none, Ps...> : normalize<Axes, Ps...> {};

}  // namespace detail

/// True if the policies make a strategy; says nothing if not. For truth tables and enumeration.
template <class... Ps>
concept LegalStrategy = (detail::first_broken<Ps...>() == Rule::none);

/// The strategy that `Ps` make, in normal form: the same type whatever their order.
/// Errors:  a pack that breaks a rule is refused by one `static_assert` with the rule's code, where
///          the strategy is first used.
template <class... Ps>
using StrategyOf = typename detail::normal_form<detail::first_broken<Ps...>(), Ps...>::type;

}  // namespace shardexpr
