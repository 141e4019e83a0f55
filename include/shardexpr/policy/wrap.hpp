// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <cstddef>

namespace shardexpr {

/// Which units are gathered and reduced together, as one group.
///
/// `own<Unit>`: each such unit begins a group of its own; all others make one group, the root,
/// which stays gathered from its first use in a step to its last. `least`: neighbouring groups are
/// joined until each has as many elements. `units`, where a policy has it, lists the units it
/// names.
template <class P>
concept WrapPolicy = OnAxis<P, axis::Wrap> && requires {
  { P::template own<void> } -> std::convertible_to<bool>;
  { P::whole } -> std::convertible_to<bool>;
  { P::least } -> std::convertible_to<std::size_t>;
};

/// Each of the named units is a group, wherever it stands; the rest is the root. Without names,
/// every unit is a group. FSDP's TRANSFORMER_BASED_WRAP.
template <class... Unit>
struct WrapEach {
  using axis = axis::Wrap;
  using units = detail::list<Unit...>;
  template <class U>
  static constexpr bool own = sizeof...(Unit) == 0 || detail::is_one_of<U, Unit...>;
  static constexpr bool whole = false;
  static constexpr std::size_t least = 0;
};

/// Neighbouring units are joined until a group has at least N elements; what is left at the end
/// joins the group before it. FSDP's SIZE_BASED_WRAP.
///
/// Errors:  ConfigError if that makes one group of the whole model.
template <std::size_t N>
struct WrapBySize {
  using axis = axis::Wrap;
  template <class U>
  static constexpr bool own = true;
  static constexpr bool whole = false;
  static constexpr std::size_t least = N, count = N;
};

/// The whole model is one group: gathered before the first unit, reduced after the last. FSDP's
/// NO_WRAP.
struct WrapWhole {
  using axis = axis::Wrap;
  template <class U>
  static constexpr bool own = false;
  static constexpr bool whole = true;
  static constexpr std::size_t least = 0;
};

namespace detail {
template <class P>
struct units_named : std::type_identity<list<>> {};
template <class P>
  requires requires { typename P::units; }
struct units_named<P> : std::type_identity<typename P::units> {};

template <class List>
inline constexpr bool names_differ = true;
template <class... Unit>
inline constexpr bool names_differ<list<Unit...>> = all_differ<Unit...>;
}  // namespace detail

template <>
struct axis_traits<axis::Wrap> {
  template <class P>
  static constexpr bool accepts = WrapPolicy<P>;
  using standard = WrapEach<>;
};

}  // namespace shardexpr
