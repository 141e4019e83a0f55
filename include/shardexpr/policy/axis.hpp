// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <concepts>
#include <cstddef>
#include <type_traits>

namespace shardexpr {

/// The axes of a strategy. A policy names its own: `using axis = axis::Sharding;`.
namespace axis {
struct Sharding;
struct Optimizer;
struct Precision;
struct Device;
struct Communicator;
}  // namespace axis

/// What an axis asks of its policies, and which one it takes when none is given. Each axis
/// specializes it in its own header:
///   `template <class P> static constexpr bool accepts`: P answers every question of this axis;
///   `using standard`: the default policy.
template <class Axis>
struct axis_traits;

/// A type that says on which axis it stands.
template <class P>
concept Policy = requires {
  typename P::axis;
};

template <class P, class Axis>
concept OnAxis = Policy<P> && std::same_as<typename P::axis, Axis>;

namespace detail {

template <class... T>
struct list {};

/// The first of `Ps` on `Axis`, or `Default`.
template <class Axis, class Default, class... Ps>
struct pick : std::type_identity<Default> {};
template <class Axis, class Default, class P, class... Ps>
struct pick<Axis, Default, P, Ps...>
    : std::conditional_t<OnAxis<P, Axis>, std::type_identity<P>, pick<Axis, Default, Ps...>> {};

template <class Axis, class... Ps>
inline constexpr std::size_t count_on = (std::size_t{0} + ... + std::size_t{OnAxis<Ps, Axis>});

}  // namespace detail
}  // namespace shardexpr
