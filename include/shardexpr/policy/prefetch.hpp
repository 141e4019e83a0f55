// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>
#include <shardexpr/policy/residency.hpp>
#include <shardexpr/policy/sharding.hpp>
#include <shardexpr/policy/wrap.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace shardexpr {

/// When, in the backward of a unit, the next one is gathered.
enum class GatherAhead { never, before_compute, after_compute };

/// `ahead`: when the next group is gathered in backward.
template <class P>
concept BackwardPrefetchPolicy = OnAxis<P, axis::BackwardPrefetch> && requires {
  { P::ahead } -> std::convertible_to<GatherAhead>;
};
/// `depth`: so many units ahead in forward; 0: none.
template <class P>
concept ForwardPrefetchPolicy = OnAxis<P, axis::ForwardPrefetch> && requires {
  { P::depth } -> std::convertible_to<std::size_t>;
};

/// The next group is gathered before a unit's backward is computed, and gradients are reduced while
/// the next unit computes: most overlap, two groups of parameters and two of gradients at once.
struct BackwardPre {
  using axis = axis::BackwardPrefetch;
  static constexpr GatherAhead ahead = GatherAhead::before_compute;
};
/// The next group is gathered after a unit's backward, its own being released, and before its
/// gradients are reduced: the reduction overlaps the next unit, the gather nothing.
struct BackwardPost {
  using axis = axis::BackwardPrefetch;
  static constexpr GatherAhead ahead = GatherAhead::after_compute;
};
/// A group is gathered when it is needed, after the gradients before it are reduced: least memory,
/// no overlap.
struct BackwardNone {
  using axis = axis::BackwardPrefetch;
  static constexpr GatherAhead ahead = GatherAhead::never;
};

/// In forward too, a group is gathered when it is needed.
struct ForwardNone {
  using axis = axis::ForwardPrefetch;
  static constexpr std::size_t depth = 0;
};
/// Before a unit's forward is computed, what the next `Depth` units need is gathered.
template <std::size_t Depth>
struct ForwardPrefetch {
  using axis = axis::ForwardPrefetch;
  static constexpr std::size_t depth = Depth, count = Depth;
};

namespace detail {
/// Groups are gathered and released in the course of a step.
template <class Sharding, class Wrap>
inline constexpr bool gathers_in_turn_with = Sharding::parameters && !Wrap::whole;
template <class... Ps>
inline constexpr bool pack_gathers_in_turn =
    gathers_in_turn_with<chosen<axis::Sharding, Ps...>, chosen<axis::Wrap, Ps...>>;
}  // namespace detail

template <>
struct axis_traits<axis::BackwardPrefetch> {
  template <class P>
  static constexpr bool accepts = BackwardPrefetchPolicy<P>;
  template <class... Ps>
  using standard_with =
      std::conditional_t<detail::pack_gathers_in_turn<Ps...>, BackwardPre, BackwardNone>;
};
template <>
struct axis_traits<axis::ForwardPrefetch> {
  template <class P>
  static constexpr bool accepts = ForwardPrefetchPolicy<P>;
  template <class... Ps>
  using standard_with =
      std::conditional_t<detail::pack_gathers_in_turn<Ps...> &&
                             detail::chosen<axis::PrefetchLimit, Ps...>::ahead_elements !=
                                 unlimited,
                         ForwardPrefetch<unlimited>, ForwardNone>;
};

}  // namespace shardexpr
