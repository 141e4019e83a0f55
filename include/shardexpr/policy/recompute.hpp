// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>

namespace shardexpr {

/// Which units' saved activations are rebuilt in backward, by a second forward, instead of kept.
/// `units`, where a policy has it, lists the units it names.
template <class P>
concept RecomputePolicy = OnAxis<P, axis::Recompute> && requires {
  { P::template rebuilds<void> } -> std::convertible_to<bool>;
};

/// What units save in forward is kept until their backward.
struct RecomputeNone {
  using axis = axis::Recompute;
  template <class U>
  static constexpr bool rebuilds = false;
};

/// Activation checkpointing of the named units; without names, of every unit that saves something.
/// What flows between units is kept.
///
/// Cost:    a second forward of these units; they share what the largest of them saves.
/// Source:  Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
template <class... Unit>
struct Recompute {
  using axis = axis::Recompute;
  using units = detail::list<Unit...>;
  template <class U>
  static constexpr bool rebuilds = sizeof...(Unit) == 0 || detail::is_one_of<U, Unit...>;
};

template <>
struct axis_traits<axis::Recompute> {
  template <class P>
  static constexpr bool accepts = RecomputePolicy<P>;
  using standard = RecomputeNone;
};

}  // namespace shardexpr
