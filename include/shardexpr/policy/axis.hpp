// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <concepts>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace shardexpr {

/// The axes of a strategy. A policy names its own: `using axis = axis::Sharding;`.
namespace axis {
struct Sharding;
struct Reshard;
struct Offload;
struct BackwardPrefetch;
struct ForwardPrefetch;
struct Persistence;
struct LiveLimit;
struct PrefetchLimit;
struct Reuse;
struct GatherLimit;
struct Wrap;
struct Accumulation;
struct Clipping;
struct Recompute;
struct Optimizer;
struct Precision;
struct LossScale;
struct Rounding;
struct WeightCompression;
struct GradientCompression;
struct Device;
struct Communicator;
}  // namespace axis

/// What an axis asks of its policies, and which one it takes when none is given. Each axis
/// specializes it in its own header:
///   `template <class P> static constexpr bool accepts`: P answers every question of this axis;
///   `using standard`: the default policy; or `template <class... Ps> using standard_with`, where
///   it depends on the other policies of the pack.
template <class Axis>
struct axis_traits;

/// A type that says on which axis it stands.
template <class P>
concept Policy = requires {
  typename P::axis;
};

/// A policy on that axis.
template <class P, class Axis>
concept OnAxis = Policy<P> && std::same_as<typename P::axis, Axis>;

/// No bound, where a policy counts.
inline constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

namespace detail {

template <class... T>
struct list {};

template <class T, class... U>
inline constexpr bool is_one_of = (std::is_same_v<T, U> || ...);

template <class... T>
inline constexpr bool all_differ = true;
template <class T, class... U>
inline constexpr bool all_differ<T, U...> = !is_one_of<T, U...> && all_differ<U...>;

/// The first of `Ps` on `Axis`, or `Default`.
template <class Axis, class Default, class... Ps>
struct pick : std::type_identity<Default> {};
template <class Axis, class Default, class P, class... Ps>
struct pick<Axis, Default, P, Ps...>
    : std::conditional_t<OnAxis<P, Axis>, std::type_identity<P>, pick<Axis, Default, Ps...>> {};

/// The policy of a pack on `Axis`, given or default.
template <class Traits, class... Ps>
struct standard_of : std::type_identity<typename Traits::template standard_with<Ps...>> {};
template <class Traits, class... Ps>
  requires requires { typename Traits::standard; }
struct standard_of<Traits, Ps...> : std::type_identity<typename Traits::standard> {};
template <class Axis, class... Ps>
using chosen =
    typename pick<Axis, typename standard_of<axis_traits<Axis>, Ps...>::type, Ps...>::type;

template <class Axis, class... Ps>
inline constexpr std::size_t count_on = (std::size_t{0} + ... + std::size_t{OnAxis<Ps, Axis>});

}  // namespace detail
}  // namespace shardexpr
