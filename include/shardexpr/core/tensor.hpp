// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace shardexpr {

/// Extents of a tensor, row-major, at most four of them. `Shape{}` is a scalar: one element.
struct Shape {
  static constexpr std::size_t max_rank = 4;

  std::array<std::size_t, max_rank> extent{};
  std::size_t rank = 0;

  /// The extent of an axis.
  constexpr std::size_t operator[](std::size_t axis) const { return extent[axis]; }
  constexpr std::size_t count() const {
    std::size_t n = 1;
    for (std::size_t i = 0; i < rank; ++i) n *= extent[i];
    return n;
  }
  friend constexpr bool operator==(const Shape&, const Shape&) = default;
};

/// Writes a shape as its extents: `shape(batch, context, embed)`.
template <class... Extent>
constexpr Shape shape(Extent... extent) {
  static_assert(sizeof...(Extent) <= Shape::max_rank, "a shape has at most four extents");
  return {{static_cast<std::size_t>(extent)...}, sizeof...(Extent)};
}

/// A view of `shape.count()` elements that somebody else owns. Passed by value.
template <class T>
struct Tensor {
  T* data = nullptr;
  Shape shape;

  /// The i-th element, in row-major order.
  constexpr T& operator[](std::size_t i) const { return data[i]; }
  constexpr std::size_t count() const { return shape.count(); }
  constexpr std::size_t size_bytes() const { return count() * sizeof(T); }
  constexpr std::span<T> span() const { return {data, count()}; }

  /// What may be written may be read.
  template <class U>
    requires(!std::is_const_v<T> && std::is_same_v<U, const T>)
  constexpr operator Tensor<U>() const { return {data, shape}; }
};

}  // namespace shardexpr
