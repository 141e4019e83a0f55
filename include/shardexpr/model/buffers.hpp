// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/model/unit.hpp>

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

// What a unit keeps that is not trained: running statistics, tables. PyTorch's buffers. They are
// whole on every rank, each rank's its own, in the precision's `buffers` dtype. A unit that has
// some names them as it does its parameters:
//
//   template <class T>
//   struct Buffers { T mean; };
//   static constexpr Buffers<Spec> describe_buffers(const Config& c) {
//     return {.mean = {"running_mean", shape(c.width), zeros}};
//   }
namespace shardexpr {

/// The buffers of a unit that has none.
struct NoBuffers {};

namespace detail {

template <class Unit>
inline constexpr bool has_buffers = false;
template <class Unit>
  requires requires { typename Unit::template Buffers<char>; }
inline constexpr bool has_buffers<Unit> = true;

template <class Unit, class Field>
struct buffers_of : std::type_identity<NoBuffers> {};
template <class Unit, class Field>
  requires has_buffers<Unit>
struct buffers_of<Unit, Field> : std::type_identity<typename Unit::template Buffers<Field>> {
};

/// The unit's buffers as it describes them, in order.
template <class Unit>
constexpr auto buffer_specs_of(const typename Unit::Config& config) {
  if constexpr (has_buffers<Unit>)
    return to_array<Spec, chars_in<typename Unit::template Buffers<char>>>(
        Unit::describe_buffers(config));
  else
    return std::array<Spec, 0>{};
}

template <class Model>
consteval bool model_has_buffers() {
  return []<std::size_t... S>(std::index_sequence<S...>) {
    return (has_buffers<typename Model::Units::template Unit<S>> || ...);
  }
  (std::make_index_sequence<Model::Units::stage_count>{});
}
/// Of all units, each buffer rounded up to blocks.
template <class Model>
constexpr std::size_t buffer_elements(const typename Model::Config& config) {
  std::size_t n = 0;
  [&]<std::size_t... S>(std::index_sequence<S...>) {
    (
        [&] {
          for (const Spec& spec : buffer_specs_of<typename Model::Units::template Unit<S>>(config))
            n += Model::Units::template Stage<S>::count(config) *
                 round_up(spec.shape.count(), block_elements);
        }(),
        ...);
  }
  (std::make_index_sequence<Model::Units::stage_count>{});
  return n;
}

}  // namespace detail

/// A unit's buffers as fields `Field`.
template <class Unit, class Field>
using BuffersOf = typename detail::buffers_of<Unit, Field>::type;

}  // namespace shardexpr
