// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/model/spec.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <type_traits>

// A unit names its parameters and buffers as members of an aggregate of one field type. Such an
// aggregate is an array under names: here is the way from one to the other.
namespace shardexpr {

/// An aggregate of no buffers: what a unit without them has.
template <template <class> class Of, class T>
struct Nothing {};

/// A view that is only read. A class rather than an alias: nvcc 13 takes an alias of `Tensor` and
/// `Tensor` itself for one template where they are template arguments.
template <class T>
struct ConstTensor : Tensor<const T> {};

namespace detail {

template <class>
using char_of = char;

template <class Aggregate>
inline constexpr std::size_t chars_in = std::is_empty_v<Aggregate> ? 0 : sizeof(Aggregate);

/// Number of members of an aggregate template, told from its instance with char fields.
template <class Unit>
inline constexpr std::size_t member_count = chars_in<typename Unit::template Params<char>>;

template <class Field, std::size_t N, class Aggregate>
constexpr std::array<Field, N> to_array(const Aggregate& aggregate) {
  if constexpr (N == 0)
    return {};
  else
    return std::bit_cast<std::array<Field, N>>(aggregate);
}
template <class Aggregate, class Field, std::size_t N>
constexpr Aggregate from_array(const std::array<Field, N>& array) {
  if constexpr (N == 0)
    return {};
  else
    return std::bit_cast<Aggregate>(array);
}

// A buffer whose element type is forgotten; it has the layout of any BufferSpec<T>, Tensor<T>.
using AnyBuffer = BufferSpec<char>;
using AnyTensor = Tensor<char>;
static_assert(sizeof(AnyBuffer) == sizeof(BufferSpec<double>));

}  // namespace detail

/// The unit's parameters as it describes them, in order.
template <class Unit>
constexpr auto specs_of(const typename Unit::Config& config) {
  return detail::to_array<Spec, detail::member_count<Unit>>(Unit::describe(config));
}

}  // namespace shardexpr
