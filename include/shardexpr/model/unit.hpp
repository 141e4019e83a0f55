// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/model/fields.hpp>

#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>

namespace shardexpr {

/// A unit that occurs `config.*Count` times in a row; what it returns, it takes.
template <class U, auto Count>
struct Repeat {
  using Unit = U;
  static constexpr bool repeats = true;
  template <class Config>
  static constexpr std::size_t count(const Config& config) {
    return static_cast<std::size_t>(config.*Count);
  }
};

/// A unit that occurs once. `Units<Embedding>` means `Units<Once<Embedding>>`.
template <class U>
struct Once {
  using Unit = U;
  static constexpr bool repeats = false;
  template <class Config>
  static constexpr std::size_t count(const Config&) {
    return 1;
  }
};

namespace detail {
template <class U>
struct as_stage : std::type_identity<Once<U>> {};
template <class U, auto Count>
struct as_stage<Repeat<U, Count>> : std::type_identity<Repeat<U, Count>> {};
template <class U>
struct as_stage<Once<U>> : std::type_identity<Once<U>> {};
}  // namespace detail

/// The model's units in the order of forward. A stage is one entry: a unit or a `Repeat` of one.
template <class... U>
struct Units {
  static constexpr std::size_t stage_count = sizeof...(U);
  using Stages = std::tuple<typename detail::as_stage<U>::type...>;
  template <std::size_t S>
  using Stage = std::tuple_element_t<S, Stages>;
  template <std::size_t S>
  using Unit = typename Stage<S>::Unit;
};

/// What the unit takes, of fields `Of<...>`.
template <class Unit, template <class> class Of, class T>
using InputOf = typename Unit::template Input<Of, T>;
/// What the unit puts out, of the same.
template <class Unit, template <class> class Of, class T>
using OutputOf = typename Unit::template Output<Of, T>;

// What a unit may leave out -----------------------------------------------------------------------

namespace detail {
template <class Unit, template <class> class Of, class T>
struct saved_of : std::type_identity<Nothing<Of, T>> {};
template <class Unit, template <class> class Of, class T>
  requires requires { typename Unit::template Saved<Of, T>; }
struct saved_of<Unit, Of, T> : std::type_identity<typename Unit::template Saved<Of, T>> {};

template <class Unit, template <class> class Of, class T>
struct scratch_of : std::type_identity<Nothing<Of, T>> {};
template <class Unit, template <class> class Of, class T>
  requires requires { typename Unit::template Scratch<Of, T>; }
struct scratch_of<Unit, Of, T> : std::type_identity<typename Unit::template Scratch<Of, T>> {};

// The buffers of each kind, described: arrays of AnyBuffer.
template <class Aggregate, class Described>
constexpr auto buffers(const Described& described) {
  return to_array<AnyBuffer, chars_in<Aggregate>>(described);
}
template <class Unit, class T>
constexpr auto output_buffers(const typename Unit::Config& config) {
  return buffers<typename Unit::template Output<char_of, T>>(Unit::template output<T>(config));
}
// What these two are depends on the device D where a unit says so: it names D, too.
template <class Unit, class T, class D>
constexpr auto saved_buffers(const typename Unit::Config& config) {
  using Aggregate = typename saved_of<Unit, char_of, T>::type;
  if constexpr (chars_in<Aggregate> == 0)
    return std::array<AnyBuffer, 0>{};
  else if constexpr (requires { Unit::template saved<T, D>(config); })
    return buffers<Aggregate>(Unit::template saved<T, D>(config));
  else
    return buffers<Aggregate>(Unit::template saved<T>(config));
}
template <class Unit, class T, class D>
constexpr auto scratch_buffers(const typename Unit::Config& config) {
  using Aggregate = typename scratch_of<Unit, char_of, T>::type;
  if constexpr (chars_in<Aggregate> == 0)
    return std::array<AnyBuffer, 0>{};
  else if constexpr (requires { Unit::template scratch<T, D>(config); })
    return buffers<Aggregate>(Unit::template scratch<T, D>(config));
  else
    return buffers<Aggregate>(Unit::template scratch<T>(config));
}
}  // namespace detail

/// What the unit keeps from forward for backward; `Nothing` if it says nothing.
template <class Unit, template <class> class Of, class T>
using SavedOf = typename detail::saved_of<Unit, Of, T>::type;
/// What the unit needs within one forward or one backward only.
template <class Unit, template <class> class Of, class T>
using ScratchOf = typename detail::scratch_of<Unit, Of, T>::type;

namespace detail {
template <class Unit>
inline constexpr bool saves_something =
    chars_in<typename saved_of<Unit, char_of, float>::type> != 0;
}  // namespace detail

/// A parameter's name in a checkpoint: the unit's prefix, `#` in it replaced by the unit's place in
/// its stage, then the name in `describe`.
template <class Unit>
std::string parameter_name(std::size_t index, const Spec& spec) {
  std::string name;
  if constexpr (requires { Unit::prefix.view(); }) {
    for (char c : Unit::prefix.view()) {
      if (c == '#')
        name += std::to_string(index);
      else
        name += c;
    }
  }
  return name.append(spec.name.view());
}

}  // namespace shardexpr
