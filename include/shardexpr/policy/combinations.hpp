// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// Strategies in normal form, each once: what `LegalCombinations` makes and `for_each_strategy`
/// goes through.
template <class... S>
struct Strategies {
  static constexpr std::size_t size = sizeof...(S);
};

/// What a combination takes one of: a policy, or several together as `Together<...>`. `Together<>`
/// leaves the axis to its default.
template <class... Policies>
struct OneOf {};
template <class... Policies>
struct Together {};

namespace detail {

template <class... L>
struct concatenated;
template <template <class...> class L, class... A>
struct concatenated<L<A...>> : std::type_identity<L<A...>> {};
template <template <class...> class L, class... A, class... B, class... More>
struct concatenated<L<A...>, L<B...>, More...> : concatenated<L<A..., B...>, More...> {};

template <class P>
struct as_pack : std::type_identity<list<P>> {};
template <class... P>
struct as_pack<Together<P...>> : std::type_identity<list<P...>> {};

/// Each pack of a list with each policy of a choice behind it. None is judged before it is
/// complete: what is refused without a policy may be legal with it.
template <class Packs, class Choice>
struct times;
template <class... Pack, class... P>
struct times<list<Pack...>, OneOf<P...>> {
  template <class A>
  using each = list<typename concatenated<A, typename as_pack<P>::type>::type...>;
  using type = typename concatenated<list<>, each<Pack>...>::type;
};

template <class Packs, class... Choices>
struct product : std::type_identity<Packs> {};
template <class Packs, class Choice, class... Choices>
struct product<Packs, Choice, Choices...>
    : product<typename times<Packs, Choice>::type, Choices...> {};

/// The normal form of a pack that breaks no rule, else nothing.
template <class Pack>
struct legal_form : std::type_identity<Strategies<>> {};
template <class... P>
  requires LegalStrategy<P...>
struct legal_form<list<P...>> : std::type_identity<Strategies<StrategyOf<P...>>> {
};
template <class Packs>
struct legal_forms;
template <class... Pack>
struct legal_forms<list<Pack...>> : concatenated<Strategies<>, typename legal_form<Pack>::type...> {
};

template <class Kept, class S>
struct each_once : std::type_identity<Kept> {};
template <class... Kept, class S, class... More>
struct each_once<Strategies<Kept...>, Strategies<S, More...>>
    : each_once<
          std::conditional_t<is_one_of<S, Kept...>, Strategies<Kept...>, Strategies<Kept..., S>>,
          Strategies<More...>> {};

}  // namespace detail

/// Every strategy that takes one policy of each choice and breaks no rule, in normal form, each
/// once; what leaves an axis out, and what names its default, are one.
///
///   using All = LegalCombinations<OneOf<FullShard, ShardGradOp, ShardOptimizer, NoShard>,
///                                 OneOf<OffloadNone, OffloadAll>, OneOf<On<Cpu>>>;
///
/// Order:   that of the choices, the last one changing fastest.
/// Cost:    at compile time, the product of the choices' sizes; nothing is compiled of a trainer.
template <class... Choices>
using LegalCombinations =
    typename detail::each_once<Strategies<>,
                               typename detail::legal_forms<typename detail::product<
                                   detail::list<detail::list<>>, Choices...>::type>::type>::type;

/// The strategies of several lists, each once.
template <class... Lists>
using UnitedStrategies =
    typename detail::each_once<Strategies<>,
                               typename detail::concatenated<Strategies<>, Lists...>::type>::type;

/// Calls `visit.template operator()<S>()` for the strategies of a list whose place, counted from 0,
/// is `slice` modulo `slices`, in order. A trainer of each compiles where that is instantiated:
/// slices spread them over translation units.
template <std::size_t slice = 0, std::size_t slices = 1, class... S, class Visit>
constexpr void for_each_strategy(Strategies<S...>, Visit&& visit) {
  static_assert(slice < slices);
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (
        [&] {
          if constexpr (I % slices == slice) visit.template operator()<S>();
        }(),
        ...);
  }
  (std::make_index_sequence<sizeof...(S)>{});
}

}  // namespace shardexpr
