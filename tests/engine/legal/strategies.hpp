// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/strategy.hpp>

#include <cstddef>
#include <type_traits>
#include <utility>

#include "../../support/toy.hpp"

// Every legal strategy of the toy, made at compile time from the rules: the product of sharding,
// reshard and prefetch, and each pair of policies of the other axes, with each sharding alone and
// with each other. What the rules refuse drops out; nothing is listed by hand but the policies.
namespace legal {

using shardexpr::detail::list;

template <class... L>
struct concat;
template <class... A>
struct concat<list<A...>> : std::type_identity<list<A...>> {};
template <class... A, class... B, class... More>
struct concat<list<A...>, list<B...>, More...> : concat<list<A..., B...>, More...> {};

// A pack of policies is a list; here are lists of packs.
template <class Packs, class Policies>
struct times;
template <class... Pack, class... P>
struct times<list<Pack...>, list<P...>> {
  template <class L>
  struct each;
  template <class... Q>
  struct each<list<Q...>> : std::type_identity<list<list<Q..., P>...>> {};
  using type = typename concat<list<>, typename each<Pack>::type...>::type;
};

template <class Pack>
inline constexpr bool is_legal = false;
template <class... P>
inline constexpr bool is_legal<list<P...>> = shardexpr::LegalStrategy<P...>;

template <class Packs>
struct legal_of;
template <class... Pack>
struct legal_of<list<Pack...>>
    : concat<list<>, std::conditional_t<is_legal<Pack>, list<Pack>, list<>>...> {};

namespace sx = shardexpr;

/// In 16 bits where there is a choice, clipped and with a loss scale.
template <class... P>
using In16 =
    sx::StrategyOf<sx::MixedPrecision<sx::bf16, sx::bf16>, sx::ClipNorm, sx::StaticLossScale, P...>;

using Shardings =
    list<list<sx::FullShard>, list<sx::ShardGradOp>, list<sx::ShardOptimizer>, list<sx::NoShard>>;
using HybridShardings = list<list<sx::HybridShard<2>>, list<sx::HybridShardGradOp<2>>,
                             list<sx::HybridShard<4>>, list<sx::HybridShardGradOp<4>>>;
using Reshards = list<sx::ReshardToShard, sx::ReshardTo<2>>;
using Backward = list<sx::BackwardPre, sx::BackwardPost, sx::BackwardNone>;
using Forward = list<sx::ForwardNone, sx::ForwardPrefetch<1>, sx::ForwardPrefetch<2>>;

template <class Of>
using Product = typename legal_of<typename times<
    typename times<typename times<Of, Reshards>::type, Backward>::type, Forward>::type>::type;

// The policies of the other axes, sized for the toy of run.hpp: units of 42, 4 x 56 and 5 elements;
// wrapped by 60, the last computes with 159.
using Others =
    list<sx::PersistBelow<8>, sx::MaxLive<160>, sx::PrefetchBucket<112>, sx::ReuseWithin<60>,
         sx::LimitGathers<3>, sx::WrapEach<toy::Mixer>, sx::WrapBySize<60>, sx::WrapWhole,
         sx::Recompute<toy::Mixer>, sx::Recompute<>, sx::ReduceAtEnd>;

// Each unordered pair once: a policy with those behind it. Two on one axis are refused by the
// rules.
template <class L>
struct pairs;
template <>
struct pairs<list<>> : std::type_identity<list<>> {};
template <class P, class... Q>
struct pairs<list<P, Q...>> : concat<list<list<P, Q>...>, typename pairs<list<Q...>>::type> {};

template <class Packs>
struct without_repeats;
template <class Kept, class Packs>
struct keep_new;
template <class... K>
struct keep_new<list<K...>, list<>> : std::type_identity<list<K...>> {};
template <class... K, class Pack, class... More>
struct keep_new<list<K...>, list<Pack, More...>>
    : keep_new<std::conditional_t<sx::detail::is_one_of<Pack, K...>, list<K...>, list<K..., Pack>>,
               list<More...>> {};

// As strategies in normal form, so that one strategy written twice is one.
template <class Pack>
struct normal;
template <class... P>
struct normal<list<P...>> : std::type_identity<sx::StrategyOf<P...>> {};
template <class Packs>
struct strategies;
template <class... Pack>
struct strategies<list<Pack...>> : keep_new<list<>, list<typename normal<Pack>::type...>> {};

using OneCopy = typename strategies<typename concat<
    Product<Shardings>, typename legal_of<typename times<Shardings, Others>::type>::type,
    typename legal_of<typename pairs<Others>::type>::type>::type>::type;
using Copies = typename strategies<typename concat<
    Product<HybridShardings>,
    typename legal_of<typename times<list<list<sx::HybridShard<2>>>, Others>::type>::type,
    typename legal_of<typename times<list<list<sx::HybridShardGradOp<2>>>, Others>::type>::type>::
                                       type>::type;

template <class L>
inline constexpr std::size_t size = 0;
template <class... S>
inline constexpr std::size_t size<list<S...>> = sizeof...(S);

/// Calls `visit.template operator()<S>()` for the strategies of a list whose place is `slice`
/// modulo `slices`: few strategies a translation unit.
template <std::size_t slice, std::size_t slices, class... S, class Visit>
void for_each(list<S...>, Visit visit) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (
        [&] {
          if constexpr (I % slices == slice) visit.template operator()<S>();
        }(),
        ...);
  }
  (std::make_index_sequence<sizeof...(S)>{});
}

}  // namespace legal
