// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/pass.hpp>
#include <shardexpr/model/unit.hpp>
#include <shardexpr/policy/rules.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

// Rules on a model M: code, what breaks it, what is wrong, what to write instead.
#define SHARDEXPR_MODEL_RULES(RULE)                                                               \
  RULE(SX201, (!ModelShape<M>), "the model lacks Config, Batch or Units",                         \
       "give it all three, with Units = shardexpr::Units<First, ..., Last>")                      \
  RULE(SX202, (!every_unit_complete<M>()), "a unit of the model lacks a part of its description", \
       "give it Config, Batch, Params, describe, Input, Output and output, those of its model")   \
  RULE(SX203, (!flows<M>()),                                                                      \
       "neighbouring units do not fit; one puts out what the next does not take",                 \
       "make each Input the Output of the unit before, and both the same type in a Repeat")       \
  RULE(SX204, (!ends<M>()), "the model does not begin with a batch and end with one loss",        \
       "give the first unit Input = shardexpr::Nothing and the last an Output of one scalar")     \
  RULE(SX205, (!ties_to_units<M>()),                                                              \
       "a parameter is tied to a unit that the model does not hold once",                         \
       "name in tied<Unit> a unit that stands in Units once and is not repeated")                 \
  RULE(SX206, (!ties_to_names<M>()),                                                              \
       "a parameter is tied to a name that the owning unit does not describe",                    \
       "use a name from the owner's describe")

namespace shardexpr {

/// The rules on a model, SX2xx, by code.
enum class ModelRule {
  none,
#define SHARDEXPR_RULE_NAME(code, broken, what, advice) code,
  SHARDEXPR_MODEL_RULES(SHARDEXPR_RULE_NAME)
#undef SHARDEXPR_RULE_NAME
};

/// The texts of these rules, in the order of their codes.
inline constexpr auto model_rule_texts = std::to_array<RuleText>({
#define SHARDEXPR_RULE_TEXT(code, broken, what, advice) {#code, what, advice},
    SHARDEXPR_MODEL_RULES(SHARDEXPR_RULE_TEXT)
#undef SHARDEXPR_RULE_TEXT
});

namespace detail {

template <class M>
concept ModelShape = requires {
  typename M::Config;
  typename M::Batch;
  typename M::Units::Stages;
  { M::Units::stage_count } -> std::convertible_to<std::size_t>;
}
&&(M::Units::stage_count > 0);

template <class U, class M>
concept CompleteUnit = requires(const typename M::Config& config) {
  typename U::template Params<char>;
  typename U::template Input<char_of, float>;
  typename U::template Output<char_of, float>;
  { U::describe(config) } -> std::same_as<typename U::template Params<Spec>>;
  {
    U::template output<float>(config)
    } -> std::same_as<typename U::template Output<BufferSpec, float>>;
}
&&std::same_as<typename U::Config, typename M::Config>&&
    std::same_as<typename U::Batch, typename M::Batch>;

// Calls visit.operator()<Unit, S>() for each stage and joins the answers.
template <class M, class Visit>
constexpr bool all_stages(Visit visit) {
  return [&]<std::size_t... S>(std::index_sequence<S...>) {
    return (visit.template operator()<typename M::Units::template Unit<S>, S>() && ...);
  }
  (std::make_index_sequence<M::Units::stage_count>{});
}

template <class M>
consteval bool every_unit_complete() {
  return all_stages<M>([&]<class U, std::size_t>() { return CompleteUnit<U, M>; });
}

template <class M>
consteval bool flows() {
  return all_stages<M>([&]<class U, std::size_t S>() {
    using Stage = typename M::Units::template Stage<S>;
    bool fits =
        !Stage::repeats || std::is_same_v<InputOf<U, Tensor, float>, OutputOf<U, Tensor, float>>;
    if constexpr (S > 0)
      fits =
          fits && std::is_same_v<InputOf<U, Tensor, float>,
                                 OutputOf<typename M::Units::template Unit<S - 1>, Tensor, float>>;
    return fits;
  });
}
// The last unit puts out one buffer of one element, on the default configuration where a constant
// expression can make one.
template <class U>
concept OutputByDefault = requires {
  typename std::bool_constant<(U::template output<float>(typename U::Config{}), true)>;
};
template <class M>
consteval bool ends() {
  using First = typename M::Units::template Unit<0>;
  using Last = typename M::Units::template Unit<M::Units::stage_count - 1>;
  bool one_scalar = chars_in<typename Last::template Output<char_of, float>> == 1;
  if constexpr (OutputByDefault<Last>)
    for (const AnyBuffer& buffer : output_buffers<Last, float>(typename Last::Config{}))
      one_scalar = one_scalar && buffer.shape.count() == 1;
  return one_scalar && chars_in<typename First::template Input<char_of, float>> == 0;
}

// Ties are judged on the default configuration where a constant expression can make one; otherwise
// `Layout` judges them when the trainer is made.
template <class U>
concept DescribedByDefault = requires {
  typename std::bool_constant<(U::describe(typename U::Config{}), true)>;
};

template <class M>
constexpr std::size_t stage_of(std::uint64_t type) {
  std::size_t found = M::Units::stage_count, times = 0;
  all_stages<M>([&]<class U, std::size_t S>() {
    if (type_hash<U> == type && !M::Units::template Stage<S>::repeats) {
      found = S;
      ++times;
    }
    return true;
  });
  return times == 1 ? found : M::Units::stage_count;
}

template <class M, bool Names>
constexpr bool ties_hold() {
  return all_stages<M>([&]<class U, std::size_t>() {
    if constexpr (DescribedByDefault<U>) {
      for (const Spec& spec : specs_of<U>(typename U::Config{})) {
        if (!spec.is_tied()) continue;
        const std::size_t owner = stage_of<M>(spec.tied_unit);
        if (!Names) {
          if (owner == M::Units::stage_count) return false;
          continue;
        }
        bool named = false;
        all_stages<M>([&]<class O, std::size_t S>() {
          if constexpr (DescribedByDefault<O>) {
            if (S == owner)
              for (const Spec& candidate : specs_of<O>(typename O::Config{}))
                named =
                    named || (!candidate.is_tied() && candidate.name.view() == spec.name.view());
          } else {
            named = true;
          }
          return true;
        });
        if (!named) return false;
      }
    }
    return true;
  });
}
template <class M>
consteval bool ties_to_units() {
  return ties_hold<M, false>();
}
template <class M>
consteval bool ties_to_names() {
  return ties_hold<M, true>();
}

template <class M>
consteval ModelRule first_broken_model() {
#define SHARDEXPR_JUDGE(code, broken, what, advice) \
  if constexpr (broken)                             \
    return ModelRule::code;                         \
  else
  SHARDEXPR_MODEL_RULES(SHARDEXPR_JUDGE)
#undef SHARDEXPR_JUDGE
  return ModelRule::none;
}

}  // namespace detail
}  // namespace shardexpr
