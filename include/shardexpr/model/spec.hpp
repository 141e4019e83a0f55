// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/tensor.hpp>
#include <shardexpr/core/type_name.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace shardexpr {

/// How a parameter starts: `mean + spread * z`, z of variance one and a function of the seed, the
/// parameter's name and the element's index alone (model/initialize.hpp).
struct Init {
  float mean = 0;
  float spread = 0;
};
/// Every element 0.
inline constexpr Init zeros{0, 0};
/// Every element 1.
inline constexpr Init ones{1, 0};
/// Normal numbers of mean 0.
constexpr Init normal(float deviation) { return {0, deviation}; }

/// A name of at most 47 characters, held inline so that descriptions are constant expressions.
struct Name {
  static constexpr std::size_t capacity = 48;
  std::array<char, capacity> text{};

  constexpr Name() = default;
  /// Refused by the compiler if it is longer than `capacity`.
  template <std::size_t N>
  constexpr Name(const char (&literal)[N]) {
    static_assert(N <= capacity, "a parameter's name has at most 47 characters");
    for (std::size_t i = 0; i < N; ++i) text[i] = literal[i];
  }
  /// The text, without what follows its end.
  constexpr std::string_view view() const {
    std::size_t n = 0;
    while (n < capacity && text[n] != 0) ++n;
    return {text.data(), n};
  }
};

/// A parameter belongs to one of so many groups, each with factors of its own for learning rate and
/// weight decay (optim/parameter_groups.hpp).
inline constexpr std::size_t max_parameter_groups = 4;
/// Of a tied parameter: the group that its owner names.
inline constexpr std::size_t owners_group = static_cast<std::size_t>(-1);

/// A parameter as its unit describes it.
struct Spec {
  Name name;  ///< without the unit's prefix, as checkpoints know it
  Shape shape;
  Init init;
  std::uint64_t tied_unit = 0;  ///< hash of the owning unit's type, 0 if this unit owns it
  bool is_frozen = false;       ///< never updated: no gradient, no optimizer state
  std::size_t group = 0;        ///< of parameters that are updated alike

  /// Whether another unit owns the parameter.
  constexpr bool is_tied() const { return tied_unit != 0; }
};

/// A parameter that `Owner`, another unit of the model, describes under `name`: one storage, one
/// gradient, used in two places. Its shape is the owner's, and so is its group.
template <class Owner, std::size_t N>
constexpr Spec tied(const char (&name)[N]) {
  return {.name = name,
          .shape = {},
          .init = {},
          .tied_unit = type_hash<Owner>,
          .is_frozen = false,
          .group = owners_group};
}

/// A parameter that training leaves as it is:
///   `.weight = frozen({"weight", shape(c.in, c.out), normal(0.02f)})`
/// Its field of `dw` in backward is empty (`data == nullptr`); the unit does not compute it. What
/// is tied to a frozen parameter is frozen.
constexpr Spec frozen(Spec spec) {
  spec.is_frozen = true;
  return spec;
}

/// A parameter of group `group`, below `max_parameter_groups`: trainers have a learning rate factor
/// and a weight decay factor for each (`Options::groups`). Within a unit, those of one group lie
/// together.
///   `.table = in_group(2, {"table", shape(c.rows, c.embed), normal(0.02f)})`
constexpr Spec in_group(std::size_t group, Spec spec) {
  spec.group = group;
  return spec;
}
/// A parameter of group 1, whose weight decay factor is 0 unless `Options::groups` says otherwise:
/// biases and norms, say.
///   `.bias = without_decay({"bias", shape(c.out), zeros})`
constexpr Spec without_decay(Spec spec) { return in_group(1, spec); }

/// A buffer of `T` as a unit describes it: what flows between units, what a unit saves for
/// backward, its scratch.
template <class T>
struct BufferSpec {
  Shape shape;
  std::size_t element_bytes = sizeof(T);

  constexpr BufferSpec() = default;
  /// A buffer of elements of `T`.
  constexpr BufferSpec(Shape s) : shape{s} {}
  /// The same, by its extents.
  template <class... Extent>
  constexpr explicit BufferSpec(Extent... extent) requires(
      sizeof...(Extent) > 0 && (std::is_convertible_v<Extent, std::size_t> && ...))
      : shape{shardexpr::shape(extent...)} {}
};

}  // namespace shardexpr
