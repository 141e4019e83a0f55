// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/engine/refused.hpp>
#include <shardexpr/model/rules.hpp>
#include <shardexpr/plan/places.hpp>
#include <shardexpr/plan/schedule.hpp>
#include <shardexpr/policy/strategy.hpp>

#include <array>
#include <type_traits>

// Rules on what a strategy runs on: code, what breaks it, what is wrong, what to write instead.
#define SHARDEXPR_BACKEND_RULES(RULE)                                                              \
  RULE(SX301, (!Device<typename S::device>), "the device is unknown here or lacks an operation",   \
       "include its header (shardexpr/device/...) or complete it to the Device concept")           \
  RULE(SX302, (!Communicator<typename S::communicator, typename S::device>),                       \
       "the communicator is unknown here or lacks a collective",                                   \
       "include its header (shardexpr/comm/...) or complete it to the Communicator concept")       \
  RULE(SX303, (!ComputesWith<M, S>),                                                               \
       "a unit has no forward or backward for this device and dtype",                              \
       "give it forward(Forward<Unit, D, T>) and backward(Backward<Unit, D, T, G>), void, static") \
  RULE(SX304, (!holds_all<M>(typename units_named<typename S::wrap>::type{})),                     \
       "the wrap policy names a unit that the model does not hold",                                \
       "name units that stand in the model's Units")                                               \
  RULE(SX305, (!holds_all<M>(typename units_named<typename S::recompute>::type{})),                \
       "the recompute policy names a unit that the model does not hold",                           \
       "name units that stand in the model's Units")                                               \
  RULE(SX306, (!recompute_saves<M, S>()),                                                          \
       "the recompute policy rebuilds a unit that saves nothing, or one unit alone",               \
       "name units that have a Saved, two or more or a Repeat, or leave Recompute out")            \
  RULE(SX307, (names_buffers_in_vain<M, S>()),                                                     \
       "the precision names a dtype for buffers, and no unit of the model has any",                \
       "give buffers the dtype of the storage, or leave it out")                                   \
  RULE(SX308, (needs_host<S> && !HasHost<typename S::device>),                                     \
       "the strategy needs a host beside the device, and there is none",                           \
       "complete the device to the HasHost concept, or leave the offload out")

namespace shardexpr {

/// The rules on what a strategy runs on, SX3xx, by code.
enum class BackendRule {
  none,
#define SHARDEXPR_RULE_NAME(code, broken, what, advice) code,
  SHARDEXPR_BACKEND_RULES(SHARDEXPR_RULE_NAME)
#undef SHARDEXPR_RULE_NAME
};

/// The texts of these rules, in the order of their codes.
inline constexpr auto backend_rule_texts = std::to_array<RuleText>({
#define SHARDEXPR_RULE_TEXT(code, broken, what, advice) {#code, what, advice},
    SHARDEXPR_BACKEND_RULES(SHARDEXPR_RULE_TEXT)
#undef SHARDEXPR_RULE_TEXT
});

template <class Model, class Strategy>
class sharded;  // engine/sharded.hpp

namespace detail {

template <class U, class D, class P>
concept UnitComputes = requires(const ForwardIn<U, D, P>& f, const BackwardIn<U, D, P>& b) {
  { U::forward(f) } -> std::same_as<void>;
  { U::backward(b) } -> std::same_as<void>;
};

template <class M, class S>
consteval bool every_unit_computes() {
  using P = typename S::precision;
  return []<std::size_t... I>(std::index_sequence<I...>) {
    return (UnitComputes<typename M::Units::template Unit<I>, typename S::device, P> && ...);
  }
  (std::make_index_sequence<M::Units::stage_count>{});
}
template <class M, class S>
concept ComputesWith = every_unit_computes<M, S>();

template <class M, class... Unit>
consteval bool holds_all(list<Unit...>) {
  return []<std::size_t... I>(std::index_sequence<I...>) {
    return ([]<class U>(std::type_identity<U>) {
      return is_one_of<U, typename M::Units::template Unit<I>...>;
    }(std::type_identity<Unit>{}) &&
            ...);
  }
  (std::make_index_sequence<M::Units::stage_count>{});
}

// Each unit that is named saves something; and more than one unit of the model is rebuilt, since
// they share the memory of one.
template <class... Unit>
consteval bool all_save(list<Unit...>) {
  return (saves_something<Unit> && ...);
}
template <class M, class S>
consteval bool recompute_saves() {
  using Named = typename units_named<typename S::recompute>::type;
  return []<std::size_t... I>(std::index_sequence<I...>) {
    if constexpr ((S::recompute::template rebuilds<typename M::Units::template Unit<I>> || ...)) {
      std::size_t rebuilt = 0;
      ((rebuilt += !rebuilds<S, typename M::Units::template Unit<I>> ? 0
                   : M::Units::template Stage<I>::repeats            ? 2
                                                                     : 1),
       ...);
      return all_save(Named{}) && rebuilt > 1;
    } else {
      return true;
    }
  }
  (std::make_index_sequence<M::Units::stage_count>{});
}

template <class M, class S>
consteval bool names_buffers_in_vain() {
  using P = typename S::precision;
  return !std::is_same_v<typename P::buffers, typename P::storage> && !model_has_buffers<M>();
}

template <class M, class S>
consteval BackendRule first_broken_backend() {
#define SHARDEXPR_JUDGE(code, broken, what, advice) \
  if constexpr (broken)                             \
    return BackendRule::code;                       \
  else
  SHARDEXPR_BACKEND_RULES(SHARDEXPR_JUDGE)
#undef SHARDEXPR_JUDGE
  return BackendRule::none;
}

template <ModelRule Broken>
struct Report<ModelRule, Broken> {
#define SHARDEXPR_ASSERT_RULE(code, broken, what, advice) \
  static_assert(Broken != ModelRule::code,                \
                "[" #code "] " what ": " advice " (docs/diagnostics.md)");
  SHARDEXPR_MODEL_RULES(SHARDEXPR_ASSERT_RULE)
#undef SHARDEXPR_ASSERT_RULE
};
template <BackendRule Broken>
struct Report<BackendRule, Broken> {
#define SHARDEXPR_ASSERT_RULE(code, broken, what, advice) \
  static_assert(Broken != BackendRule::code,              \
                "[" #code "] " what ": " advice " (docs/diagnostics.md)");
  SHARDEXPR_BACKEND_RULES(SHARDEXPR_ASSERT_RULE)
#undef SHARDEXPR_ASSERT_RULE
};

// Strategy, model, backend: each is judged only if the one before it stands, so that one rule at
// most speaks.
template <class M, class... Ps>
consteval auto first_broken_of_all() {
  if constexpr (constexpr Rule rule = first_broken<Ps...>(); rule != Rule::none)
    return rule;
  else if constexpr (constexpr ModelRule model = first_broken_model<M>(); model != ModelRule::none)
    return model;
  else
    return first_broken_backend<M, StrategyOf<Ps...>>();
}

template <auto Broken, class M, class... Ps>
struct resolve : std::type_identity<Refused<Broken, M, Ps...>> {};
template <class M, class... Ps>
struct resolve<BackendRule::none, M, Ps...> : std::type_identity<sharded<M, StrategyOf<Ps...>>> {};

}  // namespace detail

/// A trainer of `Model` by the strategy that `Ps` make. `Sharded<M, A, B>` and `Sharded<M, B, A>`
/// are one type; an axis left out takes its default.
///
///   using Trainer = sx::Sharded<sx::Gpt, sx::FullShard, sx::AdamW, sx::Over<sx::Threads>>;
///
/// Errors:  what makes no sense is refused, where it is first used, by one `static_assert` line; it
///          carries a code and says what to write instead (docs/diagnostics.md).
template <class Model, class... Ps>
using Sharded =
    typename detail::resolve<detail::first_broken_of_all<Model, Ps...>(), Model, Ps...>::type;

}  // namespace shardexpr
