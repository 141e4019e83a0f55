// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <cstddef>

// How long gathered parameters stay and how many there may be: five axes, each a number. Elements
// are of parameters, padding left out, so that a number means the same for every world size.

namespace shardexpr {

/// Parameters of fewer than `persist_below` elements stay whole.
template <class P>
concept PersistencePolicy = OnAxis<P, axis::Persistence> && requires {
  { P::persist_below } -> std::convertible_to<std::size_t>;
};
/// At most `live_elements` are gathered at once.
template <class P>
concept LiveLimitPolicy = OnAxis<P, axis::LiveLimit> && requires {
  { P::live_elements } -> std::convertible_to<std::size_t>;
};
/// At most `ahead_elements` are gathered ahead.
template <class P>
concept PrefetchLimitPolicy = OnAxis<P, axis::PrefetchLimit> && requires {
  { P::ahead_elements } -> std::convertible_to<std::size_t>;
};
/// Parameters stay gathered that are used again within `reuse_elements`.
template <class P>
concept ReusePolicy = OnAxis<P, axis::Reuse> && requires {
  { P::reuse_elements } -> std::convertible_to<std::size_t>;
};
/// At most `live_groups` are gathered at once.
template <class P>
concept GatherLimitPolicy = OnAxis<P, axis::GatherLimit> && requires {
  { P::live_groups } -> std::convertible_to<std::size_t>;
};

/// Every parameter is sharded as the sharding says.
struct PersistNone {
  using axis = axis::Persistence;
  static constexpr std::size_t persist_below = 0;
};
/// Parameters of fewer than N elements stay whole on every rank; their gradients and moments are
/// sharded like the others', and each update is published. DeepSpeed's
/// stage3_param_persistence_threshold.
template <std::size_t N>
struct PersistBelow {
  using axis = axis::Persistence;
  static constexpr std::size_t persist_below = N, count = N;
};

/// Any number of elements may be gathered at once.
struct LiveUnlimited {
  using axis = axis::LiveLimit;
  static constexpr std::size_t live_elements = unlimited;
};
/// At most N elements are gathered at once: nothing is gathered ahead, or kept for reuse, that
/// would exceed it. DeepSpeed's stage3_max_live_parameters, which bounds gathers ahead alone.
///
/// Errors:  ConfigError if one unit alone computes with more.
template <std::size_t N>
struct MaxLive {
  using axis = axis::LiveLimit;
  static constexpr std::size_t live_elements = N, count = N;
};

/// Gathers ahead are counted in units, as the prefetch policies say.
struct PrefetchUnlimited {
  using axis = axis::PrefetchLimit;
  static constexpr std::size_t ahead_elements = unlimited;
};
/// Gathers ahead are counted in elements, not in units: in both passes, as many of the units to
/// come as have N elements together. DeepSpeed's stage3_prefetch_bucket_size. A depth that is given
/// too, `ForwardPrefetch<D>`, holds as well.
///
/// Errors:  ConfigError if N holds no group of the model.
template <std::size_t N>
struct PrefetchBucket {
  using axis = axis::PrefetchLimit;
  static constexpr std::size_t ahead_elements = N, count = N;
};

/// A group is released unless the unit that is computed next uses it, too.
struct ReuseAdjacent {
  using axis = axis::Reuse;
  static constexpr std::size_t reuse_elements = 0;
};
/// A group is not released if it is used again in the same step before units of more than N
/// elements have been computed. DeepSpeed's stage3_max_reuse_distance. By default a group stays for
/// the unit that is computed next, and no longer.
template <std::size_t N>
struct ReuseWithin {
  using axis = axis::Reuse;
  static constexpr std::size_t reuse_elements = N, count = N;
};

/// Any number of groups may be gathered at once.
struct GathersUnlimited {
  using axis = axis::GatherLimit;
  static constexpr std::size_t live_groups = unlimited;
};
/// At most N groups are gathered at once. FSDP's limit_all_gathers, whose N is 2.
///
/// Errors:  ConfigError if one unit alone computes with more groups.
template <std::size_t N>
struct LimitGathers {
  using axis = axis::GatherLimit;
  static constexpr std::size_t live_groups = N, count = N;
};

template <>
struct axis_traits<axis::Persistence> {
  template <class P>
  static constexpr bool accepts = PersistencePolicy<P>;
  using standard = PersistNone;
};

template <>
struct axis_traits<axis::LiveLimit> {
  template <class P>
  static constexpr bool accepts = LiveLimitPolicy<P>;
  using standard = LiveUnlimited;
};

template <>
struct axis_traits<axis::PrefetchLimit> {
  template <class P>
  static constexpr bool accepts = PrefetchLimitPolicy<P>;
  using standard = PrefetchUnlimited;
};

template <>
struct axis_traits<axis::Reuse> {
  template <class P>
  static constexpr bool accepts = ReusePolicy<P>;
  using standard = ReuseAdjacent;
};

template <>
struct axis_traits<axis::GatherLimit> {
  template <class P>
  static constexpr bool accepts = GatherLimitPolicy<P>;
  using standard = GathersUnlimited;
};

}  // namespace shardexpr
